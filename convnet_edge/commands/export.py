"""`export`: checkpoint → proved ONNX."""

from ..exporting.options import ExportOptions
from ..sealing.default_model import to_name
from .terminal import Terminal


def command(options: ExportOptions, terminal: Terminal) -> None:
    """Export to one ONNX file and prove it equal to PyTorch; written only if the proof holds.

    Example: convnet-edge export checkpoints/convnet.safetensors
    """
    from ..exporting.export import export
    from ..runtime.measure.tables import accuracy_text

    with terminal.progress():
        result = export(options, terminal.step)
    report, found = result.report, result.report.comparison
    terminal.detail(f"Exported {options.checkpoint}", f"{result.n_parameters:,} parameters")
    terminal.checks(report.checks)
    n_as_before, n_images = found.n_agreeing_labels, found.n_images
    of_all = f" of {n_images:,}" * (n_as_before < n_images)
    sample = f", a sample of the {found.n_all:,}" if found.n_all else ""
    terminal.answer(
        f"{result.model_path.name}: {report.model_bytes:,} bytes, opset {result.opset}, accuracy "
        f"{accuracy_text(result.score)}",
        f"  labels as PyTorch's on {n_as_before:,}{of_all} images{sample}; largest error "
        f"{found.max_error:.2g}, allowed {report.tolerance:.2g}",
    )
    terminal.say(f"  {len(report.checks)} checks hold", f"  sha256 {report.model_sha256}")
    terminal.detail(*found.summary())
    terminal.wrote((result.model_path, result.report_path), (result.picture,))
    terminal.finish(report, "convnet-edge", "verify", *to_name(result.model_path))
