"""`export`: checkpoint → proved ONNX."""

from ..exporting.options import ExportOptions
from .terminal import Terminal


def command(options: ExportOptions, terminal: Terminal) -> None:
    """Export to one ONNX file and prove it equal to PyTorch; written only if the proof holds.

    Example: convnet-edge export checkpoints/convnet.safetensors
    """
    from ..exporting.export import export

    terminal.say(f"Exporting {options.checkpoint}")
    with terminal.progress():
        result = export(options, terminal.step)
    report = result.report
    terminal.say(
        *(check.line() for check in report.checks),
        report.comparison.summary(),
        f"{result.n_parameters:,} parameters, {report.model_bytes:,} bytes, sha256 "
        f"{report.model_sha256[:16]}…; test accuracy of the file {result.score.summary()}",
    )
    terminal.wrote((result.model_path, result.report_path), (result.picture,))
    terminal.finish(report, f"convnet-edge bench {result.model_path}")
