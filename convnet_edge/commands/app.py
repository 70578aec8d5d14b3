"""The command line: parse, build a frozen config, make one library call, print.

Heavy modules are imported inside the commands, so that `--help` answers at once. All errors that
are the user's to mend end at one boundary, `_Group.invoke`; anything else keeps its traceback.
"""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from .. import __version__
from ..bundling.options import BundleOptions, ServeOptions
from ..exporting.options import Amp, Exporter, ExportOptions, InputType, Target, VerifyOptions
from ..predicting.options import PredictOptions
from ..quantizing.options import Layout, QuantizeOptions
from ..reporting.options import CompareOptions, ReportOptions
from ..runtime.errors import CheckFailedError, EdgeError, InputError
from ..runtime.files import print_any_letter
from ..runtime.measure.options import BenchOptions
from ..sealing.default_model import QUICKSTART_DIR
from ..training.options import DataSet, Device, TrainOptions
from ..training.recipes import RecipeName

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ..bundling import pyz as bundle_stage
    from ..drawing import pictures as plots
    from ..exporting import export as export_stage
    from ..exporting import verify as verify_stage
    from ..predicting import predict as predict_stage
    from ..quantizing import quantize as quantize_stage
    from ..reporting import report as report_stage
    from ..training import loop as train_stage
    from . import bench as bench_stage

PACKAGES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "safetensors", "numpy", "pillow", "matplotlib", "typer",
)  # fmt: skip
HOST_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")
QUICKSTART_EPOCHS = 3


class _Group(TyperGroup):
    """The error boundary: a known error becomes one line on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeError as error:
            if _speaks():
                for line in error.details:
                    typer.echo(line, err=True)
                typer.echo(f"convnet-edge{_rank_name()}: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            if _speaks():
                typer.echo(f"convnet-edge{_rank_name()}: interrupted", err=True)
            raise typer.Exit(130) from error
        except ModuleNotFoundError as error:
            if error.name not in HOST_PACKAGES:
                raise
            missing = InputError(
                f"{error.name} is not installed",
                expected="the host side of convnet-edge for this command",
                next_step='pip install "convnet-edge[train,cpu]"',
            )
            typer.echo(f"convnet-edge: {missing}", err=True)
            raise typer.Exit(missing.exit_code) from error


app = typer.Typer(
    name="convnet-edge",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Take an image classifier from PyTorch to an edge device, with proof at every step.\n\n"
    "[bold]train → export → verify → quantize → bench → report → bundle[/bold]; each works "
    "without arguments, each ends with the next command to copy.",
    epilog="Exit codes: 0 done and proved · 1 a check failed · 2 wrong usage, or something "
    "missing or unreadable · 3 `compare` cannot tell · 130 interrupted.",
)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")
]
ModelArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[MODEL]",
        help="The .onnx file. Default: exported/convnet.onnx if it exists, else the shipped one.",
        show_default=False,
    ),
]
ModelsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="The .onnx files, the main one first. Default: exported/convnet.onnx if it exists, "
        "else the shipped one.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="The .onnx file. Default: exported/convnet.onnx if it exists, else the shipped one.",
        show_default=False,
    ),
]
ProviderOption = Annotated[
    str,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="onnxruntime's provider: cpu, cuda, openvino, or another that it knows (untested). "
        "Opened, or an error; never replaced.",
        autocompletion=lambda: ["cpu", "cuda", "openvino"],
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Which test images the grid shows.")]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Report file. Default: exported/NAME.verify.json", show_default=False
    ),
]


def _rank() -> int:
    """Return this process's rank among those that torchrun started, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def _rank_name() -> str:
    return f" (process {_rank()})" if _rank() else ""


def _speaks() -> bool:
    """Return whether this process reports errors: one on each machine does."""
    return _rank() == 0 or os.environ.get("LOCAL_RANK") == "0"


