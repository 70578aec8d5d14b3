"""Train the convnet by a recipe, and keep every complete epoch safe on the way.

The default recipe is the seed's, with the same mathematics as its loop (Adam, cross-entropy,
batches of a fresh permutation), but for when the epoch's accuracy is counted: before each update,
from the pass that gives the gradients, where the seed runs a second one after it. Exporting,
plotting and printing are done elsewhere.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..data import fashion_mnist as data
from ..data.fashion_mnist import CLASS_LABELS
from ..drawing import pictures as plots
from ..networks import checkpoint
from ..networks.convnet import (
    Convnet,
    build_convnet,
    compute_logits,
    count_parameters,
    layer_widths,
    needed_multiplications,
)
from ..networks.convnet_gradients import StepResult, loss_and_gradients
from ..runtime import files
from ..runtime.errors import CheckFailedError, InputError, InterruptedRunError
from ..runtime.measure import accuracy, machine
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.result import Accuracy
from . import resume
from .batches import Choices, TrainingImages, draw_choices, pixel_moments
from .cost import Cost, estimate
from .distributed import Processes, joined, local_device
from .muon import Updater
from .options import TrainOptions
from .recipes import Recipe

Tensor = torch.Tensor

TRAIN_SCHEMA = "convnet-edge/train/2"
REPORT_EVERY_S = 0.2
EXPLODED_LOSS = 10 * math.log(len(CLASS_LABELS))  # ten times that of guessing
EAGER_STEPS = 3  # before a CUDA graph is captured: libraries set themselves up in the first ones
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: mean loss over its batches, accuracy counted before each update, seconds.

    validation_loss, validation_accuracy: of the weights after the epoch on the images held out,
    None without any.
    """

    epoch: int
    mean_loss: float
    accuracy: float
    duration_s: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far training is. epoch: 1-based; metrics and speed are those of the epoch so far."""

    epoch: int
    n_epochs: int
    n_images: int
    n_images_total: int
    mean_loss: float
    accuracy: float
    images_per_s: float


@dataclass(frozen=True)
class Start:
    """What is known before the first step. n_done: complete epochs of the run gone on with."""

    device: str
    n_processes: int
    model: Convnet
    images: ImageSet
    n_epochs: int
    n_done: int
    cost: Cost
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Listener:
    """What the caller wants to hear while training runs."""

    started: Callable[[Start], None] = lambda _: None
    progress: Callable[[Progress], None] = lambda _: None
    epoch_done: Callable[[EpochMetrics, int], None] = lambda *_: None
    already_complete: Callable[[dict[str, Any]], None] = lambda _: None


@dataclass(frozen=True)
class TrainResult:
    """What training left: files, the epochs' metrics, and the one score on the test images."""

    checkpoint_path: Path
    record_path: Path
    picture: plots.Picture
    epochs: tuple[EpochMetrics, ...]
    test: Accuracy
    record: dict[str, Any]


