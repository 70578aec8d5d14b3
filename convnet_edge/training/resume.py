"""Keep an unfinished run after each epoch, and take it up again bit for bit."""

import torch

from ..networks import checkpoint
from ..networks.checkpoint import Checkpoint
from ..runtime.errors import InputError
from ..runtime.measure.result import as_json
from .run import EpochMetrics, Run

START_AFRESH = "repeat the options of that run, or leave --resume out to start afresh"


def save(run: Run, epochs: tuple[EpochMetrics, ...]) -> None:
    """Write the state after the last of `epochs`; if that fails, the state before stands."""
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
        if not path.exists():
            continue
        kept = checkpoint.load(path, kind=kind)
        theirs = kept.header.get("training", {})
        for key, value in run.training.items():
            if value != theirs.get(key):
                raise InputError(
                    f"{path} belongs to another run: {key} is {theirs.get(key)!r}, now {value!r}",
                    expected="the same data, recipe and network",
                    next_step=START_AFRESH,
                )
        return kept
    return None


def restore(run: Run, kept: Checkpoint) -> int:
    """Take the unfinished run up; return its thread count.

    What was saved is copied into the tensors in use, which keep their memory format.
    """
    try:
        for name, mine in run.state().items():
            saved = kept.tensors[name]
            if saved.shape != mine.shape or saved.dtype != mine.dtype:
                raise ValueError(f"{name} is {saved.dtype} {tuple(saved.shape)}")
            mine.copy_(saved)
        run.choices.set_state(kept.tensors["choices"])
        run.epochs = tuple(EpochMetrics(**epoch) for epoch in kept.header["epochs"])
        run.time_s |= {str(what): float(s) for what, s in kept.header["time_s"].items()}
        return int(kept.header["threads"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"{run.options.resume_path} does not fit this run: {str(error).splitlines()[0]}",
            expected="the state of the same run",
            next_step=START_AFRESH,
        ) from error


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
