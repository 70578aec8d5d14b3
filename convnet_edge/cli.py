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
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer
from typer.core import TyperGroup

from . import __version__
from .config import (
    QUICKSTART_DIR,
    Amp,
    BenchConfig,
    DataSet,
    Device,
    ExportConfig,
    Exporter,
    GridConfig,
    InputType,
    Layout,
    PredictConfig,
    Provider,
    QuantizeConfig,
    RecipeName,
    TrainConfig,
    VerifyConfig,
)
from .runtime.errors import EdgeError, InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from . import bench as bench_stage
    from . import export as export_stage
    from . import inspect as inspect_stage
    from . import plots
    from . import predict as predict_stage
    from . import quantize as quantize_stage
    from . import train as train_stage
    from . import verify as verify_stage

PACKAGES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "safetensors", "numpy", "pillow", "matplotlib", "typer",
)  # fmt: skip
HOST_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")
QUICKSTART_EPOCHS = 3
QUICKSTART_BATCH_SIZES = (1, 64)
QUICKSTART_DURATION_S = 2.0


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
    "[bold]train → export → verify → quantize → bench → predict[/bold]; each works without "
    "arguments, each ends with the next command to copy.",
    epilog="Exit codes: 0 done and proved · 1 a check failed · 2 wrong usage, or something "
    "missing or unreadable · 130 interrupted.",
)

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")
]
ModelArgument = Annotated[
    Optional[Path],
    typer.Argument(
        metavar="[MODEL]",
        help="The .onnx file. Default: exported/convnet.onnx if it exists, else the shipped one.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    Optional[Path],
    typer.Option(
        "--model",
        help="The .onnx file. Default: exported/convnet.onnx if it exists, else the shipped one.",
        show_default=False,
    ),
]
ProviderOption = Annotated[
    Provider,
    typer.Option("--provider", help="onnxruntime's provider: opened, or an error; never replaced."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Which test images the grid shows.")]
ReportOption = Annotated[
    Optional[Path],
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
    ] = TrainConfig.recipe,
    data: Annotated[
        DataSet,
        typer.Option(help="Training images; `sample` is the 10,000 that come with the program."),
    ] = TrainConfig.data,
    data_dir: Annotated[
        Path, typer.Option(help="Searched first for IDX files; downloads go here.")
    ] = TrainConfig.data_dir,
    epochs: Annotated[
        Optional[int],
        typer.Option(help="Passes over the images. Default: the recipe's.", show_default=False),
    ] = TrainConfig.epochs,
    learning_rate: Annotated[
        Optional[float], typer.Option(help="Adam's. Default: the recipe's.", show_default=False)
    ] = TrainConfig.learning_rate,
    batch_size: Annotated[
        Optional[int],
        typer.Option(
            help="Images a step, over all processes. Default: the recipe's.", show_default=False
        ),
    ] = TrainConfig.batch_size,
    kernel_size: Annotated[
        int, typer.Option(help="Of both convolutions, in pixels.")
    ] = TrainConfig.kernel_size,
    width: Annotated[
        float, typer.Option(help="Of every layer; 0.5 is 16-32-64, a quarter of the work.")
    ] = TrainConfig.width,
    validate: Annotated[
        int, typer.Option(help="Training images to hold out and score after each epoch.")
    ] = TrainConfig.validate,
    seed: Annotated[
        int, typer.Option(help="Repeats a CPU run bit for bit (same thread count).")
    ] = TrainConfig.seed,
    device: Annotated[Device, typer.Option(help="auto: cuda, else mps, else cpu.")] = (
        TrainConfig.device
    ),
    amp: Annotated[
        Amp, typer.Option(help="bf16: convolutions and linear layers in bfloat16.")
    ] = TrainConfig.amp,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let CUDA multiply in TF32.")
    ] = TrainConfig.tf32,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last complete epoch.")
    ] = TrainConfig.resume,
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")] = TrainConfig.out,
    json: JsonOption = False,
) -> None:
    """Train the convnet on Fashion-MNIST; the defaults are the seed's recipe."""
    config = TrainConfig(
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
    ] = ExportConfig.checkpoint,
    input_type: Annotated[
        InputType,
        typer.Option("--input", help="float32: pixels in [0, 1]; uint8: grey values, as stored."),
    ] = ExportConfig.input,
    exporter: Annotated[
        Exporter, typer.Option(help="torch's default exporter, or its older one.")
    ] = ExportConfig.exporter,
    out: Annotated[
        Optional[Path],
        typer.Option(help="Model file. Default: exported/NAME.onnx", show_default=False),
    ] = ExportConfig.out,
    json: JsonOption = False,
) -> None:
    """Export to one ONNX file and prove it equal to PyTorch; written only if the proof holds."""
    config = ExportConfig(checkpoint=checkpoint, input=input_type, exporter=exporter, out=out)
    result = _export(config, _console(json))
    _finish(result.report if json else None, next_command=_after("bench", config.out_path))