def main() -> None:
    """Run the command line (entry point of `convnet-edge` and of cli.py)."""
    print_any_letter()
    app(prog_name="convnet-edge")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    typer.echo(f"convnet-edge {__version__}\npython {sys.version.split()[0]}")
    for package in PACKAGES:
        try:
            typer.echo(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{package} not installed")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print every version that matters.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Take options that hold for no single command."""


@app.command(
    epilog="Examples: convnet-edge train --data sample --epochs 3 · convnet-edge train --recipe "
    "best --validate 5000 · torchrun --nproc-per-node 2 cli.py train"
)
def train(
    recipe: Annotated[
        RecipeName,
        typer.Option(
            help="seed: the tutorial's, 10 epochs. fast: its accuracy in 2 epochs. "
            "best: the highest accuracy, 30 epochs."
        ),
    ] = TrainOptions.recipe,
    data: Annotated[
        DataSet,
        typer.Option(help="Training images; `sample` is the 10,000 that come with the program."),
    ] = TrainOptions.data,
    data_dir: Annotated[
        Path, typer.Option(help="Searched first for IDX files; downloads go here.")
    ] = TrainOptions.data_dir,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the images. Default: the recipe's.", show_default=False),
    ] = TrainOptions.epochs,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's. Default: the recipe's.", show_default=False)
    ] = TrainOptions.learning_rate,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images a step, over all processes. Default: the recipe's.", show_default=False
        ),
    ] = TrainOptions.batch_size,
    kernel_size: Annotated[
        int, typer.Option(help="Of both convolutions, in pixels.")
    ] = TrainOptions.kernel_size,
    width: Annotated[
        float, typer.Option(help="Of every layer; 0.5 is 16-32-64, a quarter of the work.")
    ] = TrainOptions.width,
    validate: Annotated[
        int, typer.Option(help="Training images to hold out and score after each epoch.")
    ] = TrainOptions.validate,
    seed: Annotated[
        int, typer.Option(help="Repeats a CPU run bit for bit (same thread count).")
    ] = TrainOptions.seed,
    device: Annotated[Device, typer.Option(help="auto: cuda, else mps, else cpu.")] = (
        TrainOptions.device
    ),
    amp: Annotated[
        Amp, typer.Option(help="bf16: convolutions and linear layers in bfloat16.")
    ] = TrainOptions.amp,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let CUDA multiply in TF32.")
    ] = TrainOptions.tf32,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last complete epoch.")
    ] = TrainOptions.resume,
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")] = TrainOptions.out,
    json: JsonOption = False,
) -> None:
    """Train the convnet on Fashion-MNIST; the defaults are the seed's recipe."""
    config = TrainOptions(
        data=data,
        data_dir=data_dir,
        recipe=recipe,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        kernel_size=kernel_size,
        width=width,
        validate=validate,
        seed=seed,
        device=device,
        amp=amp,
        tf32=tf32,
        resume=resume,
        out=out,
    )
    documents: list[dict[str, Any]] = []
    result = _train(config, _console(json), documents.append)
    if result is not None:
        documents.append(result.record)
    if documents:  # none in a process that does not lead
        _finish(documents[0] if json else None, next_command=_after("export", config.out))


@app.command(epilog="Example: convnet-edge export checkpoints/convnet.safetensors")
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="[CHECKPOINT]", help="What `train` wrote.")
    ] = ExportOptions.checkpoint,
    input_type: Annotated[
        InputType,
        typer.Option("--input", help="float32: pixels in [0, 1]; uint8: grey values, as stored."),
    ] = ExportOptions.input,
    exporter: Annotated[
        Exporter, typer.Option(help="torch's default exporter, or its older one.")
    ] = ExportOptions.exporter,
    out: Annotated[
        Path | None,
        typer.Option(help="Model file. Default: exported/NAME.onnx", show_default=False),
    ] = ExportOptions.out,
    json: JsonOption = False,
) -> None:
    """Export to one ONNX file and prove it equal to PyTorch; written only if the proof holds."""
    config = ExportOptions(checkpoint=checkpoint, input=input_type, exporter=exporter, out=out)
    result = _export(config, _console(json))
    _finish(result.report if json else None, next_command=_after("bench", config.out_path))


@app.command(epilog="Example: convnet-edge quantize exported/convnet.onnx --layout ort-cpu")
def quantize(
    model: ModelArgument = None,
    data: Annotated[
        DataSet, typer.Option(help="Training images that give ranges and the gate.")
    ] = QuantizeOptions.data,
    data_dir: Annotated[
        Path, typer.Option(help="Searched first for IDX files; downloads go here.")
    ] = QuantizeOptions.data_dir,
    layout: Annotated[
        Layout,
        typer.Option(help="portable: any runtime. ort-cpu: onnxruntime's CPU provider, faster."),
    ] = QuantizeOptions.layout,
    max_drop: Annotated[
        float, typer.Option(help="Points of accuracy that may be lost at most (95 % bound).")
    ] = QuantizeOptions.max_drop,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Model file. Default: exported/NAME.int8.onnx or NAME.int8-ort.onnx",
            show_default=False,
        ),
    ] = QuantizeOptions.out,
    json: JsonOption = False,
) -> None:
    """Make an int8 model, gated on accuracy; written only if the gate holds."""
    config = QuantizeOptions(
        model=model, data=data, data_dir=data_dir, layout=layout, max_drop=max_drop, out=out
    )
    result = _quantize(config, _console(json))
    _finish(result.report if json else None, next_command=_after("bench", result.model_path))


