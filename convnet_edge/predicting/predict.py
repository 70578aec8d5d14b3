"""Predict pictures and folders of them, and draw the tutorial's grid of test images.

One unreadable picture does not stop the others. Printing is the command line's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.fashion_mnist import load_test_set
from ..drawing.pictures import Grid, draw_grid
from ..runtime import preprocess
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..sealing.default_model import choose_model
from .options import PredictOptions

Array = np.ndarray[Any, np.dtype[Any]]

PICTURE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif",
    ".pgm", ".ppm", ".pbm", ".pnm", ".jp2",
}  # fmt: skip
TOP = 3
RUN_BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """One picture's answer. top: the likeliest classes as (name, probability), best first."""

    path: Path
    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.top[0][0]


@dataclass(frozen=True)
class Failure:
    """One picture that could not be read, and why."""

    path: Path
    error: InputError


def predict(options: PredictOptions) -> Iterator[Prediction | Failure]:
    """Yield an answer or a failure for each picture, in order; folders are searched within.

    Raises:
        InputError: the model or the provider cannot be opened.
    """
    classifier = Classifier(choose_model(options.model), options.provider)
    shape = classifier.contract.image_shape
    batch: list[tuple[Path, Array | InputError]] = []
    for path in expand(options.images):
        try:
            batch.append((path, preprocess.read_picture(path, shape, invert=options.invert)))
        except InputError as error:
            batch.append((path, error))
        if len(batch) == RUN_BATCH_SIZE:
            yield from _predict_batch(classifier, batch)
            batch = []
    yield from _predict_batch(classifier, batch)


def expand(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files as they are named, and the picture files within named folders, sorted."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        n_found = 0
        for folder, folders, files in os.walk(path):
            folders.sort()
            for name in sorted(files):
                if Path(name).suffix.lower() in PICTURE_SUFFIXES:
                    n_found += 1
                    yield Path(folder) / name
        if not n_found:
            yield path  # reading it reports that a folder without pictures is no picture


def draw_test_grid(options: PredictOptions) -> Grid:
    """Predict and draw 15 random test images, as the tutorial does.

    Raises:
        InputError: the model or the provider cannot be opened, or the picture not written.
    """
    classifier = Classifier(choose_model(options.model), options.provider)
    return draw_grid(options.plot_out, classifier, load_test_set(), seed=options.seed)


def _predict_batch(
    classifier: Classifier, batch: Sequence[tuple[Path, Array | InputError]]
) -> Iterator[Prediction | Failure]:
    pixels = [found for _, found in batch if isinstance(found, np.ndarray)]
    answers = iter(classifier(np.stack(pixels)).top(TOP) if pixels else [])
    for path, found in batch:
        if isinstance(found, InputError):
            yield Failure(path, found)
        else:
            yield Prediction(path, tuple(next(answers)))