@app.command(epilog="Example: convnet-edge quantize exported/convnet.onnx --layout ort-cpu")
def quantize(
    model: ModelArgument = None,
    data: Annotated[
        DataSet, typer.Option(help="Training images that give ranges and the gate.")
    ] = QuantizeConfig.data,
    data_dir: Annotated[
        Path, typer.Option(help="Searched first for IDX files; downloads go here.")
    ] = QuantizeConfig.data_dir,
    layout: Annotated[
        Layout,
        typer.Option(help="portable: any runtime. ort-cpu: onnxruntime's CPU provider, faster."),
    ] = QuantizeConfig.layout,
    max_drop: Annotated[
        float, typer.Option(help="Points of accuracy that may be lost at most (95 % bound).")
    ] = QuantizeConfig.max_drop,
    out: Annotated[
        Optional[Path],
        typer.Option(
            help="Model file. Default: exported/NAME.int8.onnx or NAME.int8-ort.onnx",
            show_default=False,
        ),
    ] = QuantizeConfig.out,
    json: JsonOption = False,
) -> None:
    """Make an int8 model, gated on accuracy; written only if the gate holds."""
    config = QuantizeConfig(
        model=model, data=data, data_dir=data_dir, layout=layout, max_drop=max_drop, out=out
    )
    result = _quantize(config, _console(json))
    _finish(result.report if json else None, next_command=_after("bench", result.model_path))


@app.command(epilog="Example: convnet-edge verify exported/convnet.onnx --against "
             "checkpoints/convnet.safetensors")  # fmt: skip
def verify(
    model: ModelArgument = None,
    provider: ProviderOption = VerifyConfig.provider,
    against: Annotated[
        Optional[Path],
        typer.Option(help="A checkpoint or another model: compare all 10,000 test images."),
    ] = VerifyConfig.against,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let CUDA multiply in TF32; judged by labels.")
    ] = VerifyConfig.tf32,
    out: ReportOption = VerifyConfig.out,
    json: JsonOption = False,
) -> None:
    """Prove a model file on this machine: digests, golden vectors, preprocessing."""
    config = VerifyConfig(model=model, provider=provider, against=against, tf32=tf32, out=out)
    result = _verify(config, _console(json))
    next_command = _after("bench", result.model_path) if result.passed else None
    _finish(result.report if json else None, next_command=next_command)
    from .runtime.selftest import require

    require(
        result.checks,
        what=f"{result.model_path} is not proved on {provider}",
        next_step=f"read {result.report_path}; fetch the file again, or export it anew",
    )


@app.command()
def inspect(model: ModelArgument = None, json: JsonOption = False) -> None:
    """Print what a model file is: contract, operations, opset, parameters, digests."""
    from .inspect import inspect as inspect_model

    result = inspect_model(model)
    _show_inspection(result, _console(json))
    _finish(result.as_json() if json else None, next_command=_after("verify", result.path))