@app.command(epilog="Example: convnet-edge verify exported/convnet.onnx --against "
             "checkpoints/convnet.safetensors")  # fmt: skip
def verify(
    model: ModelArgument = None,
    provider: ProviderOption = VerifyOptions.provider,
    against: Annotated[
        Path | None,
        typer.Option(help="A checkpoint or another model: compare all 10,000 test images."),
    ] = VerifyOptions.against,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let CUDA multiply in TF32; judged by labels.")
    ] = VerifyOptions.tf32,
    out: ReportOption = VerifyOptions.out,
    json: JsonOption = False,
) -> None:
    """Prove a model file on this machine: digests, golden vectors, preprocessing."""
    config = VerifyOptions(model=model, provider=provider, against=against, tf32=tf32, out=out)
    result = _verify(config, _console(json))
    next_command = _after("bench", result.model_path) if result.passed else None
    _finish(result.report if json else None, next_command=next_command)
    from ..runtime.selftest import require

    require(
        result.checks,
        what=f"{result.model_path} is not proved on {provider}",
        next_step=f"read {result.report_path}; fetch the file again, or export it anew",
    )


@app.command()
def inspect(model: ModelArgument = None, json: JsonOption = False) -> None:
    """Print what a model file is: contract, operations, opset, parameters, digests."""
    from . import show
    from .inspect import inspect as inspect_model

    result = inspect_model(model)
    show.inspection(result, _console(json))
    _finish(result.as_json() if json else None, next_command=_after("verify", result.path))


@app.command(
    epilog="Examples: convnet-edge bench --provider cuda --io-binding · convnet-edge bench a.onnx "
    "b.onnx · convnet-edge bench --pace 10hz --sustain 10m · convnet-edge bench --tune"
)
def bench(
    models: ModelsArgument = None,
    provider: ProviderOption = BenchOptions.provider,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Intra-op threads. Default: the tuned ones, else all usable cores.",
            show_default=False,
        ),
    ] = BenchOptions.threads,
    batch_sizes: Annotated[str, typer.Option(help="Images a run, comma-separated.")] = ",".join(
        map(str, BenchOptions.batch_sizes)
    ),
    duration: Annotated[
        float, typer.Option(help="Timed seconds for each batch size, at least.")
    ] = BenchOptions.duration_s,
    min_runs: Annotated[
        int, typer.Option(help="Timed runs for each batch size, at least.")
    ] = BenchOptions.min_runs,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Under 10 s: batches of 1 and 64 whatever else is said, no throughput."
        ),
    ] = BenchOptions.quick,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if the verdict is NOISY, too.")
    ] = BenchOptions.strict,
    allow_cpu_nodes: Annotated[
        bool,
        typer.Option("--allow-cpu-nodes", help="Let the CPU run what the provider does not take."),
    ] = BenchOptions.allow_cpu_nodes,
    spin: Annotated[
        bool, typer.Option("--spin/--no-spin", help="Let idle threads wait busily for work.")
    ] = BenchOptions.spin,
    io_binding: Annotated[
        bool,
        typer.Option("--io-binding", help="Run through buffers on the device; times copies apart."),
    ] = BenchOptions.io_binding,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Replay one captured launch (with --io-binding).")
    ] = BenchOptions.cuda_graph,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let CUDA multiply in TF32; labelled as reduced.")
    ] = BenchOptions.tf32,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Search threads, callers, batch size; keep NAME.tune.json."),
    ] = BenchOptions.tune,
    pace: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Also run as a camera would, as in 10hz (30 s)."),
    ] = None,
    sustain: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="For how long, as in 10m; alone: back to back."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show the time of each node.")
    ] = BenchOptions.profile,
    loadgen: Annotated[
        bool,
        typer.Option("--loadgen", help="Also run MLPerf LoadGen: single stream and offline."),
    ] = BenchOptions.loadgen,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Result file (.json), or a folder. Default: benchmarks/results/NAME-PROVIDER.json",
            show_default=False,
        ),
    ] = BenchOptions.out,
    json: JsonOption = False,
) -> None:
    """Measure accuracy, cold start, latency, throughput and memory here, with a verdict.

    VALID: believe the numbers. NOISY: something disturbed them, and it says what. INVALID (exit 1):
    wrong outputs, another provider, too few runs, or too coarse a clock.
    """
    config = BenchOptions(
        models=tuple(models or ()),
        provider=provider,
        threads=threads,
        batch_sizes=_numbers(batch_sizes),
        duration_s=duration,
        min_runs=min_runs,
        out=out,
        quick=quick,
        strict=strict,
        allow_cpu_nodes=allow_cpu_nodes,
        tf32=tf32,
        spin=spin,
        io_binding=io_binding,
        cuda_graph=cuda_graph,
        tune=tune,
        pace_hz=_quantity("--pace", pace, {"hz": 1.0, "": 1.0}),
        sustain_s=_quantity("--sustain", sustain, {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}),
        profile=profile,
        loadgen=loadgen,
    )
    results = _bench(config, _console(json))
    documents = [result.document for result in results]
    paths = " ".join(str(result.result_path) for result in results)
    whole = documents[0] if len(documents) == 1 else {"results": documents}
    _finish(whole if json else None, next_command=f"convnet-edge report {paths}")
    from .bench import require_believable

    require_believable(results, strict=strict)


