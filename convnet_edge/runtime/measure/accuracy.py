"""Score predictions against labels, with the uncertainty that their number carries.

Takes predictions and labels; running the model is the classifier's business.
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .result import MAX_MATRIX, N_WORST, Accuracy, Bin, Calibration, ClassScore, Confused, Pair
from .stats import Array, mcnemar, paired_drop_bound, wilson_interval

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
    """Score `predicted` (N,) against `labels` (N,), both class indices.

    No matrix is made of many classes: of 10,000 it would have 10^8 cells.
    """
    if len(predicted) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(predicted)} predictions for {len(labels)} labels")
    n_classes = len(class_labels)
    if labels.max() >= n_classes:
        raise InputError(
            f"a model of {n_classes} classes, for images of class {labels.max()}",
            expected=f"classes 0 to {n_classes - 1}, as the model's",
            next_step="name a model for these images",
        )
    n_hits, n_true, n_said = (
        np.bincount(indices, minlength=n_classes)
        for indices in (labels[labels == predicted], labels, predicted)
    )
    n_correct = int(n_hits.sum())
    counts = zip(class_labels, n_hits.tolist(), n_true.tolist(), n_said.tolist(), strict=True)
    classes = tuple(
        ClassScore(label, n, _share(hits, said), _share(hits, n), _share(2 * hits, n + said))
        for label, hits, n, said in counts
    )
    cells, is_small = labels * n_classes + predicted, n_classes <= MAX_MATRIX
    return Accuracy(
        n=len(labels),
        n_correct=n_correct,
        accuracy=n_correct / len(labels),
        interval=wilson_interval(n_correct, len(labels)),
        classes=classes,
        confusion=_matrix(cells, n_classes) if is_small else (),
        confused=() if is_small else worst_pairs(_counted(cells, n_classes), classes),
    )


def _matrix(cells: Array, n_classes: int) -> tuple[tuple[int, ...], ...]:
    counts = np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)
    return tuple(map(tuple, counts.tolist()))


def _counted(cells: Array, n_classes: int) -> Iterator[tuple[int, int, int]]:
    found, counts = np.unique(cells, return_counts=True)
    for cell, count in zip(found.tolist(), counts.tolist(), strict=True):
        yield *divmod(cell, n_classes), count


def worst_pairs(
    cells: Iterable[tuple[int, int, int]], classes: Sequence[ClassScore]
) -> tuple[Confused, ...]:
    """Return the pairs of classes confused most; cells: true, predicted, how many images."""
    wrong = (cell for cell in cells if cell[0] != cell[1] and cell[2])
    return tuple(
        Confused(classes[true].label, classes[predicted].label, n, classes[true].n)
        for true, predicted, n in heapq.nlargest(N_WORST, wrong, key=lambda cell: cell[2])
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


def drop_bounds(pair: Pair) -> tuple[float, float]:
    """Return what accuracy is lost at least and at most, shares of n: one-sided 95 % bounds."""
    lost, gained, n = pair.n_lost, pair.n_gained, pair.n
    return -paired_drop_bound(gained, lost, n), paired_drop_bound(lost, gained, n)


def describe(found: Accuracy, images: ImageSet) -> dict[str, Any]:
    """Return what checkpoint and contract say of the score `found` on `images`."""
    return {
        "n": found.n,
        "n_correct": found.n_correct,
        "accuracy": found.accuracy,
        "interval_95": asdict(found.interval),
        "sha256": images.sha256,
    }