@app.command(epilog="Example: convnet-edge bench --provider cuda --batch-sizes 1,64 --duration 10")
def bench(
    model: ModelArgument = None,
    provider: ProviderOption = BenchConfig.provider,
    threads: Annotated[
        Optional[int],
        typer.Option(help="Intra-op threads. Default: all usable cores.", show_default=False),
    ] = BenchConfig.threads,
    batch_sizes: Annotated[str, typer.Option(help="Images a run, comma-separated.")] = ",".join(
        map(str, BenchConfig.batch_sizes)
    ),
    duration: Annotated[
        float, typer.Option(help="Timed seconds for each batch size.")
    ] = BenchConfig.duration_s,
    out: Annotated[
        Optional[Path],
        typer.Option(
            help="Result file. Default: benchmarks/results/NAME-PROVIDER.json", show_default=False
        ),
    ] = BenchConfig.out,
    json: JsonOption = False,
) -> None:
    """Measure accuracy, latency and memory here, after replaying the golden vectors."""
    config = BenchConfig(
        model=model,
        provider=provider,
        threads=threads,
        batch_sizes=_numbers(batch_sizes),
        duration_s=duration,
        out=out,
    )
    result = _bench(config, _console(json))
    _finish(result.document if json else None, next_command="convnet-edge predict --plot")


@app.command(epilog="Example: convnet-edge predict photos/ boot.jpg --format csv > labels.csv")
def predict(
    images: Annotated[
        Optional[list[Path]],
        typer.Argument(metavar="[IMAGE|DIR]...", help="Pictures, and folders of them."),
    ] = None,
    model: ModelOption = None,
    provider: ProviderOption = PredictConfig.provider,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the 5 × 3 grid of test images.")
    ] = False,
    seed: SeedOption = GridConfig.seed,
    out: Annotated[Path, typer.Option(help="The grid's picture.")] = GridConfig.out,
    invert: Annotated[
        Optional[bool],
        typer.Option(
            "--invert/--no-invert",
            help="Dark on light, or light on dark? Default: the border decides.",
            show_default=False,
        ),
    ] = PredictConfig.invert,
    format: Annotated[  # noqa: A002 - the option's name
        Literal["text", "csv", "jsonl"], typer.Option(help="Of the answers on stdout.")
    ] = "text",
    json: JsonOption = False,
) -> None:
    """Label pictures, with the three likeliest classes; without any, draw the seed's grid."""
    failed = False
    answers: list[dict[str, Any]] = []
    if images:
        config = PredictConfig(model=model, provider=provider, invert=invert)
        for answer in _predict(config, images, format if not json else None):
            failed = failed or "error" in answer
            answers.append(answer)
    document: dict[str, Any] = {"predictions": answers}
    if plot or not images:
        grid_config = GridConfig(model=model, provider=provider, seed=seed, out=out)
        document["grid"] = _grid(grid_config, _console(json or bool(images)))
    _finish(document if json else None)
    if failed:
        raise typer.Exit(InputError.exit_code)


@app.command()
def quickstart() -> None:
    """Run the whole chain on the embedded data: train, export, verify, quantize, bench, predict."""
    from . import plots

    console = _console(False)
    checkpoint = QUICKSTART_DIR / "convnet.safetensors"
    model = QUICKSTART_DIR / "convnet.onnx"
    trained = _train(TrainConfig(data="sample", epochs=QUICKSTART_EPOCHS, out=checkpoint), console)
    exported = _export(ExportConfig(checkpoint=checkpoint, out=model), console)
    report = QUICKSTART_DIR / "convnet.verify.json"
    _verify(VerifyConfig(model=model, against=checkpoint, out=report), console)
    integers = QUICKSTART_DIR / "convnet.int8.onnx"
    _quantize(QuantizeConfig(model=model, data="sample", out=integers), console)
    measured = _bench(
        BenchConfig(
            model=model,
            batch_sizes=QUICKSTART_BATCH_SIZES,
            duration_s=QUICKSTART_DURATION_S,
            out=QUICKSTART_DIR / "bench.json",
        ),
        console,
    )
    pictures = (exported.picture, *measured.pictures)
    if trained is not None:
        pictures = (trained.picture, *pictures)
    console.print("\nPictures to look at:")
    for picture in pictures:
        console.print(f"  {picture.path}" if picture.drawn else f"  left out: {picture.path}")
    if not all(picture.drawn for picture in pictures):
        console.print(f"  ({plots.INSTALL} draws them)")
    _finish(None, next_command="convnet-edge train   (the full data, then: convnet-edge export)")


