"""`report`: many machines' results on one page."""

from ..reporting.options import ReportOptions
from ..sealing.default_model import EXPORTED_DIR
from .terminal import Terminal


def command(options: ReportOptions, terminal: Terminal) -> None:
    """Make one table, pictures and a page that opens anywhere, from many machines' results.

    Example: convnet-edge report pi4.json jetson.json laptop.json --out r.html
    """
    from ..reporting.report import report

    made = report(options)
    terminal.answer(made.summary[0])
    terminal.say(*(made.details if terminal.verbose else made.summary[1:]))
    terminal.note(*(f"warning: {warning}" for warning in made.warnings))
    terminal.wrote((made.html_path, made.markdown_path), made.pictures)
    document = {
        "html": str(made.html_path),
        "markdown": str(made.markdown_path),
        "pictures": [str(picture.path) for picture in made.pictures if picture.drawn],
        "warnings": list(made.warnings),
    }
    models = [path for name in made.models if (path := EXPORTED_DIR / name).is_file()]
    terminal.finish(document, "convnet-edge", "bundle", *models)
