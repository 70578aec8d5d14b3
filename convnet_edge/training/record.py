"""Write what a run leaves, complete or not, and take an unfinished one up again bit for bit."""

import itertools
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data import fashion_mnist as data
from ..drawing import pictures
from ..networks import checkpoint
from ..networks.checkpoint import Amount, Checkpoint, Count
from ..networks.convnet import compute_logits
from ..runtime.errors import InputError
from ..runtime.files import write_atomically, write_json
from ..runtime.measure import accuracy, machine
from ..runtime.measure.result import Accuracy, as_json, brief
from ..sealing import seal
from .run import EpochMetrics, Run

START_AFRESH = "repeat the options of that run, or leave --resume out to start afresh"
IN_CHECKPOINT = ("model", "class_labels", "training", "test", "versions")
CURVE, RECORD = ".train.png", ".train.json"  # beside the checkpoint


@dataclass(frozen=True)
class _Saved:
    """What the header of a resume file says of the run."""

    epochs: tuple[EpochMetrics, ...]
    time_s: dict[str, Amount]
    threads: Count


@dataclass(frozen=True)
class TrainResult:
    """What training left: files, and the one score on the test images.

    earlier_path: where an earlier run of that name is now. record: what `record_path` holds,
    everything that is needed to repeat the run, and what came of it. `training` in it is as in
    `Run.training`.
    """

    checkpoint_path: Path
    record_path: Path
    picture: pictures.Picture
    earlier_path: Path | None
    epochs: tuple[EpochMetrics, ...]
    test: Accuracy
    record: dict[str, Any]

    __repr__ = brief


def save(run: Run, epochs: tuple[EpochMetrics, ...]) -> None:
    """Keep the state after the last of `epochs`; if that fails, the state before stands."""
    header = {
        "training": run.training,
        "epochs": as_json(epochs),
        "time_s": run.time_s,
        "threads": torch.get_num_threads(),
    }
    tensors = {**run.state(), "choices": run.choices.get_state()}
    checkpoint.save(run.options.resume_path, Checkpoint("resume", tensors, header))


def find(run: Run) -> Checkpoint | None:
    """Return what is there of this run: its state if it is unfinished, else the model it gave."""
    for path, kind in ((run.options.resume_path, "resume"), (run.options.out, "model")):
        if path.exists():
            return _load_own(run, path, kind)
    return None


def count_kept(run: Run) -> int:
    """Return how many complete epochs of this run the disk holds, whatever the run knows of it."""
    try:
        kept = _load_own(run, run.options.resume_path, "resume")
        return len(_read_saved(run, kept.header).epochs)
    except (InputError, ValueError):  # none, another run's, or damaged: nothing of this one
        return 0


def _load_own(run: Run, path: Path, kind: str) -> Checkpoint:
    kept = checkpoint.load(path, kind=kind)
    theirs = kept.header.get("training")
    for key, value in run.training.items():
        found = theirs.get(key) if isinstance(theirs, dict) else None
        if found != value:
            raise InputError(
                f"{path} belongs to another run: {key} is {found!r:.80}, now {value!r}",
                expected="the same data, recipe and network",
                next_step=START_AFRESH,
            )
    return kept


