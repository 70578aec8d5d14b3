"""`train`: images → checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.options import DataOptions
from ..networks import REFERENCE
from ..runtime.files import percent
from ..training.launch import read_launch
from ..training.options import TrainOptions
from .terminal import Terminal, as_words

if TYPE_CHECKING:
    from ..training import loop as stage
    from ..training.record import TrainResult
    from ..training.run import EpochMetrics, Run


LONG_S = 300  # of an epoch: there are faster machines
LONGEST_S = 120  # that is said in seconds
REHEARSED_S = 60  # of a training: an export of its network is tried before it, in 2 to 5 seconds
BY_HEART = 0.15  # of accuracy, from the training pictures to the highest that the test allows


def command(options: TrainOptions, terminal: Terminal) -> None:
    """Train the convnet on Fashion-MNIST by the tutorial's recipe, or any network on your pictures.

    Examples: convnet-edge train --data photos/ · convnet-edge train --data sample --epochs 3 ·
    convnet-edge train --data photos/ --arch torchvision:mobilenet_v3_small --weights pretrained ·
    convnet-edge train --data photos/ --arch my_net.py:Net --weights trained.pt --epochs 0 ·
    torchrun --nproc-per-node 2 cli.py train --recipe best
    """
    from ..networks import checkpoint
    from ..training import loop as stage
    from ..training.run import EpochMetrics, Run

    if read_launch().rank != 0:
        stage.train(options)
        return
    if options.resume_path.exists() and not options.resume:
        terminal.note(
            f"{options.resume_path} holds an unfinished run, which this run replaces; "
            "stop with Ctrl-C and pass --resume to go on with it"
        )

    n_epochs = options.plan.epochs

    def tell(event: stage.Event) -> None:
        nonlocal n_epochs
        match event:
            case stage.Reading(n, n_total):
                terminal.share(n / n_total, f"{n:,} of {n_total:,} pictures decoded")
            case Run():
                n_epochs = event.recipe.epochs
                whole_s = _show_start(options, event, terminal)
                if whole_s > REHEARSED_S and not event.is_reference:
                    _rehearse(event, terminal)
            case stage.Progress(so_far, n_images, n_images_total):
                share = (so_far.epoch - 1 + n_images / n_images_total) / n_epochs
                terminal.share(share, _progress_line(event, n_epochs))
            case EpochMetrics():
                terminal.say(_epoch_line(event, n_epochs))
                terminal.share(event.epoch / n_epochs, f"epoch {event.epoch}/{n_epochs} complete")

    with terminal.progress():
        result = stage.train(options, tell)
    if result is None:
        terminal.say(f"{options.out} is complete: nothing to do")
        document = checkpoint.load(options.out, kind="model").header
    else:
        _show_score(options, result, terminal)
        if not result.epochs and result.test:
            terminal.note("these weights may have seen these pictures: nothing here can tell")
        terminal.detail(*map(_class_line, result.record["classes"]))
        if result.earlier_path:
            terminal.answer(f"kept the earlier run as {result.earlier_path}")
        files = result.checkpoint_path, result.record_path, result.epochs_path, *result.split_paths
        terminal.wrote(files, (result.picture,) if result.picture else ())
        document = result.record
    cache = as_words(options, DataOptions, ("data", "data_dir", "split"))
    terminal.finish(document, "convnet-edge", "export", options.out, *cache)


def _rehearse(run: Run, terminal: Terminal) -> None:
    """Try an export of the network as it is, where what that takes is installed."""
    if find_spec("onnx") and find_spec("onnxscript"):
        from ..exporting.export import rehearse

        terminal.step("trying an export of the network as it is")
        rehearse(run.model, run.image_shape)


def _show_score(options: TrainOptions, result: TrainResult, terminal: Terminal) -> None:
    """Print the test accuracy, and what may help where it is none."""
    found = result.test.summary() if result.test else "not measured, without test images"
    terminal.answer(f"Test accuracy: {found}")
    if not result.epochs or not result.test:
        return
    n_classes = len(result.record["class_labels"])
    known, score = result.epochs[-1].accuracy, result.test.interval
    if known - score.high > BY_HEART:
        terminal.answer(
            f"  of the training pictures {percent(known)}: the network knows them by heart",
            "  what may help: more pictures, --augment, a smaller network, or one that has learnt",
            "  from others: --arch torchvision:mobilenet_v3_small --weights pretrained",
        )
        return
    if score.low <= 1 / n_classes:
        guessing = f"guessing among {n_classes} classes, {percent(1 / n_classes)}"
        terminal.answer(f"  no better than {guessing}, on these test pictures")
    elif known < (1 + 1 / n_classes) / 2:  # nearer to guessing than to knowing them
        terminal.answer(f"  of the training pictures {percent(known)}: it has not learnt these yet")
    else:
        return
    n_images = sum(result.record["data"]["n_by_class"]["train"])
    usual = replace(options, epochs=None).plan.for_images(n_images).epochs
    terminal.answer(
        "  what may help: more --epochs, --learning-rate × 3, half the --batch-size",
        *[f"  the recipe takes {usual} epochs for so many pictures"] * (len(result.epochs) < usual),
    )


def _show_start(options: TrainOptions, run: Run, terminal: Terminal) -> float:
    """Print data, network, cost and recipe, before the first epoch; return the seconds it takes."""
    images, n_done = run.dataset.train, len(run.epochs)
    n_held_out = len(run.dataset.validation)
    held_out = f", {n_held_out:,} more held out for validation" if n_held_out else ""
    how = run.dataset.preprocessing
    seen = f"{how.size[0]} × {how.size[1]} {'grey' if how.channels == 1 else 'RGB'}"
    terminal.say(
        f"Data: {run.training['data']}, {len(images):,} training images{held_out}",
        *[f"  from {images.source}"] * (Path(images.source) != Path(run.training["data"])),
        *_weights_lines(run),
        f"Model has {run.network.n_parameters} trainable parameters, for images of {seen}",
    )
    whole_s = _show_cost(run, terminal) if run.recipe.epochs else 0.0
    terminal.say(*_recipe_lines(run))
    data_bytes = images.images.nbytes + 8 * len(images)
    terminal.detail(
        *str(run.model).split("\n"),
        f"Memory: parameters {4 * run.network.n_parameters / 1e6:.2f} MB, "
        f"data {data_bytes / 1e6:.0f} MB",
    )
    if options.resume:
        resumed = f"Resuming after {_epochs(n_done)}"
        fresh = "No unfinished run to resume: starting from the beginning"
        terminal.say(resumed if n_done else fresh)
    if (report := run.dataset.report) and report.left_out:
        terminal.note(
            f"warning: {len(report.left_out):,} left out; why: convnet-edge data {options.data}"
        )
    terminal.note(*(f"warning: {warning}" for warning in run.warnings()))
    return whole_s


def _show_cost(run: Run, terminal: Terminal) -> float:
    """Print what an image costs and an epoch takes; return all epochs' seconds, warn of many."""
    from ..training.loop import measure_peak
    from ..training.record import device_name

    cost, name = run.count_operations(), device_name(run.device)
    text = f"Cost: {cost.n_multiplications:,} multiplications an image"
    if timed := run.timing:
        step_ms = getattr(timed, f"{run.training['precision']}_step_ms")
        epoch_s: float = len(run.split(run.n_drawn)) * step_ms / 1000
        took = f"about {epoch_s:.2g} s on {name}, by steps timed here"
    else:
        peak = measure_peak(run.device)
        epoch_s = run.n_drawn * cost.n_training / peak / run.launch.size
        text += f"; at the {peak / 1e9:,.0f} GFLOP/s measured here"
        took = f"{epoch_s:.2g} s or more on {name}"
    n_left = run.recipe.epochs - len(run.epochs)
    whole_s = n_left * epoch_s
    whole = f"{whole_s:.2g} s" if whole_s < LONGEST_S else f"{whole_s / 60:.2g} min"
    together = f", {run.launch.size} processes" if run.launch.size > 1 else ""
    terminal.say(
        text, f"  an epoch takes {took}{together}" + f", {n_left} of them {whole}" * (n_left > 1)
    )
    if epoch_s > LONG_S and run.device.type == "cpu":
        terminal.note(
            f"warning: {_epochs(n_left)} take {whole_s / 3600:.1f} hours or more without "
            "a GPU; smaller images (--image-size) or a smaller network take less"
        )
    return whole_s


