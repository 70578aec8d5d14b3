"""Score predictions against labels, with the uncertainty that their number carries.

Takes predictions and labels; running the model is the classifier's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .stats import Interval, wilson_interval

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ClassScore:
    """One class: shares in [0, 1], None where nothing was predicted or present to divide by."""

    label: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Accuracy:
    """Share of right predictions. interval: 95 %, Wilson. confusion: rows true, columns said."""

    n: int
    n_correct: int
    accuracy: float
    interval: Interval
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    def summary(self) -> str:
        """Return `91.23 % (95 % interval 90.66–91.77, n = 10,000)`."""
        low, high = self.interval.low * 100, self.interval.high * 100
        return (
            f"{self.accuracy:.2%}".replace("%", " %")
            + f" (95 % interval {low:.2f}–{high:.2f}, n = {self.n:,})"
        )


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
