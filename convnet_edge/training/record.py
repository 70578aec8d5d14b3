"""Write what a finished run leaves: the checkpoint, `NAME.train.json` and the curve."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data import fashion_mnist as data
from ..drawing import pictures
from ..networks import checkpoint
from ..networks.checkpoint import Checkpoint
from ..networks.convnet import compute_logits
from ..runtime.files import write_json
from ..runtime.measure import accuracy, machine
from ..runtime.measure.result import Accuracy, as_json
from .run import EpochMetrics, Run

SCHEMA = "convnet-edge/train/2"
IN_CHECKPOINT = ("model", "class_labels", "training", "test", "versions")


@dataclass(frozen=True)
class TrainResult:
    """What training left: files, and the one score on the test images.

    record: what `record_path` holds, everything that is needed to repeat the run, and what came of
    it. `training` in it is as in `run.describe_training`.
    """

    checkpoint_path: Path
    record_path: Path
    picture: pictures.Picture
    epochs: tuple[EpochMetrics, ...]
    test: Accuracy
    record: dict[str, Any]


def finish(run: Run) -> TrainResult:
    """Score the trained network once on the test images; write its files."""
    model, out = run.finished_model(), run.options.out
    with run.timed("test"):
        test = data.load_test_set()
        logits = compute_logits(model, test.images, torch.float32)
        score = accuracy.score(logits.argmax(axis=1), test.labels, data.CLASS_LABELS)
    record = {
        "schema": SCHEMA,
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
        "versions": {
            "convnet-edge": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
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
