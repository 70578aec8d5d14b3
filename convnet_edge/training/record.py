"""Write what a run leaves, complete or not, and take an unfinished one up again bit for bit."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data import fashion_mnist as data
from ..drawing import pictures
from ..networks import checkpoint
from ..networks.checkpoint import Checkpoint
from ..networks.convnet import compute_logits
from ..runtime.errors import InputError
from ..runtime.files import write_json
from ..runtime.measure import accuracy, machine
from ..runtime.measure.result import Accuracy, as_json
from ..sealing import seal
from .run import EpochMetrics, Run

START_AFRESH = "repeat the options of that run, or leave --resume out to start afresh"
IN_CHECKPOINT = ("model", "class_labels", "training", "test", "versions")


@dataclass(frozen=True)
class TrainResult:
    """What training left: files, and the one score on the test images.

    record: what `record_path` holds, everything that is needed to repeat the run, and what came of
    it. `training` in it is as in `Run.training`.
    """

    checkpoint_path: Path
    record_path: Path
    picture: pictures.Picture
    epochs: tuple[EpochMetrics, ...]
    test: Accuracy
    record: dict[str, Any]


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
        if not path.exists():
            continue
        kept = checkpoint.load(path, kind=kind)
        described = kept.header.get("training")
        theirs = described if isinstance(described, dict) else {}
        for key, value in run.training.items():
            if value != theirs.get(key):
                raise InputError(
                    f"{path} belongs to another run: {key} is {theirs.get(key)!r}, now {value!r}",
                    expected="the same data, recipe and network",
                    next_step=START_AFRESH,
                )
        return kept
    return None


def restore(run: Run, kept: Checkpoint) -> None:
    """Copy what was saved into the tensors in use, which keep their memory format."""
    try:
        for name, mine in run.state().items():
            saved = kept.tensors[name]
            if saved.shape != mine.shape or saved.dtype != mine.dtype:
                raise ValueError(f"{name} is {saved.dtype} {tuple(saved.shape)}")
            mine.copy_(saved)
        run.choices.set_state(kept.tensors["choices"])
        run.epochs = tuple(EpochMetrics(**epoch) for epoch in kept.header["epochs"])
        run.time_s |= {str(what): float(s) for what, s in kept.header["time_s"].items()}
        run.n_threads = int(kept.header["threads"])
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


def finish(run: Run) -> TrainResult:
    """Score the trained network once on the test images; write its files."""
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
    picture = pictures.training_curve(out.with_suffix(".train.png"), record["epochs"])
    record_path = out.with_suffix(".train.json")
    write_json(record_path, record)
    header = {key: record[key] for key in IN_CHECKPOINT}
    checkpoint.save(out, Checkpoint("model", dict(model.state_dict()), header))
    run.options.resume_path.unlink(missing_ok=True)
    return TrainResult(out, record_path, picture, run.epochs, score, record)


def device_name(device: torch.device) -> str:
    """Return the GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
