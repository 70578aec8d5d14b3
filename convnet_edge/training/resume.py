"""Keep an unfinished training run after each epoch, and take it up again bit for bit.

What a run's state consists of is the train stage's business: it comes and goes as named tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..networks import checkpoint
from ..runtime.errors import InputError

Tensor = torch.Tensor
START_AFRESH = "repeat the options of that run, or leave --resume out to start afresh"


def resume_path(out: Path) -> Path:
    """Return where the unfinished run of checkpoint `out` is kept."""
    return out.with_name(f"{out.stem}.resume.safetensors")


def is_complete(out: Path, training: dict[str, Any]) -> bool:
    """Return True if `out` is the finished result of the run that `training` describes.

    Raises:
        InputError: `out` is the result of another run, or unreadable.
    """
    if resume_path(out).exists() or not out.exists():
        return False
    _require_same(out, checkpoint.load(out, kind="model").header.get("training", {}), training)
    return True


def save(out: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write the state after a complete epoch, atomically.

    Raises:
        InputError: the folder cannot be written or the disk is full; the state before stands.
    """
    checkpoint.save(resume_path(out), checkpoint.Checkpoint("resume", tensors, header))


def load(out: Path, training: dict[str, Any]) -> checkpoint.Checkpoint | None:
    """Return the state of the unfinished run of `out`, None if there is none.

    Raises:
        InputError: damaged, or of a run with other data, recipe or network.
    """
    path = resume_path(out)
    if not path.exists():
        return None
    kept = checkpoint.load(path, kind="resume")
    _require_same(path, kept.header.get("training", {}), training)
    return kept


def does_not_fit(out: Path, error: Exception) -> InputError:
    """Return the error for a state whose tensors are not those of this run."""
    return InputError(
        f"{resume_path(out)} does not fit this run: {str(error).splitlines()[0]}",
        expected="the state of the same run",
        next_step=START_AFRESH,
    )


def _require_same(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    differing = [key for key in ours if ours[key] != theirs.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"{path} belongs to another run: {key} is {theirs.get(key)!r}, now {ours[key]!r}",
            expected="the same data, recipe and network",
            next_step=START_AFRESH,
        )
