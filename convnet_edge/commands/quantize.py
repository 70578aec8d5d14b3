"""`quantize`: float ONNX → int8 behind a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..quantizing.options import QuantizeOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..quantizing import quantize as stage

EXAMPLES = "Example: convnet-edge quantize exported/convnet.onnx --layout ort-cpu"


def command(options: QuantizeOptions, terminal: Terminal) -> Done[stage.QuantizeResult]:
    """Make an int8 model, gated on accuracy; written only if the gate holds."""
    from ..quantizing import quantize as stage

    with terminal.progress() as bar:
        result = stage.quantize(options, bar.step)
    kept = f" (kept float: {', '.join(result.float_layers)})" if result.float_layers else ""
    terminal.say(
        f"Quantised {result.source_path}, layout {options.layout}",
        *(check.line() for check in result.checks),
        f"Layers that onnxruntime runs here: {result.n_integer} integer, {result.n_float} float"
        f"{kept}",
        f"Test images, once: {result.score.summary()}; float {result.float_score.accuracy:.2%}; "
        f"difference {'not ' if result.p_value > 0.05 else ''}shown (exact McNemar p = "
        f"{result.p_value:.2g})",
        *(speed.line() for speed in result.speeds),
        result.recommendation(),
        f"{result.n_bytes:,} bytes, sha256 {result.sha256[:16]}…",
    )
    terminal.wrote((result.model_path, result.report_path))
    return Done(result, result.report, f"convnet-edge bench {result.model_path}")