@dataclass
class Run:
    """The state that steps and epochs change, and what they need for it."""

    config: TrainOptions
    recipe: Recipe
    training: dict[str, Any]
    device: torch.device
    processes: Processes
    images: TrainingImages
    held_out: ImageSet
    model: Convnet
    updater: Updater
    choices: torch.Generator
    loss_sum: Tensor
    n_correct: Tensor
    average: list[Tensor] | None = None
    epochs: list[EpochMetrics] = field(default_factory=list)
    n_kept: int = 0
    time_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds of the block to what `what` took."""
        started = time.perf_counter_ns()
        yield
        taken = (time.perf_counter_ns() - started) / 1e9
        self.time_s[what] = self.time_s.get(what, 0.0) + taken

    def finished_model(self) -> Convnet:
        """Return the network as it is handed over: averaged weights, normalisation folded in."""
        shape = (1, *self.held_out.images.shape[1:])
        model = build_convnet(shape, kernel_size=self.config.kernel_size, width=self.config.width)
        weights = self.average or [p.detach() for p in self.model.parameters()]
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), weights, strict=True):
                parameter.copy_(weight)
        fold_normalization(model, self.images.mean, self.images.deviation)
        return model.to(self.device).eval()


def train(config: TrainOptions, listener: Listener | None = None) -> TrainResult | None:
    """Train as `config` says; write checkpoint, record and curve.

    Returns None where there is nothing to hand over: the run to resume is complete already, or
    this is one of several processes and another one leads.

    Raises:
        InputError: data, device or a resumed run are not as they should be.
        CheckFailedError: the loss exploded or is no longer finite.
        InterruptedRunError: Ctrl-C, or another process is gone; the last complete epoch is kept.
    """
    listener = listener or Listener()
    device = local_device(resolve_device(config.device))
    clock = time.perf_counter_ns()
    images = data.load_training_set(config.data, config.data_dir)
    data_s = (time.perf_counter_ns() - clock) / 1e9
    used, held_out = split(images, config.validate)
    training = describe_training(config, used)
    if config.resume and resume.is_complete(config.out, training):
        listener.already_complete(checkpoint.load(config.out, kind="model").header)
        return None
    with joined(device) as processes, precision(config):
        run = start(config, training, used, held_out, device, processes)
        run.time_s["data"] = data_s
        threads = _restore(run) if config.resume else None
        _require_same_start(run)
        listener.started(_describe_start(run, used, threads))
        _train_epochs(run, listener)
        processes.wait()  # nobody leaves while another still needs the sums
        return _finish(run) if processes.leads else None


def resolve_device(name: str) -> torch.device:
    """Return the device `name` stands for; "auto" takes cuda, else mps, else cpu.

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
    return torch.device(name)


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


def describe_training(config: TrainOptions, images: ImageSet) -> dict[str, Any]:
    """Return what decides the trained weights; a resumed run must have the same."""
    recipe = config.plan
    muon = "Muon on conv2 and the first linear layer, AdamW on the rest"
    moments = pixel_moments(images) if recipe.normalize else None
    return {
        "recipe": config.recipe,
        "data": config.data,
        "n_images": len(images),
        "n_validation_images": config.validate,
        "images_sha256": images.images_sha256,
        "labels_sha256": images.labels_sha256,
        "optimizer": muon if recipe.muon_learning_rate else "Adam",
        **asdict(recipe),
        "pixel_mean_and_deviation": list(moments) if moments else None,
        "kernel_size": config.kernel_size,
        "width": config.width,
        "seed": config.seed,
        "precision": config.precision,
    }


def fold_normalization(model: Convnet, mean: float, deviation: float) -> None:
    """Change conv1 so that it takes pixels in [0, 1] where it took (pixel - mean) / deviation.

    Exact, since the convolution pads nothing: w' = w / deviation, b' = b - mean Σ w / deviation;
    computed in float64, rounded once.
    """
    if (mean, deviation) == (0.0, 1.0):
        return
    conv1 = model.layer_stack[0]
    assert isinstance(conv1, torch.nn.Conv2d)
    assert conv1.bias is not None
    with torch.no_grad():
        weight = conv1.weight.double() / deviation
        conv1.bias.copy_(conv1.bias.double() - mean * weight.sum((1, 2, 3)))
        conv1.weight.copy_(weight)


