"""Train the convnet by the seed's recipe, and keep every complete epoch safe on the way.

Same mathematics as the seed's loop (Adam, cross-entropy, batches of a fresh permutation), with
the images on the device as uint8 and one forward pass a step: the epoch's accuracy is counted
before each update, where the seed runs a second pass to count it after. Exporting, plotting and
printing are done elsewhere.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import __version__, checkpoint, data, plots
from .config import TrainConfig
from .model import Convnet, build_convnet, compute_logits, count_parameters
from .runtime import accuracy, machine
from .runtime.errors import CheckFailedError, InputError, InterruptedRunError
from .runtime.files import write_json
from .runtime.idx import CLASS_LABELS, ImageSet

RECIPE = "seed"
TRAIN_SCHEMA = "convnet-edge/train/1"
REPORT_EVERY_S = 0.2


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: mean loss over its batches, accuracy counted before each update, seconds."""

    epoch: int
    mean_loss: float
    accuracy: float
    duration_s: float


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
class Listener:
    """What the caller wants to hear while training runs."""

    started: Callable[[str, Convnet, ImageSet, int], None] = lambda *_: None
    progress: Callable[[Progress], None] = lambda _: None
    epoch_done: Callable[[EpochMetrics, int], None] = lambda *_: None


@dataclass(frozen=True)
class TrainResult:
    """What training left: files, the epochs' metrics, and the one score on the test images."""

    checkpoint_path: Path
    record_path: Path
    picture: plots.Picture
    epochs: tuple[EpochMetrics, ...]
    test: accuracy.Accuracy
    record: dict[str, Any]


@dataclass
class _Run:
    """The state that an epoch changes."""

    model: Convnet
    optimizer: torch.optim.Adam
    permutations: torch.Generator
    epochs: list[EpochMetrics]


def resume_path(out: Path) -> Path:
    """Return where the unfinished run of checkpoint `out` is kept."""
    return out.with_name(f"{out.stem}.resume.safetensors")


def train(config: TrainConfig, listener: Listener | None = None) -> TrainResult:
    """Train as `config` says; write checkpoint, record and curve.

    Raises:
        InputError: data, device or a resumed run are not as they should be.
        CheckFailedError: the loss is no longer finite.
        InterruptedRunError: Ctrl-C; the last complete epoch is kept.
    """
    listener = listener or Listener()
    device = resolve_device(config.device)
    images = data.load_training_set(config.data, config.data_dir)
    if config.resume and not resume_path(config.out).exists() and config.out.exists():
        raise InputError(
            f"{config.out} is complete, and no unfinished run stands beside it",
            expected="an unfinished run to resume",
            next_step="leave --resume out to train afresh, or go on with `convnet-edge export`",
        )
    run = _start(config, images, device)
    if config.resume and resume_path(config.out).exists():
        _restore(run, config, images)
    listener.started(str(device), run.model, images, len(run.epochs))
    _train_epochs(run, config, images, device, listener)
    return _finish(run, config, images, device)


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


def _start(config: TrainConfig, images: ImageSet, device: torch.device) -> _Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_convnet((1, *images.images.shape[1:]), kernel_size=config.kernel_size)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    permutations = torch.Generator().manual_seed(config.seed)
    return _Run(model, optimizer, permutations, [])


def _train_epochs(
    run: _Run, config: TrainConfig, images: ImageSet, device: torch.device, listener: Listener
) -> None:
    x_all = torch.from_numpy(images.images.copy())[:, None].to(device)  # (N, 1, H, W) uint8
    y_all = torch.from_numpy(images.labels.copy()).to(device, torch.int64)
    run.model.train()
    try:
        while len(run.epochs) < config.epochs:
            metrics = _train_epoch(run, config, x_all, y_all, listener)
            if not torch.isfinite(torch.tensor(metrics.mean_loss)):
                raise CheckFailedError(
                    f"the loss became {metrics.mean_loss} in epoch {metrics.epoch} at learning "
                    f"rate {config.learning_rate:g}",
                    expected="a finite loss",
                    next_step="lower --learning-rate; the last good epoch is in "
                    f"{resume_path(config.out)}"
                    if run.epochs
                    else "lower --learning-rate",
                )
            run.epochs.append(metrics)
            _save_resume(run, config, images)
            listener.epoch_done(metrics, config.epochs)
    except KeyboardInterrupt as error:
        raise _interrupted(run, config) from error


