"""`export`: checkpoint → proved ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exporting.options import ExportOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..exporting import export as stage

EXAMPLES = "Example: convnet-edge export checkpoints/convnet.safetensors"


def command(options: ExportOptions, terminal: Terminal) -> Done[stage.ExportResult]:
    """Export to one ONNX file and prove it equal to PyTorch; written only if the proof holds."""
    from ..exporting import export as stage

    terminal.say(f"Exporting {options.checkpoint}")
    with terminal.progress() as bar:
        result = stage.export(options, bar.step)
    report = result.report
    terminal.say(
        *(check.line() for check in report.checks),
        report.comparison.summary(),
        f"{result.n_parameters:,} parameters, {report.model_bytes:,} bytes, sha256 "
        f"{report.model_sha256[:16]}…; test accuracy of the file {result.score.summary()}",
    )
    terminal.wrote((result.model_path, result.report_path), (result.picture,))
    return Done(result, report, f"convnet-edge bench {result.model_path}")
