"""Predict pictures and folders of them; one unreadable picture does not stop the others."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from ..runtime import preprocess
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..sealing.default_model import choose_model
from .options import PredictOptions

PICTURE_SUFFIXES = {*chain.from_iterable(preprocess.FORMATS.values()), *preprocess.PHONE_SUFFIXES}
TOP = 3
RUN_BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """One picture's answer.

    top: the likeliest classes as (name, probability), best first. error: why the picture could not
    be read; then there is no answer.
    """

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    error: InputError | None = None

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.top[0][0]


def predict(options: PredictOptions) -> Iterator[Prediction]:
    """Yield an answer for each picture, in order; folders are searched within.

    Example: `[one.label for one in ce.predict(ce.PredictOptions(["photos/"]))]`

    Raises:
        InputError: the model or the provider cannot be opened.
    """
    classifier = Classifier(choose_model(options.model), options.provider)
    shape = classifier.contract.image_shape
    paths = expand(options.images)
    while batch := list(islice(paths, RUN_BATCH_SIZE)):
        pictures, errors = [], {}
        for place, path in enumerate(batch):
            try:
                pictures.append(preprocess.read_picture(path, shape, invert=options.invert))
            except InputError as error:
                errors[place] = error
        answers = iter(classifier(np.stack(pictures)).top(TOP) if pictures else ())
        for place, path in enumerate(batch):
            top = () if place in errors else tuple(next(answers))
            yield Prediction(path, top, errors.get(place))


def expand(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files as they are named, and the picture files within named folders, sorted."""
    for path in paths:
        within = path.rglob("*") if os.path.isdir(path) else ()  # noqa: PTH112 - it never raises
        found = (one for one in within if one.suffix.lower() in PICTURE_SUFFIXES)
        # where there is none, reading the folder reports that it is no picture
        yield from sorted(one for one in found if not one.is_dir()) or [path]
