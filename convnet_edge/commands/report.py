"""`report` and `compare`: many machines' results on one page; an A/B gate on two models."""

from ..reporting.options import CompareOptions, ReportOptions
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
    terminal.finish(document, *(("convnet-edge", "bundle", *models) if models else ()))


def compare(options: CompareOptions, terminal: Terminal) -> None:
    """Tell whether NEW is slower than BASE: exit 0 if not, 1 if so, 3 if nobody can tell.

    The two models are measured here, in fresh processes that take turns.

    Examples: convnet-edge compare exported/fashion-mnist.onnx
    exported/fashion-mnist.int8-ort.onnx --max-slowdown 0% · convnet-edge compare last.onnx
    this.onnx --max-drop 0.5 --max-p99-ms 2
    """
    from ..reporting import compare as stage

    with terminal.progress():
        terminal.step("fresh processes, in turn")
        found = stage.compare(options, terminal.share)
    sides = (("BASE", options.base, found.base_p50_ms), ("NEW", options.new, found.new_p50_ms))
    for (name, path, medians), proof in zip(sides, found.proofs, strict=True):
        spread = f"{min(medians):.4f} to {max(medians):.4f} ms"
        said = f" ({proof})" if proof else ""
        terminal.say(f"{name:>4} {path}{said}: p50 of {len(medians)} fresh processes {spread}")
    terminal.say(*(gate.line() for gate in found.gates))
    terminal.finish(found.as_json())
    stage.require_gates(found)