def _train(
    config: TrainConfig,
    console: Console,
    already_complete: Callable[[dict[str, Any]], None] = lambda _: None,
) -> train_stage.TrainResult | None:
    from . import train as stage
    from .resume import resume_path

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
            _show_start(config, start, console)

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


def _show_start(config: TrainConfig, start: train_stage.Start, console: Console) -> None:
    cost, recipe = start.cost, config.plan
    together = f", {start.n_processes} processes" if start.n_processes > 1 else ""
    held_out = f", {config.validate:,} more held out for validation" if config.validate else ""
    console.print(
        f"Data: {config.data}, {len(start.images):,} training images{held_out} "
        f"({start.images.source}); device {start.device}{together}"
    )
    console.print(str(start.model))
    console.print(f"Model has {cost.n_parameters} trainable parameters")
    conv1, conv2, *linear = cost.n_multiplications
    console.print(
        f"Cost: {cost.n_parameters:,} parameters ({cost.parameter_bytes / 1e6:.2f} MB); "
        f"{sum(cost.n_multiplications):,} multiplications an image (conv1 {conv1:,}, conv2 "
        f"{conv2:,}, linear {sum(linear):,}); data {cost.data_bytes / 1e6:.0f} MB; peak measured "
        f"here {cost.peak_flops / 1e9:,.0f} GFLOP/s, so an epoch takes {cost.bound_s:.2g} s or more"
    )
    console.print(f"Recipe {config.recipe}: {recipe.epochs} epochs of batches of "
                  f"{recipe.batch_size}, seed {config.seed}")  # fmt: skip
    if config.resume:
        resumed = f"Resuming after {start.n_done} complete epochs"
        fresh = "No unfinished run to resume: starting from the beginning"
        console.print(resumed if start.n_done else fresh)
    for warning in start.warnings:
        _note(f"warning: {warning}")


def _export(config: ExportConfig, console: Console) -> export_stage.ExportResult:
    from . import export as stage

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


def _quantize(config: QuantizeConfig, console: Console) -> quantize_stage.QuantizeResult:
    from . import quantize as stage

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


def _verify(config: VerifyConfig, console: Console) -> verify_stage.VerifyResult:
    from . import verify as stage

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


def _bench(config: BenchConfig, console: Console) -> bench_stage.BenchResult:
    from . import bench as stage

    with _progress() as progress:
        task = progress.add_task("opening", total=1)

        def stage_began(name: str) -> None:
            progress.update(task, description=name, completed=0)

        def share_done(share: float) -> None:
            progress.update(task, completed=share)

        result = stage.bench(config, stage.Listener(stage_began, share_done))
    _show_bench(result, console)
    _wrote(console, (result.result_path,), result.pictures)
    return result


def _predict(
    config: PredictConfig, images: Sequence[Path], shown_as: str | None
) -> Iterator[dict[str, Any]]:
    """Predict, print each answer as it comes (unless `shown_as` is None), and yield it."""
    from . import predict as stage
    from .locate import choose_model

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


def _grid(config: GridConfig, console: Console) -> dict[str, Any]:
    from .locate import choose_model
    from .predict import draw_test_grid

    _note(f"model: {choose_model(config.model)}")
    grid = draw_test_grid(config)
    for index, name, true_name in zip(grid.indices, grid.names, grid.true_names, strict=True):
        wrong = "" if name == true_name else f"   wrong: it is {true_name}"
        console.print(f"test image {index:5}: {name}?{wrong}")
    _wrote(console, (), (grid.picture,))
    return {**asdict(grid), "picture": str(grid.picture.path)}


