"""Train a network by a recipe, and keep every complete epoch safe on the way.

The tutorial's recipe has the mathematics of its loop, but for when the epoch's accuracy is counted:
before each update, from the pass that gives the gradients, where the tutorial runs a second one
after it. Exporting and printing are done elsewhere.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from ..networks import build
from ..networks.convnet import compute_logits
from ..networks.memory import is_out_of_memory
from ..runtime.errors import CheckFailedError, InputError, InterruptedRunError, first_line
from ..runtime.measure import accuracy
from ..runtime.options import require
from . import precision, record, tensorboard
from .distributed import heeding_sigterm, joined
from .launch import LostProcessError, read_launch
from .options import TrainOptions
from .run import (
    EpochMetrics,
    GraphedStep,
    Run,
    Step,
    balanced_accuracy,
)

REPORT_EVERY_S = 0.2
EXPLODED = 10  # times the loss of guessing
PEAK_SIDE, PEAK_ROUNDS = 1024, 6


@dataclass(frozen=True)
class Progress:
    """How far the epoch is, over all processes. so_far: its metrics until now."""

    so_far: EpochMetrics
    n_images: int
    n_images_total: int


@dataclass(frozen=True)
class Reading:
    """How many pictures are decoded, before the run."""

    n: int
    n_total: int


# what the caller hears: pictures as they are read, the run before its first step, and each epoch
# that is complete and kept
Event = Reading | Run | Progress | EpochMetrics
Tell = Callable[[Event], None]


def train(options: TrainOptions, tell: Tell = lambda _: None) -> record.TrainResult | None:
    """Train as `options` say; write checkpoint, record and curve.

    Example: `ce.train(ce.TrainOptions(data="sample", epochs=3))`

    Returns None where there is nothing to hand over: the run to resume is complete already, or
    this is one of several processes and another one leads.

    Raises:
        InputError: data, device or a resumed run are not as they should be.
        CheckFailedError: the loss exploded or is no longer finite.
        InterruptedRunError: Ctrl-C, or another process is gone; the last complete epoch is kept.
    """
    device = resolve_device(options.device)
    record.require_meant(options)
    with tensorboard.opened(options) as log, joined(device):
        run = Run(
            options,
            device=device,
            progress=lambda n, n_total: tell(Reading(n, n_total)),
        )
        try:
            with heeding_sigterm(run.launch), build.blamed(run.named.arch, run.model):
                return _train(run, tell, log)
        except KeyboardInterrupt as error:
            raise _stopped(run, "stopped", InterruptedRunError) from error
        except LostProcessError as error:
            raise _stopped(run, error.found, LostProcessError) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = run.recipe.batch_size
            fewer = f"pass --batch-size {max(size // 2, 1)}"
            raise InputError(
                f"{record.device_name(device)} has no memory left: {first_line(error)}",
                expected=f"room for what {size} images leave in the network, to be trained",
                next_step=f"{fewer}, or smaller images (--image-size)",
            ) from error


def _stopped(run: Run, found: str, kind: type[InterruptedRunError]) -> InterruptedRunError:
    """Return the error that says what the disk holds of a run that did not end."""
    n_kept = record.count_kept(run)
    return kind(
        f"{found}; {_kept(run, n_kept)}",
        expected=f"{run.recipe.epochs} epochs",
        next_step=f"run the same command again{' with --resume' if n_kept else ''}",
    )


def _train(run: Run, tell: Tell, log: Callable[[EpochMetrics], None]) -> record.TrainResult | None:
    """Train a run that has begun; None where there is nothing to hand over."""
    if run.options.resume and (kept := record.find(run)):
        if kept.kind == "model":
            return None
        record.restore(run, kept)
    elif run.options.asked_precision == "auto":
        with without_tf32():
            precision.choose(run)
    record.require_same_start(run)
    tell(run)
    for metrics in run.epochs:
        log(metrics)
    with without_tf32():
        for metrics in _train_epochs(run, tell):
            log(metrics)
            tell(metrics)
        return record.finish(run) if run.launch.leads else None


def resolve_device(name: str) -> torch.device:
    """Return the device `name` stands for; of the GPUs of a torchrun launch, this process's own."""
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(candidate for candidate, works in usable.items() if works)
    found = f"asked for {name}, which PyTorch {torch.__version__} cannot use here"
    require(usable[name], found, "auto, cpu, or another that is present", "--device")
    local_rank = read_launch().local_rank
    own = name == "cuda" and local_rank is not None
    return torch.device(f"cuda:{local_rank}" if own else name)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Keep CUDA from multiplying in TF32, as PyTorch's default lets convolutions.

    Nothing is captured inside: torch.export asks for the older switches, which disagree then.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, earlier in zip(backends, before, strict=True):
            backend.fp32_precision = earlier