@app.command(
    epilog="Examples: convnet-edge compare exported/fashion-mnist.onnx "
    "exported/fashion-mnist.int8-ort.onnx --max-slowdown 0% · convnet-edge compare last.json "
    "this.json --min-accuracy 92% --max-p99-ms 2"
)
def compare(
    base: Annotated[Path, typer.Argument(help="A model file, or a result of `bench`.")],
    new: Annotated[Path, typer.Argument(help="Another of the same kind.")],
    max_slowdown: Annotated[
        str, typer.Option(metavar="SHARE", help="Of NEW's median time that passes.")
    ] = f"{CompareOptions.max_slowdown:.0%}",
    min_accuracy: Annotated[
        str | None, typer.Option(metavar="SHARE", help="That NEW must reach, as in 92%.")
    ] = None,
    max_p99_ms: Annotated[
        float | None, typer.Option(help="That NEW may take, in milliseconds.")
    ] = CompareOptions.max_p99_ms,
    provider: ProviderOption = CompareOptions.provider,
    threads: Annotated[
        int | None,
        typer.Option(help="Intra-op threads. Default: all usable cores.", show_default=False),
    ] = CompareOptions.threads,
    batch_size: Annotated[int, typer.Option(help="Images a run.")] = CompareOptions.batch_size,
    pairs: Annotated[
        int, typer.Option(help="Fresh processes of each model, in turn.")
    ] = CompareOptions.n_pairs,
    json: JsonOption = False,
) -> None:
    """Tell whether NEW is slower than BASE: exit 0 if not, 1 if so, 3 if nobody can tell.

    Two models are measured here, in fresh processes that take turns. Two results are compared by
    the fresh processes that each holds; those of different machines cannot be told apart.
    """
    from ..reporting.compare import compare as compare_them
    from ..reporting.compare import require_gates
    from . import show

    percent = {"%": 0.01, "": 1.0}
    slowdown = _quantity("--max-slowdown", max_slowdown, percent)
    config = CompareOptions(
        base=base,
        new=new,
        provider=provider,
        threads=threads,
        batch_size=batch_size,
        n_pairs=pairs,
        max_slowdown=CompareOptions.max_slowdown if slowdown is None else slowdown,
        min_accuracy=_quantity("--min-accuracy", min_accuracy, percent),
        max_p99_ms=max_p99_ms,
    )
    with _progress() as progress:
        task = progress.add_task("fresh processes, in turn", total=1)
        found = compare_them(config, lambda share: progress.update(task, completed=share))
    show.comparison(found, _console(json))
    _finish(found.as_json() if json else None)
    require_gates(found)


@app.command(epilog="Example: convnet-edge report pi4.json jetson.json laptop.json --out r.html")
def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RESULT|DIR]...",
            help="What `bench` wrote, on any machine. Default: benchmarks/results",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The page; table and pictures go beside it.")
    ] = ReportOptions.out,
    json: JsonOption = False,
) -> None:
    """Make one table, pictures and a page that opens anywhere, from many machines' results."""
    console = _console(json)
    made = _report(ReportOptions(results=tuple(results or ()), out=out), console)
    document = {
        "html": str(made.html_path),
        "markdown": str(made.markdown_path),
        "pictures": [str(picture.path) for picture in made.pictures if picture.drawn],
        "warnings": list(made.warnings),
    }
    _finish(document if json else None)


