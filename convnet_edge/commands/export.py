"""`export` and `adopt`: checkpoint → proved ONNX; an .onnx from elsewhere → a sealed copy."""

from ..exporting.options import AdoptOptions, ExportOptions
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
    if result.note:
        terminal.note(f"warning: {result.note}")
    terminal.detail(*found.summary())
    terminal.wrote((result.model_path, result.report_path), (result.picture,))
    terminal.finish(report, "convnet-edge", "verify", *to_name(result.model_path))


def adopt(options: AdoptOptions, terminal: Terminal) -> None:
    """Seal an .onnx that another exporter wrote; the copy is written only if every check holds.

    It takes mean and deviation into its graph, describes itself, and travels with reference
    outputs: of ONNX's reference evaluator in float64, and of onnxruntime with its optimisations
    off. No PyTorch network is there to compare with, and the file says so.

    The files that are named: classes.txt, one name a line in the order of the outputs;
    preprocessing.json, such as {"size": [224, 224], "share": 0.875, "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225]}, in units of [0, 1].

    Example: convnet-edge adopt theirs.onnx --data photos/ --classes classes.txt --preprocessing
    preprocessing.json
    """
    from ..exporting import adopt as stage
    from ..runtime.measure.tables import accuracy_text

    with terminal.progress():
        result = stage.adopt(options, terminal.step, terminal.note)
    report = result.report
    terminal.detail(f"Adopted {options.model}", *report.changes)
    for check in report.checks:
        (terminal.say if check.skipped else terminal.detail)(check.line())
    terminal.answer(
        f"{result.model_path.name}: {report.model_bytes:,} bytes, accuracy "
        f"{accuracy_text(report.accuracy)} of {report.accuracy.n:,} pictures",
        f"  adopted: {report.proof}",
    )
    terminal.say(
        "  if its maker measured more, then --classes or --preprocessing is not as in its training",
        f"  {sum(check.passed for check in report.checks)} checks hold; {report.n_evaluated} of "
        f"{report.n_goldens} reference outputs by the reference evaluator",
        f"  sha256 {report.model_sha256}",
    )
    terminal.wrote((result.model_path, result.report_path))
    terminal.finish(report, "convnet-edge", "verify", *to_name(result.model_path))
