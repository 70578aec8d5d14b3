"""What a training run says of itself: `NAME.train.json`, and of that the checkpoint's header."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.result import Interval, as_json
from .batches import pixel_moments
from .options import TrainOptions

SCHEMA = "convnet-edge/train/2"


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: mean loss over its batches, accuracy counted before each update, seconds.

    epoch: 1-based. validation_loss, validation_accuracy: of the weights after the epoch on the
    images held out, None without any.
    """

    epoch: int
    mean_loss: float
    accuracy: float
    duration_s: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Device:
    """What trained. threads: PyTorch's, of each process."""

    name: str
    threads: int
    n_processes: int
    cpu_seed_repeats_bit_for_bit: bool


@dataclass(frozen=True)
class Tested:
    """The one score on the test images."""

    n: int
    n_correct: int
    accuracy: float
    interval_95: Interval
    images_sha256: str
    labels_sha256: str


@dataclass(frozen=True)
class Record:
    """Everything that is needed to repeat a run, and what came of it.

    model: as in `checkpoint.describe_network`. training: as in `describe_training`. time_s: seconds
    by what took them. machine: as in `machine.passport`. versions: by package.
    """

    schema: str
    model: dict[str, Any]
    class_labels: tuple[str, ...]
    training: dict[str, Any]
    device: Device
    epochs: tuple[EpochMetrics, ...]
    time_s: dict[str, float]
    machine: dict[str, Any]
    versions: dict[str, str]
    test: Tested

    @property
    def header(self) -> dict[str, Any]:
        """What the checkpoint carries of it, as plain JSON values."""
        kept = ("model", "class_labels", "training", "test", "versions")
        return {key: value for key, value in as_json(self).items() if key in kept}


def describe_training(options: TrainOptions, images: ImageSet) -> dict[str, Any]:
    """Return what decides the weights trained on `images`; a resumed run must have the same."""
    recipe = options.plan
    muon = "Muon on conv2 and the first linear layer, AdamW on the rest"
    return {
        "recipe": options.recipe,
        "data": options.data,
        "n_images": len(images),
        "n_validation_images": options.validate,
        "images_sha256": images.images_sha256,
        "labels_sha256": images.labels_sha256,
        "optimizer": muon if recipe.muon_learning_rate else "Adam",
        **asdict(recipe),
        "pixel_mean_and_deviation": list(pixel_moments(images)) if recipe.normalize else None,
        "kernel_size": options.kernel_size,
        "width": options.width,
        "seed": options.seed,
        "precision": options.precision,
    }
