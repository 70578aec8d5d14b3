"""Train the convnet by a recipe, and keep every complete epoch safe on the way.

The default recipe is the tutorial's, with the same mathematics as its loop (Adam, cross-entropy,
batches of a fresh permutation), but for when the epoch's accuracy is counted: before each update,
from the pass that gives the gradients, where the tutorial runs a second one after it. Exporting and
printing are done elsewhere.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from .. import __version__
from ..data import fashion_mnist as data
from ..drawing import pictures
from ..networks import checkpoint
from ..networks.checkpoint import Checkpoint
from ..networks.convnet import Convnet, compute_logits
from ..runtime import files
from ..runtime.errors import CheckFailedError, InputError, InterruptedRunError
from ..runtime.measure import accuracy, machine
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.result import Accuracy, as_json
from . import resume
from .batches import draw_choices
from .cost import Cost, estimate
from .distributed import joined
from .options import TrainOptions
from .record import SCHEMA, Device, EpochMetrics, Record, Tested, describe_training
from .resume import resume_path
from .run import Run, Step, make_step

REPORT_EVERY_S = 0.2
EXPLODED_LOSS = 10 * math.log(len(data.CLASS_LABELS))  # ten times that of guessing
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Start:
    """What is known before the first step. n_done: complete epochs of the run gone on with."""

    device: str
    n_processes: int
    model: Convnet
    images: ImageSet
    n_done: int
    cost: Cost
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far the epoch is, over all processes. so_far: its metrics until now."""

    so_far: EpochMetrics
    n_images: int
    n_images_total: int


@dataclass(frozen=True)
class AlreadyComplete:
    """There is nothing to do. header: the finished checkpoint's."""

    header: dict[str, Any]


# what the caller hears while training runs; metrics: of an epoch that is complete and kept
Event = Start | Progress | EpochMetrics | AlreadyComplete
Tell = Callable[[Event], None]


@dataclass(frozen=True)
class TrainResult:
    """What training left: files, and the one score on the test images."""

    checkpoint_path: Path
    record_path: Path
    picture: pictures.Picture
    record: Record
    test: Accuracy


def train(options: TrainOptions, tell: Tell = lambda _: None) -> TrainResult | None:
    """Train as `options` say; write checkpoint, record and curve.

    Returns None where there is nothing to hand over: the run to resume is complete already, or
    this is one of several processes and another one leads.

    Raises:
        InputError: data, device or a resumed run are not as they should be.
        CheckFailedError: the loss exploded or is no longer finite.
        InterruptedRunError: Ctrl-C, or another process is gone; the last complete epoch is kept.
    """
    device = resolve_device(options.device)
    clock = time.perf_counter_ns()
    whole = data.load_training_set(options.data, options.data_dir)
    data_s = (time.perf_counter_ns() - clock) / 1e9
    images = split(whole, options.validate)
    training = describe_training(options, images[0])
    if options.resume and (header := resume.completed(options.out, training)):
        tell(AlreadyComplete(header))
        return None
    with joined(device) as processes, without_tf32():
        run = Run(options, training, images, device=device, processes=processes)
        run.time_s["data"] = data_s
        threads = resume.restore(run) if options.resume else None
        resume.require_same_start(run)
        tell(_describe_start(run, images[0], threads))
        _train_epochs(run, tell)
        processes.wait()  # nobody leaves while another still needs the sums
        return _finish(run) if processes.leads else None


def resolve_device(name: str) -> torch.device:
    """Return the device `name` stands for; "auto" takes cuda, else mps, else cpu.

    Where torchrun started a process for each GPU, it is this process's own.

    Raises:
        InputError: a device was asked for that PyTorch cannot use here.
    """
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(candidate for candidate, works in usable.items() if works)
    if not usable[name]:
        raise InputError(
            f"asked for {name}, which PyTorch {torch.__version__} cannot use here",
            expected="a device that is present",
            next_step="pass --device cpu, or --device auto",
        )
    local_rank = os.environ.get("LOCAL_RANK")
    return torch.device(f"cuda:{local_rank}" if name == "cuda" and local_rank else name)


def split(images: ImageSet, n_held_out: int) -> tuple[ImageSet, ImageSet]:
    """Return the training images without the last `n_held_out`, and those.

    Raises:
        InputError: nothing would be left to train on.
    """
    n = len(images) - n_held_out
    if n < 1:
        raise InputError(
            f"--validate {n_held_out} of {len(images)} training images",
            expected="fewer than there are",
            next_step="lower --validate",
        )
    first = replace(images, images=images.images[:n], labels=images.labels[:n])
    return first, replace(images, images=images.images[n:], labels=images.labels[n:])


@contextmanager
def without_tf32() -> Iterator[None]:
    """Keep CUDA from multiplying in TF32, as PyTorch's default lets convolutions."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def device_name(device: torch.device) -> str:
    """Return the GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _describe_start(run: Run, used: ImageSet, threads: int | None) -> Start:
    warnings, now = [], torch.get_num_threads()
    if threads is not None and threads != now:
        warnings.append(
            f"the run so far used {threads} threads, this process {now}: the final weights will "
            "differ in their last bits from an uninterrupted run's"
        )
    emulated = run.device.type == "cpu" and not BF16_FLAGS & set(machine.passport()["isa"])
    if run.options.precision == "bf16" and emulated:
        warnings.append("this processor has no bfloat16 instructions: --precision bf16 is slower")
    return Start(
        device_name(run.device),
        run.processes.size,
        run.model,
        used,
        len(run.epochs),
        estimate(run.architecture, used, run.device),
        tuple(warnings),
    )


