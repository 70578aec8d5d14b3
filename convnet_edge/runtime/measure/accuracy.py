"""Score predictions against labels, with the uncertainty that their number carries.

Takes predictions and labels; running the model is the classifier's business.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .result import Accuracy, Bin, Calibration, ClassScore
from .stats import mcnemar, wilson_interval

Array = np.ndarray[Any, np.dtype[Any]]

N_BINS = 15


def score(predicted: Array, labels: Array, class_labels: tuple[str, ...]) -> Accuracy:
    """Score `predicted` (N,) against `labels` (N,), both class indices.

    Raises:
        ValueError: no images, or differing numbers of them.
    """
    if len(predicted) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    n_classes = len(class_labels)
    flat = labels.astype(np.int64) * n_classes + predicted.astype(np.int64)
    confusion = np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)
    n_correct = int(np.trace(confusion))
    return Accuracy(
        n=len(labels),
        n_correct=n_correct,
        accuracy=n_correct / len(labels),
        interval=wilson_interval(n_correct, len(labels)),
        classes=tuple(_score_class(confusion, i, label) for i, label in enumerate(class_labels)),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
    )


@dataclass(frozen=True)
class Pairing:
    """Two models on the same images.

    n_lost: images that only the first gets right; n_gained: only the second. differing: indices of
    the images that they label differently. p_value: exact McNemar, that both are right equally
    often.
    """

    n: int
    n_lost: int
    n_gained: int
    differing: tuple[int, ...]
    p_value: float


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


def compare(first: Array, second: Array, labels: Array) -> Pairing:
    """Compare two models' predictions (N,), class indices, on the same images.

    Raises:
        ValueError: differing numbers of them.
    """
    if not len(first) == len(second) == len(labels):
        raise ValueError(f"{len(first)} and {len(second)} predictions for {len(labels)} labels")
    lost = int(((first == labels) & (second != labels)).sum())
    gained = int(((first != labels) & (second == labels)).sum())
    differing = tuple(int(index) for index in np.flatnonzero(first != second))
    return Pairing(len(labels), lost, gained, differing, mcnemar(lost, gained))


def _score_class(confusion: Array, index: int, label: str) -> ClassScore:
    hits = int(confusion[index, index])
    n_true, n_said = int(confusion[index].sum()), int(confusion[:, index].sum())
    return ClassScore(
        label=label,
        n=n_true,
        precision=hits / n_said if n_said else None,
        recall=hits / n_true if n_true else None,
        f1=2 * hits / (n_true + n_said) if n_true + n_said else None,
    )


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    images: (N, H, W) uint8; labels: (N,) uint8, an index into the class labels.
    images_sha256, labels_sha256: of the decompressed files. source: where they came from.
    """

    images: Array
    labels: Array
    images_sha256: str
    labels_sha256: str
    source: str

    def __len__(self) -> int:
        return len(self.labels)


def describe(found: Accuracy, images: ImageSet) -> dict[str, Any]:
    """Return what checkpoint and contract say of the score `found` on `images`."""
    return {
        "n": found.n,
        "n_correct": found.n_correct,
        "accuracy": found.accuracy,
        "interval_95": asdict(found.interval),
        "images_sha256": images.images_sha256,
        "labels_sha256": images.labels_sha256,
    }