@app.command(
    epilog="Example: convnet-edge bundle exported/fashion-mnist.onnx "
    "exported/fashion-mnist.int8-ort.onnx --with-test-set; then on the device: "
    "python3 fashion-mnist.pyz selftest"
)
def bundle(
    models: ModelsArgument = None,
    target: Annotated[
        Target,
        typer.Option(
            help="pyz: one file that runs there. web: a page for any browser. "
            "testdata: for ONNX's own test runners."
        ),
    ] = BundleOptions.target,
    with_test_set: Annotated[
        bool, typer.Option("--with-test-set", help="Also the 10,000 test images (4.4 MB).")
    ] = BundleOptions.with_test_set,
    ort_web: Annotated[
        Path, typer.Option(help="For web: npm's onnxruntime-web. Nothing is downloaded.")
    ] = BundleOptions.ort_web,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Default: NAME.pyz, or the folder NAME-web or NAME-testdata, of the first model",
            show_default=False,
        ),
    ] = BundleOptions.out,
    json: JsonOption = False,
) -> None:
    """Make one file for a device: models, runtime and proof; Python, numpy, onnxruntime run it.

    There: python3 NAME.pyz selftest, predict IMAGE..., bench, info. Of several models the fastest
    that passes its self-test on the device is taken.
    """
    config = BundleOptions(
        models=tuple(models or ()),
        target=target,
        with_test_set=with_test_set,
        ort_web=ort_web,
        out=out,
    )
    if target == "web":
        _bundle_page(config, json)
        return
    if target == "testdata":
        from ..bundling.pyz import lay_out_testdata

        files = lay_out_testdata(config)
        _wrote(_console(json), files, ())
        _finish({"files": [str(path) for path in files]} if json else None)
        return
    made = _bundle(config, _console(json))
    document = {
        "path": str(made.path),
        "bundle_bytes": made.n_bytes,
        "bundle_sha256": made.sha256,
        "manifest": made.manifest,
    }
    _finish(document if json else None, next_command=f"python3 {made.path} selftest")


@app.command(epilog="Example: convnet-edge serve fashion-mnist-web --port 8080")
def serve(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="What `bundle --target web` made. Default: the one page in this folder",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="0: any free one.")] = ServeOptions.port,
) -> None:
    """Show the page on this computer, with the headers that give it threads; Ctrl-C ends it.

    Only this computer can open it. An Android phone on its cable can after `adb reverse tcp:8000
    tcp:8000`; for others put the folder on any HTTPS host.
    """
    from ..bundling.serve import serve as stage

    def ready(url: str) -> None:
        typer.echo(f"{url}   (Ctrl-C ends it)")

    stage(ServeOptions(folder=folder, port=port), ready)


@app.command(epilog="Example: convnet-edge predict photos/ boot.jpg --format csv > labels.csv")
def predict(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IMAGE|DIR]...", help="Pictures, and folders of them."),
    ] = None,
    model: ModelOption = None,
    provider: ProviderOption = PredictOptions.provider,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the 5 × 3 grid of test images.")
    ] = False,
    seed: SeedOption = PredictOptions.seed,
    out: Annotated[Path, typer.Option(help="The grid's picture.")] = PredictOptions.out,
    invert: Annotated[
        bool | None,
        typer.Option(
            "--invert/--no-invert",
            help="Dark on light, or light on dark? Default: the border decides.",
            show_default=False,
        ),
    ] = PredictOptions.invert,
    format: Annotated[  # noqa: A002 - the option's name
        Literal["text", "csv", "jsonl"], typer.Option(help="Of the answers on stdout.")
    ] = "text",
    json: JsonOption = False,
) -> None:
    """Label pictures, with the three likeliest classes; without any, draw the seed's grid."""
    failed = False
    answers: list[dict[str, Any]] = []
    if images:
        config = PredictOptions(model=model, provider=provider, invert=invert)
        for answer in _predict(config, images, format if not json else None):
            failed = failed or "error" in answer
            answers.append(answer)
    document: dict[str, Any] = {"predictions": answers}
    if plot or not images:
        grid_config = PredictOptions(model=model, provider=provider, seed=seed, out=out)
        document["grid"] = _grid(grid_config, _console(json or bool(images)))
    _finish(document if json else None)
    if failed:
        raise typer.Exit(InputError.exit_code)


