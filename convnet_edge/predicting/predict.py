"""Predict pictures and folders of them; one unreadable picture does not stop the others."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from ..runtime.classifier import Classifier
from ..runtime.elsewhere import unproved
from ..runtime.errors import InputError
from ..runtime.pictures import decode, preprocess
from ..runtime.session import Settings
from ..sealing.default_model import choose_model
from .options import PredictOptions

PICTURE_SUFFIXES = {*chain.from_iterable(decode.FORMATS.values()), *decode.PHONE_SUFFIXES}
TOP = 3
RUN_BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """One picture's answer.

    top: the likeliest classes as (name, probability), best first. unsure: whether the model does
    not stand by it. n_frames: of which the first was taken (`Prepared`). error: why the picture
    could not be read; then there is no answer.
    """

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    unsure: bool = False
    n_frames: int = 1
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
    classifier = open_classifier(options)
    how = classifier.contract.preprocessing
    paths = expand(options.images)
    while batch := list(islice(paths, RUN_BATCH_SIZE)):
        pictures, errors = [], {}
        for place, path in enumerate(batch):
            try:
                pictures.append(preprocess.to_pixels(path, how, invert=options.invert))
            except InputError as error:
                errors[place] = error
        found = classifier.answer(pictures)
        answers = zip(found.top(TOP), found.unsure.tolist(), pictures, strict=True)
        for place, path in enumerate(batch):
            if place in errors:
                yield Prediction(path, error=errors[place])
            else:
                top, unsure, picture = next(answers)
                yield Prediction(path, tuple(top), unsure, picture.n_frames)


def open_classifier(options: PredictOptions) -> Classifier:
    """Open the model that the options name, one from elsewhere too.

    Raises:
        InputError: it or the provider cannot be opened.
    """
    file = unproved.open_any(choose_model(options.model), options, ceiling=options.ceiling)
    unproved.require_used([file], options)
    return Classifier(file, settings=Settings(options.provider, ceiling=options.ceiling))


def expand(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield files as they are named, and the picture files within named folders, sorted."""
    for path in paths:
        within = path.rglob("*") if os.path.isdir(path) else ()  # noqa: PTH112 - it never raises
        found = (one for one in within if one.suffix.lower() in PICTURE_SUFFIXES)
        # where there is none, reading the folder reports that it is no picture
        yield from sorted(one for one in found if not one.is_dir()) or [path]