def _train_epochs(run: Run, tell: Tell) -> None:
    step = make_step(run)
    try:
        while len(run.epochs) < run.recipe.epochs:
            with run.timed("epochs"):
                metrics = _train_epoch(run, step, tell)
            with run.timed("validation"):
                metrics = _validate(run, metrics)
            epochs = (*run.epochs, metrics)
            if run.processes.leads:
                with run.timed("checkpoints"):
                    resume.save(run, epochs)
            run.epochs = epochs
            tell(metrics)
    except KeyboardInterrupt as error:
        raise _interrupted(run) from error


def _train_epoch(run: Run, step: Step, tell: Tell) -> EpochMetrics:
    n_done, batch_size = len(run.epochs), run.recipe.batch_size
    drawn = draw_choices(len(run.images), run.architecture.widths[2], run.recipe, run.choices)
    choices, n = drawn.each(lambda t: t.to(run.device)), len(drawn.order)
    run.loss_sum.zero_()
    run.n_correct.zero_()
    n_batches = math.ceil(n / batch_size)
    n_steps = run.recipe.epochs * n_batches
    started = last_report = time.perf_counter_ns()
    for index, start in enumerate(range(0, n, batch_size)):
        stop = min(start + batch_size, n)
        if run.recipe.decay:
            run.updater.set_share(1 - (n_done * n_batches + index) / n_steps)
        step(choices.part(*run.processes.share(start, stop)), stop - start)
        now = time.perf_counter_ns()
        # reading a sum makes the host wait for a GPU: there, an epoch is reported when it is over
        if run.device.type == "cpu" and now - last_report > REPORT_EVERY_S * 1e9:
            last_report = now
            tell(Progress(_measure(run, index + 1, stop, started), stop, n))
    return _measure(run, n_batches, n, started)


def _measure(run: Run, n_batches: int, n_images: int, started: int) -> EpochMetrics:
    """Return the metrics of the epoch so far. started: `perf_counter_ns` at its beginning.

    Raises:
        CheckFailedError: the loss exploded or is no longer finite.
    """
    epoch, mean_loss = len(run.epochs) + 1, run.loss_sum.item() / n_batches
    if mean_loss < EXPLODED_LOSS:  # false for NaN
        duration_s = (time.perf_counter_ns() - started) / 1e9
        return EpochMetrics(epoch, mean_loss, run.n_correct.item() / n_images, duration_s)
    kept = f"the last good epoch, {len(run.epochs)}, is in {resume_path(run.options.out)}"
    rates = f"{run.recipe.learning_rate:g}"
    if run.recipe.muon_learning_rate:
        rates += f" (Muon {run.recipe.muon_learning_rate:g})"
    raise CheckFailedError(
        f"the mean loss is {mean_loss:.4g} in epoch {epoch} at learning rate {rates}",
        expected=f"a finite loss below {EXPLODED_LOSS:.3g}, ten times that of guessing",
        next_step=f"lower --learning-rate; {kept if run.epochs else 'nothing is kept'}",
    )


def _validate(run: Run, metrics: EpochMetrics) -> EpochMetrics:
    if not len(run.held_out) or not run.processes.leads:
        return metrics
    logits = compute_logits(run.finished_model(), run.held_out.images, torch.float32)
    labels = torch.from_numpy(run.held_out.labels.astype("int64"))
    return replace(
        metrics,
        validation_loss=F.cross_entropy(torch.from_numpy(logits), labels).item(),
        validation_accuracy=float((logits.argmax(axis=1) == run.held_out.labels).mean()),
    )


def _finish(run: Run) -> TrainResult:
    model = run.finished_model()
    with run.timed("test"):
        test = data.load_test_set()
        logits = compute_logits(model, test.images, torch.float32)
        score = accuracy.score(logits.argmax(axis=1), test.labels, data.CLASS_LABELS)
    record = _record(run, score, test)
    out, record_path, picture_path, unfinished = _written(run.options.out)
    document = as_json(record)
    picture = pictures.training_curve(picture_path, document["epochs"])
    files.write_json(record_path, document)
    checkpoint.save(out, Checkpoint("model", dict(model.state_dict()), record.header))
    unfinished.unlink(missing_ok=True)
    return TrainResult(out, record_path, picture, record, score)


def _written(out: Path) -> tuple[Path, Path, Path, Path]:
    """Return where checkpoint, record, picture and the unfinished run go."""
    return out, out.with_suffix(".train.json"), out.with_suffix(".train.png"), resume_path(out)


def _record(run: Run, score: Accuracy, test: ImageSet) -> Record:
    return Record(
        schema=SCHEMA,
        model=checkpoint.describe_network(run.architecture),
        class_labels=data.CLASS_LABELS,
        training=run.training,
        device=Device(
            name=device_name(run.device),
            threads=torch.get_num_threads(),
            n_processes=run.processes.size,
            cpu_seed_repeats_bit_for_bit=run.device.type == "cpu",
        ),
        epochs=run.epochs,
        time_s=run.time_s,
        machine=machine.passport(),
        versions={
            "convnet-edge": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        test=Tested(
            n=score.n,
            n_correct=score.n_correct,
            accuracy=score.accuracy,
            interval_95=score.interval,
            images_sha256=test.images_sha256,
            labels_sha256=test.labels_sha256,
        ),
    )


def _interrupted(run: Run) -> InterruptedRunError:
    n_done, n_epochs, again = len(run.epochs), run.recipe.epochs, "run the same command again"
    kept = f"{n_done} complete of {n_epochs} kept in {resume_path(run.options.out)}"
    return InterruptedRunError(
        f"stopped in epoch {n_done + 1}; {kept if n_done else 'nothing is kept'}",
        expected=f"{n_epochs} epochs",
        next_step=f"{again} with --resume" if n_done else again,
    )
