"""`quantize`: float ONNX → int8 behind a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..quantizing.options import QuantizeOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..quantizing.quantize import QuantizeResult

EXAMPLES = "Example: convnet-edge quantize exported/convnet.onnx --layout ort-cpu"


def command(options: QuantizeOptions, terminal: Terminal) -> Done[QuantizeResult]:
    """Make an int8 model, gated on accuracy; written only if the gate holds."""
    from ..quantizing.quantize import quantize

    with terminal.progress() as bar:
        result = quantize(options, bar.step)
    terminal.say(*result.lines())
    terminal.wrote((result.model_path, result.report_path))
    return Done(result, result.report, f"convnet-edge bench {result.model_path}")
