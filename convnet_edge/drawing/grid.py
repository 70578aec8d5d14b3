"""Draw the tutorial's 5 x 3 grid of random test images with what the model says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.classifier import Classifier
from ..runtime.measure.accuracy import ImageSet
from . import pictures as plots


@dataclass(frozen=True)
class Grid:
    """The grid: which test images, what the model said, what they are."""

    picture: plots.Picture
    indices: tuple[int, ...]
    names: tuple[str, ...]
    true_names: tuple[str, ...]


def draw_grid(path: Path, classifier: Classifier, test: ImageSet, *, seed: int = 0) -> Grid:
    """Predict 15 of the test images, chosen by `seed`, and draw them to `path`."""
    n_cells = plots.GRID_COLUMNS * plots.GRID_ROWS
    chosen = np.random.default_rng(seed).choice(len(test), n_cells, replace=False)
    names = classifier(test.images[chosen]).names
    true_names = [classifier.contract.class_labels[label] for label in test.labels[chosen]]
    picture = plots.prediction_grid(path, test.images[chosen], names, true_names)
    return Grid(picture, tuple(int(i) for i in chosen), tuple(names), tuple(true_names))
