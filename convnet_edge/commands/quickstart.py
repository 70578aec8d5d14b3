"""`quickstart`: the whole chain on the embedded data."""

from __future__ import annotations

from pathlib import Path

from ..bundling.options import BundleOptions
from ..exporting.options import ExportOptions, VerifyOptions
from ..quantizing.options import QuantizeOptions
from ..reporting.options import ReportOptions
from ..runtime.measure.options import BenchOptions
from ..training.options import TrainOptions
from . import bench, bundle, export, quantize, report, train, verify
from .terminal import Done, Terminal

OUT_DIR = Path("runs/quickstart")
EPOCHS = 3


def command(terminal: Terminal) -> Done[None]:
    """Run the whole chain on the embedded data, from training to the file for a device."""
    from ..drawing.pictures import INSTALL

    checkpoint, model = OUT_DIR / "convnet.safetensors", OUT_DIR / "convnet.onnx"
    models = (model, OUT_DIR / "convnet.int8.onnx")
    train_options = TrainOptions(data="sample", epochs=EPOCHS, out=checkpoint)
    trained = train.command(train_options, terminal).result
    exported = export.command(ExportOptions(checkpoint=checkpoint, out=model), terminal).result
    proof = OUT_DIR / "convnet.verify.json"
    verify.command(VerifyOptions(model=model, against=checkpoint, out=proof), terminal).judge()
    quantize.command(QuantizeOptions(model=model, data="sample", out=models[1]), terminal)
    bench_options = BenchOptions(models=models, quick=True, out=OUT_DIR / "bench")
    measured = bench.command(bench_options, terminal).result
    results = tuple(found.result_path for found in measured)
    report_options = ReportOptions(results=results, out=OUT_DIR / "report.html")
    reported = report.command(report_options, terminal).result
    bundle_options = BundleOptions(models=models, out=OUT_DIR / "convnet.pyz")
    bundled = bundle.command(bundle_options, terminal).result
    pictures = (
        *([trained.picture] if trained else []),
        exported.picture,
        *(picture for found in measured for picture in found.pictures),
        *reported.pictures,
    )
    terminal.say(
        "\nPictures to look at:",
        *(f"  {'' if picture.drawn else 'left out: '}{picture.path}" for picture in pictures),
    )
    if not all(picture.drawn for picture in pictures):
        terminal.say(f"  ({INSTALL} draws them)")
    terminal.say(
        f"A page to open in a browser: {reported.html_path}",
        f"A file to copy to a device: {bundled}   (python3 {bundled} selftest)",
    )
    return Done(
        None, next_command="convnet-edge train   (the full data, then: convnet-edge export)"
    )
