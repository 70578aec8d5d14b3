"""`quickstart`: the whole chain on the embedded data."""

from pathlib import Path
from typing import Any

from ..bundling.options import BundleOptions
from ..exporting.options import ExportOptions
from ..quantizing.options import QuantizeOptions
from ..reporting.options import ReportOptions
from ..training.options import TrainOptions
from . import bench, bundle, export, quantize, report, train, verify
from .terminal import Terminal

OUT_DIR = Path("runs/quickstart")


def command(terminal: Terminal) -> None:
    """Run the whole chain on the embedded data, from training to the file for a device."""
    terminal.chained = True
    checkpoint, model = OUT_DIR / "convnet.safetensors", OUT_DIR / "convnet.onnx"
    small, proof = model.with_suffix(".int8.onnx"), model.with_suffix(".verify.json")
    page, archive = OUT_DIR / "report.html", OUT_DIR / "convnet.pyz"
    measured = bench.BenchOptions(models=(model, small), quick=True, out=OUT_DIR / "bench")
    results = tuple(map(measured.result_path, measured.models))
    stages: tuple[tuple[str, Any, Any], ...] = (
        ("train the convnet", train, TrainOptions(data="sample", epochs=3, out=checkpoint)),
        ("export it to ONNX", export, ExportOptions(checkpoint=checkpoint, out=model)),
        ("verify it here", verify, verify.WhereOptions(model=model, against=checkpoint, out=proof)),
        ("quantize it to int8", quantize, QuantizeOptions(model=model, data="sample", out=small)),
        ("bench both", bench, measured),
        ("report what was measured", report, ReportOptions(results=results, out=page)),
        ("bundle both for a device", bundle, BundleOptions(models=(model, small), out=archive)),
    )
    terminal.answer("About two minutes on two cores.")
    for number, (what, verb, options) in enumerate(stages, start=1):
        terminal.heading(f"{number}/{len(stages)} {what}")
        verb.command(options, terminal)
    terminal.heading(f"All is in {OUT_DIR}")
    terminal.answer(
        f"open in a browser: {page}; pictures lie beside it",
        f"copy to a device: {archive}, then python3 {archive.name} selftest",
        "next: convnet-edge train   (the full data; then: convnet-edge export)",
    )
