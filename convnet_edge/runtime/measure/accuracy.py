"""Score predictions against labels, with the uncertainty that their number carries.

Takes predictions and labels; running the model is the classifier's business.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .result import Accuracy, Bin, Calibration, ClassScore, Pair
from .stats import Array, mcnemar, wilson_interval

N_BINS = 15


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    images: (N, H, W) uint8 of grey, (N, H, W, 3) of RGB; perhaps a np.memmap, larger than memory.
    labels: (N,) int64, an index into the class labels. sha256: see `digest`. source: where they
    came from. paths: of the pictures' files, empty where they have none.
    """

    images: Array
    labels: Array
    sha256: str
    source: str
    paths: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def digest(pictures: Sequence[bytes], labels: Array, class_labels: Sequence[str]) -> str:
    """Return the SHA-256 of a set: of its pictures' own, each with its class's name, in order.

    pictures: the SHA-256 of each picture's file; of its pixels where it has none.
    """
    found, names = hashlib.sha256(), [f"{name}\0".encode() for name in class_labels]
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        found.update(picture + names[label])
    return found.hexdigest()


def score(predicted: Array, labels: Array, class_labels: tuple[str, ...]) -> Accuracy:
    """Score `predicted` (N,) against `labels` (N,), both class indices."""
    if len(predicted) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    n_classes = len(class_labels)
    if labels.max() >= n_classes:
        raise InputError(
            f"a model of {n_classes} classes, for images of class {labels.max()}",
            expected=f"classes 0 to {n_classes - 1}, as the model's",
            next_step="name a model for these images",
        )
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    n_hits, n_true, n_said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    n_correct = int(n_hits.sum())
    counts = zip(class_labels, n_hits.tolist(), n_true.tolist(), n_said.tolist(), strict=True)
    classes = tuple(
        ClassScore(label, n, _share(hits, said), _share(hits, n), _share(2 * hits, n + said))
        for label, hits, n, said in counts
    )
    return Accuracy(
        n=len(labels),
        n_correct=n_correct,
        accuracy=n_correct / len(labels),
        interval=wilson_interval(n_correct, len(labels)),
        classes=classes,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def calibrate(probabilities: Array, labels: Array) -> Calibration:
    """Return the expected calibration error of `probabilities` (N, C) over 15 equal bins.

    The mean over all images of |confidence - accuracy| of their bin. Source: C. Guo et al., "On
    calibration of modern neural networks", ICML 2017, equation 3.
    """
    confidences, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidences * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    bins, error = [], 0.0
    for index in range(N_BINS):
        inside = places == index
        n, confidence, share = int(inside.sum()), None, None
        if n:
            confidence, share = float(confidences[inside].mean()), float(right[inside].mean())
            error += n / len(labels) * abs(confidence - share)
        bins.append(Bin(index / N_BINS, (index + 1) / N_BINS, n, confidence, share))
    return Calibration(error, tuple(bins))


def compare(first: Array, second: Array, labels: Array) -> Pair:
    """Compare two models' predictions (N,), class indices, on the same images.

    Which models they are, and what is shown of it, is left empty.
    """
    lost = int(((first == labels) & (second != labels)).sum())
    gained = int(((first != labels) & (second == labels)).sum())
    differing = np.flatnonzero(first != second).tolist()
    return Pair(
        name="",
        model_sha256="",
        n=len(labels),
        n_lost=lost,
        n_gained=gained,
        n_differing=len(differing),
        differing=differing,
        mcnemar_p=mcnemar(lost, gained),
        shown=[],
    )


def describe(found: Accuracy, images: ImageSet) -> dict[str, Any]:
    """Return what checkpoint and contract say of the score `found` on `images`."""
    return {
        "n": found.n,
        "n_correct": found.n_correct,
        "accuracy": found.accuracy,
        "interval_95": asdict(found.interval),
        "sha256": images.sha256,
    }