@app.command()
def doctor(json: JsonOption = False) -> None:
    """Find the known traps of this environment; print what mends each, run nothing."""
    from .doctor import diagnose

    console = _console(json)
    found = diagnose()
    for finding in found.findings:
        console.print(finding.line())
    _finish(found.as_json() if json else None)
    if not found.healthy:
        raise typer.Exit(CheckFailedError.exit_code)


@app.command()
def quickstart() -> None:
    """Run the whole chain on the embedded data, from training to the file for a device."""
    from ..drawing import pictures as plots

    console = _console(False)
    checkpoint = QUICKSTART_DIR / "convnet.safetensors"
    model = QUICKSTART_DIR / "convnet.onnx"
    trained = _train(TrainOptions(data="sample", epochs=QUICKSTART_EPOCHS, out=checkpoint), console)
    exported = _export(ExportOptions(checkpoint=checkpoint, out=model), console)
    report = QUICKSTART_DIR / "convnet.verify.json"
    _verify(VerifyOptions(model=model, against=checkpoint, out=report), console)
    integers = QUICKSTART_DIR / "convnet.int8.onnx"
    _quantize(QuantizeOptions(model=model, data="sample", out=integers), console)
    measured = _bench(
        BenchOptions(models=(model, integers), quick=True, out=QUICKSTART_DIR / "bench"), console
    )
    reported = _report(
        ReportOptions(
            results=tuple(result.result_path for result in measured),
            out=QUICKSTART_DIR / "report.html",
        ),
        console,
    )
    bundled = _bundle(
        BundleOptions(models=(model, integers), out=QUICKSTART_DIR / "convnet.pyz"), console
    )
    pictures = (
        exported.picture,
        *(picture for result in measured for picture in result.pictures),
        *reported.pictures,
    )
    if trained is not None:
        pictures = (trained.picture, *pictures)
    console.print("\nPictures to look at:")
    for picture in pictures:
        console.print(f"  {picture.path}" if picture.drawn else f"  left out: {picture.path}")
    if not all(picture.drawn for picture in pictures):
        console.print(f"  ({plots.INSTALL} draws them)")
    console.print(f"A page to open in a browser: {reported.html_path}")
    console.print(f"A file to copy to a device: {bundled.path}   (python3 {bundled.path} selftest)")
    _finish(None, next_command="convnet-edge train   (the full data, then: convnet-edge export)")


def _train(
    config: TrainOptions,
    console: Console,
    already_complete: Callable[[dict[str, Any]], None] = lambda _: None,
) -> train_stage.TrainResult | None:
    from ..training import loop as stage
    from ..training.resume import resume_path
    from . import show

    if _rank() != 0:
        return stage.train(config)
    if resume_path(config.out).exists() and not config.resume:
        _note(
            f"{resume_path(config.out)} holds an unfinished run, which this run replaces; "
            "stop with Ctrl-C and pass --resume to go on with it"
        )
    with _progress() as progress:
        task = progress.add_task("epoch", total=None)

        def started(start: stage.Start) -> None:
            show.training_start(config, start, console)

        def moved(state: stage.Progress) -> None:
            text = (
                f"epoch {state.epoch}/{state.n_epochs}  loss {state.mean_loss:.4f}  "
                f"accuracy {state.accuracy:.2%}  {state.images_per_s:,.0f} images/s"
            )
            done = (state.epoch - 1) * state.n_images_total + state.n_images
            total = state.n_epochs * state.n_images_total
            progress.update(task, description=text, completed=done, total=total)

        def epoch_done(metrics: stage.EpochMetrics, n_epochs: int) -> None:
            validation = ""
            if metrics.validation_accuracy is not None:
                validation = (
                    f" Validation loss: {metrics.validation_loss:.5f}, "
                    f"accuracy: {metrics.validation_accuracy * 100:.2f}%."
                )
            with _paused(progress):
                console.print(
                    f"Epoch [{metrics.epoch:3}/{n_epochs:3}] finished. Mean loss: "
                    f"{metrics.mean_loss:.5f}. Accuracy: {metrics.accuracy * 100:.2f}% "
                    f"(before each update).{validation} {metrics.duration_s:.1f} s"
                )

        def complete(record: dict[str, Any]) -> None:
            console.print(f"{config.out} is complete: nothing to do")
            already_complete(record)

        result = stage.train(config, stage.Listener(started, moved, epoch_done, complete))
    if result is not None:
        console.print(f"Test accuracy: {result.test.summary()}")
        _wrote(console, (result.checkpoint_path, result.record_path), (result.picture,))
    return result


