"""`quantize`: float ONNX → int8 behind a gate."""

from ..quantizing.options import QuantizeOptions
from .terminal import Terminal


def command(options: QuantizeOptions, terminal: Terminal) -> None:
    """Make an int8 model, gated on accuracy; written only if the gate holds.

    Example: convnet-edge quantize exported/convnet.onnx --layout ort-cpu
    """
    from ..quantizing.quantize import quantize

    with terminal.progress():
        result = quantize(options, terminal.step)
    report, layers, test = result.report, result.report.layers, result.report.test
    kept = f" (kept float: {', '.join(layers.kept_float)})" if layers.kept_float else ""
    terminal.say(
        f"Quantised {report.source}, layout {report.layout}",
        *(check.line() for check in report.checks),
        f"Layers that onnxruntime runs here: {layers.integer} integer, {layers.float} float{kept}",
        f"Test images, once: {result.score.summary()}; float {test.float_accuracy:.2%}; "
        f"difference {'not ' if test.mcnemar_p > 0.05 else ''}shown (exact McNemar p = "
        f"{test.mcnemar_p:.2g})",
        *(speed.line() for speed in report.speed),
        report.recommendation,
        f"{report.model_bytes:,} bytes, sha256 {report.model_sha256[:16]}…",
    )
    terminal.wrote((result.model_path, result.report_path))
    terminal.finish(report, f"convnet-edge bench {result.model_path}")
