"""`report`: many machines' results on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..reporting.options import ReportOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..reporting import report as stage

EXAMPLES = "Example: convnet-edge report pi4.json jetson.json laptop.json --out r.html"


def command(options: ReportOptions, terminal: Terminal) -> Done[stage.ReportResult]:
    """Make one table, pictures and a page that opens anywhere, from many machines' results."""
    from ..reporting import report as stage

    made = stage.report(options)
    terminal.say(made.markdown)
    for warning in made.warnings:
        terminal.note(f"warning: {warning}")
    terminal.wrote((made.html_path, made.markdown_path), made.pictures)
    document = {
        "html": str(made.html_path),
        "markdown": str(made.markdown_path),
        "pictures": [str(picture.path) for picture in made.pictures if picture.drawn],
        "warnings": list(made.warnings),
    }
    return Done(made, document)