def _export(config: ExportOptions, console: Console) -> export_stage.ExportResult:
    from ..exporting import export as stage

    console.print(f"Exporting {config.checkpoint}")
    with _steps() as step:
        result = stage.export(config, step)
    console.print("\n".join(check.line() for check in result.checks))
    console.print(result.comparison.summary())
    console.print(
        f"{result.n_parameters:,} parameters, {result.n_bytes:,} bytes, sha256 "
        f"{result.sha256[:16]}…; test accuracy of the file {result.score.summary()}"
    )
    _wrote(console, (result.model_path, result.report_path), (result.picture,))
    return result


def _quantize(config: QuantizeOptions, console: Console) -> quantize_stage.QuantizeResult:
    from ..quantizing import quantize as stage

    with _steps() as step:
        result = stage.quantize(config, step)
    console.print(f"Quantised {result.source_path}, layout {config.layout}")
    console.print("\n".join(check.line() for check in result.checks))
    kept = f" (kept float: {', '.join(result.float_layers)})" if result.float_layers else ""
    console.print(f"Layers that onnxruntime runs here: {result.n_integer} integer, "
                  f"{result.n_float} float{kept}")  # fmt: skip
    console.print(
        f"Test images, once: {result.score.summary()}; float {result.float_score.accuracy:.2%}; "
        f"difference {'not ' if result.p_value > 0.05 else ''}shown (exact McNemar p = "
        f"{result.p_value:.2g})"
    )
    console.print("\n".join(speed.line() for speed in result.speeds))
    console.print(result.recommendation())
    console.print(f"{result.n_bytes:,} bytes, sha256 {result.sha256[:16]}…")
    _wrote(console, (result.model_path, result.report_path), ())
    return result


def _verify(config: VerifyOptions, console: Console) -> verify_stage.VerifyResult:
    from ..exporting import verify as stage

    with _steps() as step:
        result = stage.verify(config, step)
    console.print(f"Verified {result.model_path} on {result.provider}, {result.precision}:")
    console.print("\n".join(check.line() for check in result.checks))
    if result.comparison is not None:
        where = (result.report["against"] or {}).get("where", ())
        console.print("\n".join((*where, result.comparison.summary())))
        if result.comparison.flips:
            console.print(f"Label flips: images {list(result.comparison.flips)}")
    console.print("PASS" if result.passed else "FAIL")
    _wrote(console, (result.report_path,), ())
    return result


def _bench(config: BenchOptions, console: Console) -> tuple[bench_stage.BenchResult, ...]:
    from . import bench as stage
    from . import show

    with _progress() as progress:
        task = progress.add_task("opening", total=1)

        def stage_began(name: str) -> None:
            progress.reset(task, description=name, total=None)

        def share_done(share: float) -> None:
            progress.update(task, completed=share, total=1)

        def opened(path: Path, document: dict[str, Any]) -> None:
            with _paused(progress):
                show.cost(path, document, console)

        def measured(result: bench_stage.BenchResult) -> None:
            with _paused(progress):
                show.measured(result, console)
                if config.profile:
                    show.nodes(result.document, console)
                _wrote(console, (result.result_path,), result.pictures)

        return stage.bench(config, stage.Listener(stage_began, share_done, opened, measured))


def _report(config: ReportOptions, console: Console) -> report_stage.ReportResult:
    from ..reporting import report as stage

    made = stage.report(config)
    console.print(made.markdown)
    for warning in made.warnings:
        _note(f"warning: {warning}")
    _wrote(console, (made.html_path, made.markdown_path), made.pictures)
    return made


def _bundle(config: BundleOptions, console: Console) -> bundle_stage.BundleResult:
    from ..bundling import pyz as stage

    made = stage.bundle(config)
    for name, checks in made.checks.items():
        console.print(f"{name}: {len(checks)} checks hold here")
    console.print(f"{made.n_bytes:,} bytes, sha256 {made.sha256}")
    _wrote(console, (made.path,), ())
    return made


def _bundle_page(config: BundleOptions, json: bool) -> None:
    from ..bundling import pyz as stage

    site, checks = stage.lay_out_page(config)
    console = _console(json)
    for name, held in checks.items():
        console.print(f"{name}: {len(held)} checks hold here")
    console.print(f"{site.n_files} files, {site.n_bytes / 1e6:.1f} MB, id {site.id}")
    _wrote(console, (site.path,), ())
    document = {
        "path": str(site.path),
        "n_files": site.n_files,
        "site_bytes": site.n_bytes,
        "id": site.id,
    }
    _finish(document if json else None, next_command=f"convnet-edge serve {site.path}")


