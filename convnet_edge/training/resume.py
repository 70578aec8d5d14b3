"""Keep an unfinished run after each epoch, and take it up again bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..networks import checkpoint
from ..networks.checkpoint import Checkpoint
from ..runtime.errors import InputError
from ..runtime.measure.result import as_json
from .record import EpochMetrics
from .run import Run

Tensor = torch.Tensor
START_AFRESH = "repeat the options of that run, or leave --resume out to start afresh"


def resume_path(out: Path) -> Path:
    """Return where the unfinished run of checkpoint `out` is kept."""
    return out.with_name(f"{out.stem}.resume.safetensors")


def completed(out: Path, training: dict[str, Any]) -> dict[str, Any] | None:
    """Return the header of `out` if it is what the run that `training` describes came to.

    Raises:
        InputError: `out` is the result of another run, or unreadable.
    """
    if resume_path(out).exists() or not out.exists():
        return None
    header = checkpoint.load(out, kind="model").header
    _require_same(out, header, training)
    return header


def save(run: Run, epochs: tuple[EpochMetrics, ...]) -> None:
    """Write the state after the last of `epochs`, atomically.

    Raises:
        InputError: the folder cannot be written or the disk is full; the state before stands.
    """
    header = {
        "training": run.training,
        "epochs": as_json(epochs),
        "time_s": run.time_s,
        "threads": torch.get_num_threads(),
    }
    tensors = {**run.state(), "choices": run.choices.get_state()}
    checkpoint.save(resume_path(run.options.out), Checkpoint("resume", tensors, header))


def restore(run: Run) -> int | None:
    """Take the unfinished run up, if there is one; return its thread count.

    Raises:
        InputError: what was kept is damaged or belongs to another run.
    """
    path = resume_path(run.options.out)
    if not path.exists():
        return None
    kept = checkpoint.load(path, kind="resume")
    _require_same(path, kept.header, run.training)
    try:
        copy_state(kept.tensors, run.state())
        run.choices.set_state(kept.tensors["choices"])
        run.epochs = tuple(EpochMetrics(**epoch) for epoch in kept.header["epochs"])
        run.time_s |= {str(what): float(s) for what, s in kept.header["time_s"].items()}
        return int(kept.header["threads"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{path} does not fit this run: {str(error).splitlines()[0]}",
            expected="the state of the same run",
            next_step=START_AFRESH,
        ) from error


def copy_state(saved: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
    """Copy what was saved into the tensors in use, which keep their memory format.

    Raises:
        KeyError, ValueError: one is missing, or of another shape or dtype.
    """
    for name, mine in live.items():
        if saved[name].shape != mine.shape or saved[name].dtype != mine.dtype:
            raise ValueError(f"{name} is {saved[name].dtype} {tuple(saved[name].shape)}")
        mine.copy_(saved[name])


def require_same_start(run: Run) -> None:
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
            expected=f"{resume_path(run.options.out)} to be the same file on every machine",
            next_step="put --out into a folder that the machines share, or copy that file to each",
        )


def _require_same(path: Path, header: dict[str, Any], ours: dict[str, Any]) -> None:
    theirs = header.get("training", {})
    for key, value in ours.items():
        if value != theirs.get(key):
            raise InputError(
                f"{path} belongs to another run: {key} is {theirs.get(key)!r}, now {value!r}",
                expected="the same data, recipe and network",
                next_step=START_AFRESH,
            )