def _weights_lines(run: Run) -> Iterator[str]:
    """Say which weights the run begins with, and what their pixels are taken to be."""
    if run.training["arch"] != REFERENCE:
        yield f"Network {run.training['arch']}"
    if "weights" in run.training:
        yield f"Weights: {run.training['weights']}"
    if run.replaced:
        yield f"  made anew, for these classes: {', '.join(run.replaced)}"
    if ("weights" in run.training or not run.recipe.epochs) and not run.is_reference:
        yield f"  for pixels {_pixels(run)}; else name --mean and --std"


def _pixels(run: Run) -> str:
    if run.images.normalization is None:
        return "in [0, 1]"
    words = (", ".join(f"{value:.3g}" for value in part) for part in run.images.normalization)
    return "less {} and divided by {}".format(*words)


def _recipe_lines(run: Run) -> Iterator[str]:
    """Say how the weights are going to change."""
    from ..training.precision import has_bf16

    recipe = run.recipe
    if not recipe.epochs:
        order = "in the order of --classes" if run.options.classes else "in order of their names"
        yield f"The weights stay as they are; their outputs are the classes {order}"
        return
    yield (
        f"Recipe {run.training['recipe']}: {_epochs(recipe.epochs)} of batches of "
        f"{recipe.batch_size}, learning rate {recipe.learning_rate:g}, seed {run.options.seed}"
    )
    if recipe.head_share:
        yield (
            f"  the head alone for {_epochs(run.n_of_head)}, then all, at {recipe.body_rate:g} of "
            "the learning rate below it"
        )
    if (run.launch.size > 1 or run.holds_statistics) and run.statistics:
        yield f"  batch normalisation takes {run.statistics}"
    if timed := run.timing:
        used = run.training["precision"]
        times = timed.speedup if used == "bf16" else 1 / timed.speedup
        yield (
            f"  {used}: {times:.1f} x faster here (a step: float32 {timed.float32_step_ms:.3g} ms, "
            f"bf16 {timed.bf16_step_ms:.3g} ms)"
        )
    elif run.options.asked_precision == "auto" and not has_bf16(run.device):
        hardware = {"cpu": "processor", "cuda": "GPU"}.get(run.device.type, run.device.type)
        yield f"  {run.training['precision']}: no bfloat16 in this {hardware}"
    yield "  accuracy in training is counted before each update"