def _predict(
    config: PredictOptions, images: Sequence[Path], shown_as: str | None
) -> Iterator[dict[str, Any]]:
    """Predict, print each answer as it comes (unless `shown_as` is None), and yield it."""
    from ..predicting import predict as stage
    from ..sealing.default_model import choose_model

    _note(f"model: {choose_model(config.model)}")
    if shown_as == "csv":
        _csv_row(["path", "label", "probability", "second", "second_probability", "third",
                  "third_probability"])  # fmt: skip
    for answer in stage.predict(config, images):
        if isinstance(answer, stage.Failure):
            typer.echo(f"convnet-edge: {answer.error}", err=True)
            yield {"path": str(answer.path), "error": str(answer.error)}
            continue
        _show_answer(answer, shown_as)
        yield _answer_json(answer)


def _answer_json(answer: predict_stage.Prediction) -> dict[str, Any]:
    top = [{"label": label, "probability": share} for label, share in answer.top]
    return {"path": str(answer.path), "label": answer.label, "top": top}


def _show_answer(answer: predict_stage.Prediction, shown_as: str | None) -> None:
    if shown_as == "text":
        shares = ", ".join(f"{label} {share:.1%}" for label, share in answer.top)
        typer.echo(f"{answer.path}: {answer.label}   ({shares})")
    elif shown_as == "csv":
        _csv_row([str(answer.path), *(field for label, share in answer.top
                                      for field in (label, f"{share:.6f}"))])  # fmt: skip
    elif shown_as == "jsonl":
        typer.echo(json_module.dumps(_answer_json(answer), ensure_ascii=False))


def _csv_row(fields: Sequence[str]) -> None:
    import csv

    csv.writer(sys.stdout, lineterminator="\n").writerow(fields)


def _grid(config: PredictOptions, console: Console) -> dict[str, Any]:
    from ..predicting.predict import draw_test_grid
    from ..sealing.default_model import choose_model

    _note(f"model: {choose_model(config.model)}")
    grid = draw_test_grid(config)
    for index, name, true_name in zip(grid.indices, grid.names, grid.true_names, strict=True):
        wrong = "" if name == true_name else f"   wrong: it is {true_name}"
        console.print(f"test image {index:5}: {name}?{wrong}")
    _wrote(console, (), (grid.picture,))
    return {**asdict(grid), "picture": str(grid.picture.path)}


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--batch-sizes {text!r}",
            expected="numbers separated by commas, as in 1,8,64",
            next_step="change --batch-sizes",
        ) from error


def _quantity(option: str, text: str | None, units: dict[str, float]) -> float | None:
    """Return the number in `text` times its unit's value; None of None."""
    if text is None:
        return None
    stripped = text.strip().lower()
    unit = max((u for u in units if stripped.endswith(u)), key=len, default="")
    try:
        return float(stripped.removesuffix(unit)) * units[unit]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{option} {text!r}",
            expected=f"a number with {' or '.join(u for u in units if u)} behind it",
            next_step=f"change {option}",
        ) from error


def _console(to_stderr: bool) -> Console:
    """Return where people's text goes: stdout, or stderr when stdout carries JSON."""
    from rich.console import Console

    return Console(stderr=to_stderr, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a progress bar on stderr while it is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield progress


@contextmanager
def _paused(progress: Progress) -> Iterator[None]:
    """Take the bar off the terminal while something else is printed."""
    progress.stop()
    yield
    progress.start()


@contextmanager
def _steps() -> Iterator[Any]:
    """Show what is being done on stderr while it is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield status.update


def _wrote(console: Console, files: Sequence[Path], pictures: Sequence[plots.Picture]) -> None:
    for path in files:
        console.print(f"wrote {path}")
    for picture in pictures:
        if picture.drawn:
            _note(f"wrote {picture.path}")
    left_out = [str(picture.path) for picture in pictures if not picture.drawn]
    if left_out:
        from ..drawing.pictures import INSTALL

        _note(f"left out, matplotlib is not installed: {', '.join(left_out)}; {INSTALL}")


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _after(command: str, path: Path) -> str:
    return f"convnet-edge {command} {path}"


def _finish(document: dict[str, Any] | None, *, next_command: str | None = None) -> None:
    if document is not None:
        typer.echo(json_module.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))
    if next_command is not None:
        typer.echo(f"next: {next_command}", err=document is not None)