def _show_inspection(result: inspect_stage.Inspection, console: Console) -> None:
    document = result.as_json()
    contract, file = document["contract"], result.file
    measured, training = contract["measured"], contract["training"]
    ops = ", ".join(f"{count} {name}" for name, count in document["ops"].items())
    multiplications = result.n_multiplications
    lines = {
        "file": f"{result.path}  ({result.n_bytes:,} bytes, sha256 {result.sha256[:16]}…)",
        "format": f"opset {document['opsets']}, IR {file.ir_version}",
        "operations": ops,
        "parameters": f"{result.n_parameters:,}{_integers(contract)}",
        "multiplications": "unknown: shapes are not in the file"
        if multiplications is None
        else f"{multiplications:,} an image",
        "input": f"{document['inputs']}, {contract['input']['scale']}",
        "output": f"{document['outputs']}",
        "classes": ", ".join(contract["class_labels"]),
        "trained on": f"{training['data']}, {training['n_images']:,} images, recipe "
        f"{training['recipe']}, {training['epochs']} epochs, seed {training['seed']}",
        "test accuracy": f"{measured['accuracy']:.2%} of {measured['n']:,} ({measured['what']})",
        "golden vectors": f"{contract['goldens']['n']}, tolerance "
        f"{contract['goldens']['tolerance']:.2g}",
        "trained with": _joined(contract["versions"]["training"]),
        "exported with": _joined(contract["versions"]["export"]),
    }
    for name, text in lines.items():
        console.print(f"{name:>15}  {text}")
    for check in result.digests:
        console.print(f"{'':>15}  {check.line()}")


def _integers(contract: dict[str, Any]) -> str:
    quantization = contract.get("quantization")
    if not quantization:
        return ""
    notes = {
        "portable": "standard QDQ, for any runtime",
        "ort-cpu": "for onnxruntime's CPU provider only",
    }
    layout = quantization["layout"]
    return f", int8 of {quantization['weight_bits']} bits, layout {layout}: {notes[layout]}"


def _joined(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _show_bench(result: bench_stage.BenchResult, console: Console) -> None:
    from rich.table import Table

    document = result.document
    provider, machine = document["provider"], document["machine"]
    placement = provider["placement"]
    nodes = "unknown (this onnxruntime cannot tell)"
    if placement is not None:
        nodes = ", ".join(f"{len(ops)} on {name}" for name, ops in placement.items())
    console.print(
        f"{result.model_path}: {document['model']['model_bytes']:,} bytes, on "
        f"{provider['obtained']}, {provider['threads']} threads; nodes: {nodes}"
    )
    console.print(f"machine: {machine['cpu']}, {machine['usable_cores']} usable cores"
                  + "".join(f", {gpu}" for gpu in machine["gpus"]))  # fmt: skip
    console.print("\n".join(check.line() for check in result.checks))
    if result.score is not None:
        console.print(f"test accuracy {result.score.summary()}")
        table = Table("class", "n", "precision", "recall", "F1", title="Per class")
        for row in result.score.classes:
            shares = (row.precision, row.recall, row.f1)
            cells = ("n/a" if share is None else f"{share:.3f}" for share in shares)
            table.add_row(row.label, str(row.n), *cells)
        console.print(table)
    session = document["session"]
    peak = document["peak_memory_bytes"]
    console.print(
        f"session creation {session['create_ms']:.1f} ms, first inference "
        f"{session['first_run_ms']:.2f} ms, peak memory of this process "
        + ("n/a" if peak is None else f"{peak / 2**20:.0f} MiB")
    )
    _show_latencies(result, console)


def _show_latencies(result: bench_stage.BenchResult, console: Console) -> None:
    from rich.table import Table

    percentiles = [p.p for p in result.latencies[0].percentiles_ms()]
    names = [f"p{100 * p:g}" for p in percentiles]
    table = Table("batch", "runs", *names, "images/s", title="Latency in ms, one caller")
    for latency in result.latencies:
        cells = [
            f"n/a (needs {p.floor:,})" if p.value is None else f"{p.value:.3f}"
            for p in latency.percentiles_ms()
        ]
        table.add_row(
            str(latency.batch_size),
            f"{len(latency.samples_ns):,}",
            *cells,
            f"{latency.images_per_s:,.0f}",
        )
    console.print(table)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--batch-sizes {text!r}",
            expected="numbers separated by commas, as in 1,8,64",
            next_step="change --batch-sizes",
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
        from .plots import INSTALL

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