@contextmanager
def precision(config: TrainOptions) -> Iterator[None]:
    """Never let CUDA multiply in TF32, as PyTorch's default lets convolutions."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def start(
    config: TrainOptions,
    training: dict[str, Any],
    used: ImageSet,
    held_out: ImageSet,
    device: torch.device,
    processes: Processes,
) -> Run:
    """Build network, optimizers and device data of a run that has not taken a step."""
    recipe = config.plan
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_convnet(
            (1, *used.images.shape[1:]), kernel_size=config.kernel_size, width=config.width
        )
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if processes.leads:
        written = (config.out, resume.resume_path(config.out), _record_path(config.out),
                   _picture_path(config.out))  # fmt: skip
        for path in written:
            files.remove_leftovers(path)
    return Run(
        config,
        recipe,
        training,
        device,
        processes,
        TrainingImages(used, recipe, kernel_size=config.kernel_size, device=device),
        held_out,
        model,
        Updater(model, recipe),
        torch.Generator().manual_seed(config.seed),
        loss_sum=torch.zeros((), device=device),
        n_correct=torch.zeros((), device=device, dtype=torch.int64),
        average=[p.detach().clone() for p in model.parameters()] if recipe.average else None,
    )


def _describe_start(run: Run, used: ImageSet, threads: int | None) -> Start:
    config, warnings = run.config, []
    now = torch.get_num_threads()
    if threads is not None and threads != now:
        warnings.append(
            f"the run so far used {threads} threads, this process {now}: the final weights will "
            "differ in their last bits from an uninterrupted run's"
        )
    emulated = run.device.type == "cpu" and not BF16_FLAGS & set(machine.passport()["isa"])
    if config.precision == "bf16" and emulated:
        warnings.append("this processor has no bfloat16 instructions: --precision bf16 is slower")
    layers = needed_multiplications(
        (1, *used.images.shape[1:]), kernel_size=config.kernel_size, width=config.width
    )
    cost = estimate(
        run.model,
        layers,
        n_images=len(used),
        data_bytes=used.images.nbytes + 8 * len(used),
    )
    return Start(
        device_name(run.device),
        run.processes.size,
        run.model,
        used,
        run.recipe.epochs,
        len(run.epochs),
        cost,
        tuple(warnings),
    )


def _train_epochs(run: Run, listener: Listener) -> None:
    step = make_step(run)
    try:
        while len(run.epochs) < run.recipe.epochs:
            with run.timed("epochs"):
                metrics = _train_epoch(run, step, listener)
            with run.timed("validation"):
                metrics = _validate(run, metrics)
            run.epochs.append(metrics)
            if run.processes.leads:
                with run.timed("checkpoints"):
                    _save(run)
            run.n_kept = len(run.epochs)
            listener.epoch_done(metrics, run.recipe.epochs)
    except KeyboardInterrupt as error:
        raise _interrupted(run) from error


class Step:
    """One update from the images that `choices` names; adds loss and hits to the run's sums."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.parameters = [p.detach() for p in run.model.parameters()]
        self.dtype = torch.bfloat16 if run.config.precision == "bf16" else None

    def __call__(self, choices: Choices, n_total: int) -> None:
        """Take the step; n_total: images of the step over all processes."""
        run = self.run
        result = self.gradients(choices, n_total)
        run.processes.add_up((*result.gradients, result.loss, result.n_correct))
        run.updater.step(result.gradients)
        run.loss_sum += result.loss
        run.n_correct += result.n_correct
        if run.average is not None:
            torch._foreach_lerp_(run.average, self.parameters, 1 - run.recipe.average)

    def gradients(self, choices: Choices, n_total: int) -> StepResult:
        """Return this process's share of loss, hits and gradients."""
        if not len(choices.order):  # more processes than images in the last batch
            zeros = tuple(torch.zeros_like(p) for p in self.parameters)
            sums = self.run.loss_sum, self.run.n_correct
            return StepResult(torch.zeros_like(sums[0]), torch.zeros_like(sums[1]), zeros)
        return loss_and_gradients(
            self.parameters,
            self.run.images.batch(choices),
            n_total=n_total,
            dtype=self.dtype,
        )


class GraphedStep(Step):
    """The same step as one CUDA graph, captured once; uneven batches run without it."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.n_calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: Choices | None = None

    def __call__(self, choices: Choices, n_total: int) -> None:
        """Take the step; the first ones eagerly, then by capture and replay."""
        whole = len(choices.order) == n_total == self.run.recipe.batch_size
        if not whole or self.n_calls < EAGER_STEPS:  # several processes: each has a part only
            self.n_calls += 1
            super().__call__(choices, n_total)
            return
        if self.graph is None:
            self.inputs = choices.each(torch.clone)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                super().__call__(self.inputs, n_total)
        assert self.inputs is not None
        for mine, theirs in zip(self.inputs.tensors(), choices.tensors(), strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        self.graph.replay()


def make_step(run: Run) -> Step:
    """Return the step as this run's device takes it fastest."""
    return GraphedStep(run) if run.device.type == "cuda" else Step(run)


