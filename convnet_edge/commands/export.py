"""`export`: checkpoint → proved ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exporting.options import ExportOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..exporting.export import ExportResult

EXAMPLES = "Example: convnet-edge export checkpoints/convnet.safetensors"


def command(options: ExportOptions, terminal: Terminal) -> Done[ExportResult]:
    """Export to one ONNX file and prove it equal to PyTorch; written only if the proof holds."""
    from ..exporting.export import export

    terminal.say(f"Exporting {options.checkpoint}")
    with terminal.progress() as bar:
        result = export(options, bar.step)
    terminal.say(*result.lines())
    terminal.wrote((result.model_path, result.report_path), (result.picture,))
    return Done(result, result.report, f"convnet-edge bench {result.model_path}")