def measure_peak(device: torch.device) -> float:
    """Return the operations a second of a float32 matrix product here, best of a few rounds."""
    matrix = torch.rand(PEAK_SIDE, PEAK_SIDE, device=device)
    shortest = float("inf")
    for _ in range(PEAK_ROUNDS):
        started = time.perf_counter_ns()
        (matrix @ matrix)[0, 0].item()  # reading one element waits for the device
        shortest = min(shortest, (time.perf_counter_ns() - started) / 1e9)
    return 2 * PEAK_SIDE**3 / shortest


def _train_epochs(run: Run, tell: Tell) -> Iterator[EpochMetrics]:
    """Train the epochs that are left; give each one's metrics once its state is kept."""
    on_gpu = run.device.type == "cuda" and run.images.are_on_device
    graphed = on_gpu and run.is_reference and not run.n_of_head  # a graph is of what learns
    step: Step = GraphedStep(run) if graphed else run.step
    while len(run.epochs) < run.recipe.epochs:
        with run.timed("epochs"), run.seeded():
            metrics = _train_epoch(run, step, tell)
        with run.timed("validation"):
            metrics = _validate(run, metrics)
        epochs = (*run.epochs, metrics)
        if run.launch.leads:
            with run.timed("checkpoints"):
                record.save(run, epochs)
        run.epochs = epochs
        yield metrics


def _train_epoch(run: Run, step: Step, tell: Tell) -> EpochMetrics:
    n_done = len(run.epochs)
    run.begin_epoch()
    drawn = run.draw(run.choices)
    choices = {name: t.to(run.device) for name, t in drawn.items()}
    n = len(choices["order"])
    batches = run.split(n)
    n_batches = len(batches)
    n_steps = run.recipe.epochs * n_batches
    started = last_report = time.perf_counter_ns()
    for index, (start, stop) in enumerate(batches):
        if run.recipe.decay:
            run.updater.set_share(run.recipe.rate_at(n_done * n_batches + index, n_steps))
        ours = slice(*run.launch.share(start, stop))
        step({name: t[ours] for name, t in choices.items()}, stop - start)
        now = time.perf_counter_ns()
        # reading a sum makes the host wait for a GPU: there, an epoch is reported when it is over
        if run.device.type == "cpu" and now - last_report > REPORT_EVERY_S * 1e9:
            last_report = now
            tell(Progress(_measure(run, index + 1, drawn["order"][:stop], started), stop, n))
    return _measure(run, n_batches, drawn["order"], started)


def _measure(run: Run, n_batches: int, seen: torch.Tensor, started: int) -> EpochMetrics:
    """Return the metrics of the epoch so far.

    seen: which images it has passed over. started: `perf_counter_ns` at its beginning.
    """
    epoch, mean_loss = len(run.epochs) + 1, run.loss_sum.item() / n_batches
    exploded_loss = EXPLODED * math.log(len(run.dataset.class_labels))
    if mean_loss < exploded_loss:  # false for NaN
        n_hits = run.n_hits.cpu().numpy()
        n_images = np.bincount(run.dataset.train.labels[seen.numpy()], minlength=len(n_hits))
        accuracies = float(n_hits.sum() / len(seen)), balanced_accuracy(n_hits, n_images)
        return EpochMetrics(epoch, mean_loss, *accuracies, (time.perf_counter_ns() - started) / 1e9)
    rates = f"{run.recipe.learning_rate:g}"
    if run.recipe.muon_learning_rate:
        rates += f" (Muon {run.recipe.muon_learning_rate:g})"
    raise CheckFailedError(
        f"the mean loss is {mean_loss:.4g} in epoch {epoch} at learning rate {rates}",
        expected=f"a finite loss below {exploded_loss:.3g}, ten times that of guessing",
        next_step=f"lower --learning-rate; {_kept(run, record.count_kept(run))}",
    )


def _kept(run: Run, n_kept: int) -> str:
    if not n_kept:
        return "nothing is kept"
    return f"{n_kept} complete of {run.recipe.epochs} kept in {run.options.resume_path}"


def _validate(run: Run, metrics: EpochMetrics) -> EpochMetrics:
    held_out = run.dataset.validation
    if not len(held_out) or not run.launch.leads:
        return metrics
    model = run.pixels_to_logits(run.finished_network(between_epochs=True))
    with run.in_steps_format():
        logits = compute_logits(model, held_out.images, torch.float32)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.tensor(held_out.labels))
    score = accuracy.score(logits.argmax(axis=1), held_out.labels, run.dataset.class_labels)
    counts = np.array([(one.n_correct, one.n) for one in score.classes])
    return replace(
        metrics,
        validation_loss=loss.item(),
        validation_accuracy=score.accuracy,
        validation_balanced_accuracy=balanced_accuracy(*counts.T),
    )