def _train_epoch(run: Run, step: Step, listener: Listener) -> EpochMetrics:
    epoch, batch_size = len(run.epochs) + 1, run.recipe.batch_size
    n_hidden = layer_widths(run.config.width)[2]
    drawn = draw_choices(len(run.images), n_hidden, run.recipe, run.choices)
    choices, n = drawn.each(lambda t: t.to(run.device)), len(drawn.order)
    run.loss_sum.zero_()
    run.n_correct.zero_()
    n_batches = math.ceil(n / batch_size)
    n_steps = run.recipe.epochs * n_batches
    started = last_report = time.perf_counter_ns()
    for index, start in enumerate(range(0, n, batch_size)):
        stop = min(start + batch_size, n)
        if run.recipe.decay:
            run.updater.set_share(1 - ((epoch - 1) * n_batches + index) / n_steps)
        step(choices.part(*run.processes.share(start, stop)), stop - start)
        now = time.perf_counter_ns()
        # reading a sum makes the host wait for a GPU: there, an epoch is reported when it is over
        if run.device.type == "cpu" and now - last_report > REPORT_EVERY_S * 1e9:
            last_report = now
            mean_loss = run.loss_sum.item() / (index + 1)
            _require_sound(run, epoch, mean_loss)
            speed = stop / ((now - started) / 1e9)
            share = run.n_correct.item() / stop
            listener.progress(Progress(epoch, run.recipe.epochs, stop, n, mean_loss, share, speed))
    mean_loss, share = run.loss_sum.item() / n_batches, run.n_correct.item() / n
    _require_sound(run, epoch, mean_loss)
    return EpochMetrics(epoch, mean_loss, share, (time.perf_counter_ns() - started) / 1e9)


def _require_sound(run: Run, epoch: int, mean_loss: float) -> None:
    if mean_loss < EXPLODED_LOSS:  # false for NaN
        return
    kept = f"the last good epoch, {run.n_kept}, is in {resume.resume_path(run.config.out)}"
    rates = f"{run.recipe.learning_rate:g}"
    if run.recipe.muon_learning_rate:
        rates += f" (Muon {run.recipe.muon_learning_rate:g})"
    raise CheckFailedError(
        f"the mean loss is {mean_loss:.4g} in epoch {epoch} at learning rate {rates}",
        expected=f"a finite loss below {EXPLODED_LOSS:.3g}, ten times that of guessing",
        next_step="lower --learning-rate" + (f"; {kept}" if run.n_kept else "; nothing is kept"),
    )


def _validate(run: Run, metrics: EpochMetrics) -> EpochMetrics:
    if not len(run.held_out) or not run.processes.leads:
        return metrics
    logits = compute_logits(run.finished_model(), run.held_out.images, torch.float32)
    top = logits.max(axis=1)
    picked = logits[np.arange(len(logits)), run.held_out.labels]
    losses = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - picked
    hits = logits.argmax(axis=1) == run.held_out.labels
    return replace(
        metrics, validation_loss=float(losses.mean()), validation_accuracy=float(hits.mean())
    )


def _finish(run: Run) -> TrainResult:
    config, model = run.config, run.finished_model()
    with run.timed("test"):
        test = data.load_test_set()
        logits = compute_logits(model, test.images, torch.float32)
        score = accuracy.score(logits.argmax(axis=1), test.labels, CLASS_LABELS)
    record = _record(run)
    record["test"] = {
        "n": score.n,
        "n_correct": score.n_correct,
        "accuracy": score.accuracy,
        "interval_95": asdict(score.interval),
        "images_sha256": test.images_sha256,
        "labels_sha256": test.labels_sha256,
    }
    trained = {
        key: record[key] for key in ("model", "class_labels", "training", "test", "versions")
    }
    model_file = checkpoint.Checkpoint("model", dict(model.state_dict()), trained)
    epochs = [asdict(epoch) for epoch in run.epochs]
    picture = plots.training_curve(_picture_path(config.out), epochs)
    files.write_json(_record_path(config.out), record)
    checkpoint.save(config.out, model_file)
    resume.resume_path(config.out).unlink(missing_ok=True)
    return TrainResult(
        config.out, _record_path(config.out), picture, tuple(run.epochs), score, record
    )


