"""`quickstart`: the whole chain on the embedded data."""

from pathlib import Path

from ..bundling.options import BundleOptions
from ..exporting.options import ExportOptions, VerifyOptions
from ..quantizing.options import QuantizeOptions
from ..reporting.options import ReportOptions
from ..runtime.measure.options import BenchOptions
from ..training.options import TrainOptions
from . import bench, bundle, export, quantize, report, train, verify
from .terminal import Terminal

OUT_DIR = Path("runs/quickstart")


def command(terminal: Terminal) -> None:
    """Run the whole chain on the embedded data, from training to the file for a device."""
    terminal.chained = True
    checkpoint, model = OUT_DIR / "convnet.safetensors", OUT_DIR / "convnet.onnx"
    page, archive = OUT_DIR / "report.html", OUT_DIR / "convnet.pyz"
    models = (model, OUT_DIR / "convnet.int8.onnx")
    train.command(TrainOptions(data="sample", epochs=3, out=checkpoint), terminal)
    export.command(ExportOptions(checkpoint=checkpoint, out=model), terminal)
    proof = OUT_DIR / "convnet.verify.json"
    verify.command(VerifyOptions(model=model, against=checkpoint, out=proof), terminal)
    quantize.command(QuantizeOptions(model=model, data="sample", out=models[1]), terminal)
    measured = BenchOptions(models=models, quick=True, out=OUT_DIR / "bench")
    bench.command(measured, terminal)
    results = tuple(map(measured.result_path, models))
    report.command(ReportOptions(results=results, out=page), terminal)
    bundle.command(BundleOptions(models=models, out=archive), terminal)
    terminal.say(
        "\nPictures to look at:",
        *(f"  {'' if one.drawn else 'left out: '}{one.path}" for one in terminal.pictures),
        f"A page to open in a browser: {page}",
        f"A file to copy to a device: {archive}   (python3 {archive} selftest)",
        "next: convnet-edge train   (the full data, then: convnet-edge export)",
    )