def _train_epoch(
    run: _Run,
    config: TrainConfig,
    x_all: torch.Tensor,
    y_all: torch.Tensor,
    listener: Listener,
) -> EpochMetrics:
    epoch, n = len(run.epochs) + 1, len(y_all)
    criterion = nn.CrossEntropyLoss()
    order = torch.randperm(n, generator=run.permutations).to(y_all.device)
    loss_sum = torch.zeros((), device=y_all.device)
    n_correct = torch.zeros((), device=y_all.device, dtype=torch.int64)
    n_batches = 0
    started = last_report = time.perf_counter_ns()
    for start in range(0, n, config.batch_size):
        chosen = order[start : start + config.batch_size]
        x, y = x_all[chosen].to(torch.float32) / 255, y_all[chosen]
        logits = run.model(x)
        loss = criterion(logits, y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        loss_sum += loss.detach()
        n_correct += (logits.detach().argmax(dim=1) == y).sum()
        n_batches += 1
        now = time.perf_counter_ns()
        if now - last_report > REPORT_EVERY_S * 1e9:
            last_report = now
            n_seen = start + len(y)
            listener.progress(
                Progress(
                    epoch,
                    config.epochs,
                    n_seen,
                    n,
                    loss_sum.item() / n_batches,
                    n_correct.item() / n_seen,
                    n_seen / ((now - started) / 1e9),
                )
            )
    mean_loss, share = loss_sum.item() / n_batches, n_correct.item() / n
    return EpochMetrics(epoch, mean_loss, share, (time.perf_counter_ns() - started) / 1e9)


def _finish(run: _Run, config: TrainConfig, images: ImageSet, device: torch.device) -> TrainResult:
    test = data.load_test_set()
    logits = compute_logits(run.model, test.images, torch.float32)
    score = accuracy.score(logits.argmax(axis=1), test.labels, CLASS_LABELS)
    record = _record(run, config, images, device)
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
    model_file = checkpoint.Checkpoint("model", dict(run.model.state_dict()), trained)
    checkpoint.save(config.out, model_file)
    record_path = config.out.with_suffix(".train.json")
    write_json(record_path, record)
    picture = plots.training_curve(
        config.out.with_suffix(".train.png"), [asdict(epoch) for epoch in run.epochs]
    )
    resume_path(config.out).unlink(missing_ok=True)
    return TrainResult(config.out, record_path, picture, tuple(run.epochs), score, record)


def _record(
    run: _Run, config: TrainConfig, images: ImageSet, device: torch.device
) -> dict[str, Any]:
    """Return everything that is needed to repeat the run, as plain JSON values."""
    return {
        "schema": TRAIN_SCHEMA,
        "model": {
            "image_shape": [1, *images.images.shape[1:]],
            "kernel_size": config.kernel_size,
            "n_parameters": count_parameters(run.model),
        },
        "class_labels": list(CLASS_LABELS),
        "training": _recipe(config, images),
        "device": {
            "name": _device_name(device),
            "threads": torch.get_num_threads(),
            "cpu_seed_repeats_bit_for_bit": device.type == "cpu",
        },
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "machine": machine.passport(),
        "versions": {
            "convnet-edge": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def _recipe(config: TrainConfig, images: ImageSet) -> dict[str, Any]:
    """Return what decides the trained weights; a resumed run must have the same."""
    return {
        "recipe": RECIPE,
        "data": config.data,
        "n_images": len(images),
        "images_sha256": images.images_sha256,
        "labels_sha256": images.labels_sha256,
        "epochs": config.epochs,
        "optimizer": "Adam",
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "kernel_size": config.kernel_size,
        "seed": config.seed,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _save_resume(run: _Run, config: TrainConfig, images: ImageSet) -> None:
    tensors = {f"model.{name}": t for name, t in run.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    tensors["permutations"] = run.permutations.get_state()
    header = {
        "training": _recipe(config, images),
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "threads": torch.get_num_threads(),
    }
    checkpoint.save(resume_path(config.out), checkpoint.Checkpoint("resume", tensors, header))


def _restore(run: _Run, config: TrainConfig, images: ImageSet) -> None:
    path = resume_path(config.out)
    kept = checkpoint.load(path, kind="resume")
    ours, theirs = _recipe(config, images), kept.header.get("training", {})
    differing = [key for key in ours if key != "epochs" and ours[key] != theirs.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"{path} belongs to another run: {key} is {theirs.get(key)!r}, now {ours[key]!r}",
            expected="the same data and recipe (more epochs are fine)",
            next_step="repeat the options of that run, or leave --resume out to start afresh",
        )
    try:
        run.model.load_state_dict(_under(kept.tensors, "model."))
        state = run.optimizer.state_dict()
        for index in range(len(state["param_groups"][0]["params"])):
            state["state"][index] = _under(kept.tensors, f"adam.{index}.")
        run.optimizer.load_state_dict(state)
        run.permutations.set_state(kept.tensors["permutations"])
        run.epochs = [EpochMetrics(**epoch) for epoch in kept.header["epochs"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} does not fit this model: {str(error).splitlines()[0]}",
            expected="the state of the same run",
            next_step="leave --resume out to start afresh",
        ) from error


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _interrupted(run: _Run, config: TrainConfig) -> InterruptedRunError:
    done = len(run.epochs)
    if not done:
        return InterruptedRunError(
            "stopped within the first epoch; nothing is kept",
            expected=f"{config.epochs} epochs",
            next_step="run the same command again",
        )
    return InterruptedRunError(
        f"stopped in epoch {done + 1}; {done} complete of {config.epochs} kept in "
        f"{resume_path(config.out)}",
        expected=f"{config.epochs} epochs",
        next_step="run the same command again with --resume",
    )
