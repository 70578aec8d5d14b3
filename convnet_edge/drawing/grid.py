"""Draw the tutorial's 5 x 3 grid of random test images with what the model says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .pictures import GRID_COLUMNS, GRID_ROWS, Picture, prediction_grid

if TYPE_CHECKING:
    from ..runtime.classifier import Classifier
    from ..runtime.measure.accuracy import ImageSet


@dataclass(frozen=True)
class Grid:
    """The grid: which test images, what the model said, what they are."""

    picture: Picture
    indices: tuple[int, ...]
    names: tuple[str, ...]
    true_names: tuple[str, ...]


def draw_grid(path: Path, classifier: Classifier, test: ImageSet, *, seed: int = 0) -> Grid:
    """Predict 15 of the test images, chosen by `seed`, and draw them to `path`."""
    n_cells = GRID_COLUMNS * GRID_ROWS
    chosen = np.random.default_rng(seed).choice(len(test), n_cells, replace=False)
    names = tuple(classifier(test.images[chosen]).names)
    true_names = tuple(classifier.contract.class_labels[label] for label in test.labels[chosen])
    picture = prediction_grid(path, test.images[chosen], names, true_names)
    return Grid(picture, tuple(map(int, chosen)), names, true_names)