def _record_path(out: Path) -> Path:
    return out.with_suffix(".train.json")


def _picture_path(out: Path) -> Path:
    return out.with_suffix(".train.png")


def _record(run: Run) -> dict[str, Any]:
    """Return everything that is needed to repeat the run, as plain JSON values."""
    return {
        "schema": TRAIN_SCHEMA,
        "model": {
            "image_shape": [1, *run.held_out.images.shape[1:]],
            "kernel_size": run.config.kernel_size,
            "width": run.config.width,
            "n_parameters": count_parameters(run.model),
        },
        "class_labels": list(CLASS_LABELS),
        "training": run.training,
        "device": {
            "name": device_name(run.device),
            "threads": torch.get_num_threads(),
            "n_processes": run.processes.size,
            "cpu_seed_repeats_bit_for_bit": run.device.type == "cpu",
        },
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "time_s": run.time_s,
        "machine": machine.passport(),
        "versions": {
            "convnet-edge": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def device_name(device: torch.device) -> str:
    """Return the GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _save(run: Run) -> None:
    tensors = {f"model.{name}": t for name, t in run.model.state_dict().items()}
    tensors |= {f"average.{i}": t for i, t in enumerate(run.average or ())}
    tensors |= run.updater.state()
    tensors["choices"] = run.choices.get_state()
    header = {
        "training": run.training,
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "time_s": run.time_s,
        "threads": torch.get_num_threads(),
    }
    resume.save(run.config.out, tensors, header)


def _restore(run: Run) -> int | None:
    """Take the unfinished run up, if there is one; return its thread count.

    Raises:
        InputError: what was kept is damaged or belongs to another run.
    """
    kept = resume.load(run.config.out, run.training)
    if kept is None:
        return None
    try:
        prefix = "model."
        run.model.load_state_dict(
            {k.removeprefix(prefix): t for k, t in kept.tensors.items() if k.startswith(prefix)}
        )
        for i, tensor in enumerate(run.average or ()):
            tensor.copy_(kept.tensors[f"average.{i}"])
        run.updater.load_state(kept.tensors)
        run.choices.set_state(kept.tensors["choices"])
        run.epochs = [EpochMetrics(**epoch) for epoch in kept.header["epochs"]]
        run.n_kept = len(run.epochs)
        run.time_s |= {str(what): float(s) for what, s in kept.header["time_s"].items()}
        return int(kept.header["threads"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise resume.does_not_fit(run.config.out, error) from error


def _require_same_start(run: Run) -> None:
    """Check that all processes go on from the same epoch.

    Raises:
        InputError: they do not, so their folders are not one and the same.
    """
    total = torch.tensor(float(len(run.epochs)), device=run.device)
    run.processes.add_up((total,))
    if total.item() != len(run.epochs) * run.processes.size:
        raise InputError(
            f"process {run.processes.rank} found {len(run.epochs)} complete epochs to resume, "
            "others found another number",
            expected=f"{resume.resume_path(run.config.out)} to be the same file on every machine",
            next_step="put --out into a folder that the machines share, or copy that file to each",
        )


def _interrupted(run: Run) -> InterruptedRunError:
    done, n_epochs = run.n_kept, run.recipe.epochs
    if not done:
        return InterruptedRunError(
            "stopped within the first epoch; nothing is kept",
            expected=f"{n_epochs} epochs",
            next_step="run the same command again",
        )
    return InterruptedRunError(
        f"stopped in epoch {done + 1}; {done} complete of {n_epochs} kept in "
        f"{resume.resume_path(run.config.out)}",
        expected=f"{n_epochs} epochs",
        next_step="run the same command again with --resume",
    )