def restore(run: Run, kept: Checkpoint) -> None:
    """Copy what was saved into the tensors in use, which keep their memory format.

    Raises:
        InputError: something is missing, of another type, or makes no sense in this run.
    """
    try:
        saved = _read_saved(run, kept.header)
        for name, mine in run.state().items():
            tensor = kept.tensors[name]
            if tensor.shape != mine.shape or tensor.dtype != mine.dtype:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}")
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} is not finite")
            mine.copy_(tensor)
        run.choices.set_state(kept.tensors["choices"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{run.options.resume_path} does not fit this run: {str(error).splitlines()[0]}",
            expected="the state of the same run",
            next_step=START_AFRESH,
        ) from error
    run.epochs, run.n_threads = saved.epochs, saved.threads
    run.time_s |= saved.time_s


def _read_saved(run: Run, header: dict[str, Any]) -> _Saved:
    saved = checkpoint.read_header(_Saved, header)
    whole = tuple(range(1, len(saved.epochs) + 1))
    if tuple(epoch.epoch for epoch in saved.epochs) != whole or len(whole) > run.recipe.epochs:
        raise ValueError(f"epochs are not the first of {run.recipe.epochs}")
    for epoch in saved.epochs:
        scores = epoch.validation_loss, epoch.validation_accuracy
        if any((score is None) == bool(run.options.validate) for score in scores):
            raise ValueError(f"epochs: {epoch.epoch} has validation scores {scores}")
    return saved


def require_same_start(run: Run) -> None:
    """Check that all processes go on from the same epoch: their folders must be the same one."""
    total = torch.tensor(float(len(run.epochs)), device=run.device)
    run.processes.add_up((total,))
    if total.item() != len(run.epochs) * run.processes.size:
        raise InputError(
            f"process {run.processes.rank} found {len(run.epochs)} complete epochs to resume, "
            "others found another number",
            expected=f"{run.options.resume_path} to be the same file on every machine",
            next_step="put --out into a folder that the machines share, or copy that file to each",
        )


def finish(run: Run) -> TrainResult:
    """Score the trained network once on the test images; write its files.

    An earlier run of that name is kept under a number.
    """
    model, out = run.finished_model(), run.options.out
    with run.timed("test"):
        test = data.load_test_set()
        logits = compute_logits(model, test.images, torch.float32)
        score = accuracy.score(logits.argmax(axis=1), test.labels, data.CLASS_LABELS)
    record = {
        "schema": "convnet-edge/train/2",
        "model": checkpoint.describe_network(run.architecture),
        "class_labels": list(data.CLASS_LABELS),
        "training": run.training,
        "device": {
            "name": device_name(run.device),
            "threads": torch.get_num_threads(),  # of each process
            "n_processes": run.processes.size,
            "cpu_seed_repeats_bit_for_bit": run.device.type == "cpu",
        },
        "epochs": as_json(run.epochs),
        "time_s": run.time_s,
        "machine": machine.passport(),
        "versions": seal.versions(torch) | {"python": platform.python_version()},
        "test": accuracy.describe(score, test),
    }
    header = {key: record[key] for key in IN_CHECKPOINT}
    stored = checkpoint.to_bytes(Checkpoint("model", dict(model.state_dict()), header))
    earlier_path = _keep_earlier(out, stored)
    picture = pictures.training_curve(out.with_suffix(CURVE), record["epochs"])
    record_path = out.with_suffix(RECORD)
    write_json(record_path, record)
    write_atomically(out, stored)
    run.options.resume_path.unlink(missing_ok=True)
    return TrainResult(out, record_path, picture, earlier_path, run.epochs, score, record)


def _keep_earlier(out: Path, stored: bytes) -> Path | None:
    """Rename the earlier run of that name to NAME.N, unless its checkpoint is `stored` too.

    The checkpoint goes last: a number is taken once it is there, so that after a crash on the way
    the rest of the run follows to the same number. Until all is written the resume file stands.
    """
    try:
        if not out.exists() or out.read_bytes() == stored:
            return None
        candidates = (out.with_suffix(f".{n}{out.suffix}") for n in itertools.count(1))
        earlier = next(path for path in candidates if not path.exists())
        for suffix in (CURVE, RECORD, out.suffix):
            path = out.with_suffix(suffix)
            if path.exists():
                path.rename(earlier.with_suffix(suffix))
    except OSError as error:
        raise InputError(
            f"the earlier run in {out} cannot be kept under a number: {error.strerror}",
            expected="a folder whose files may be renamed",
            next_step="change that, and run the same command again with --resume",
        ) from error
    return earlier


def device_name(device: torch.device) -> str:
    """Return the GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