def _progress_line(progress: stage.Progress, n_epochs: int) -> str:
    epoch = progress.so_far
    return (
        f"epoch {epoch.epoch}/{n_epochs}  loss {epoch.mean_loss:.4f}  "
        f"accuracy {percent(epoch.accuracy, 2)}  "
        f"{progress.n_images / epoch.duration_s:,.0f} images/s"
    )


def _epoch_line(epoch: EpochMetrics, n_epochs: int) -> str:
    finished, held_out = "finished. ", ""
    if epoch.validation_accuracy is not None:  # both do not fit 80 columns
        finished, held_out = "", f", held out {percent(epoch.validation_accuracy, 2)}"
    return (
        f"Epoch [{epoch.epoch:3}/{n_epochs:3}] {finished}"
        f"Mean loss: {epoch.mean_loss:.5f}. Accuracy: {percent(epoch.accuracy, 2)}{held_out}. "
        f"{epoch.duration_s:.1f} s"
    )


def _class_line(row: dict[str, Any]) -> str:
    if not row["n"]:
        return f"  {row['label']}: not measured, without a test image"
    from ..runtime.measure.result import Interval

    interval = Interval(*(100 * end for end in row["interval_95"].values()))
    value, ends = interval.around(100 * row["accuracy"], 1)
    return f"  {row['label']}: {value} % (95 % interval {ends}, n = {row['n']:,})"


def _epochs(n: int) -> str:
    return f"{n} epoch{'s' if n != 1 else ''}"
