"""Predict pictures and folders of them; one unreadable picture does not stop the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..runtime.classifier import Classifier
from ..runtime.elsewhere import unproved
from ..runtime.errors import EdgeError, InputError
from ..runtime.pictures import preprocess
from ..runtime.session import Settings
from ..sealing.default_model import choose_model
from . import sources
from .options import PredictOptions

RUN_BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    """One picture's answer.

    top: the likeliest classes as (name, probability), best first. unsure: whether the model does
    not stand by it. n_frames: of which the first was taken (`Prepared`). error: why there is no
    answer.
    """

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    unsure: bool = False
    n_frames: int = 1
    error: EdgeError | None = None

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
    items = sources.find(options.images)
    while batch := list(islice(items, RUN_BATCH_SIZE)):
        pictures, errors = [], {}
        for place, item in enumerate(batch):
            try:
                data = item.read()
                pictures.append(
                    preprocess.decode_picture(data, how, name=item.name, invert=options.invert)
                )
            except InputError as error:
                errors[place] = error
        found = classifier.answer(pictures)
        answers = zip(found.top(options.n_top), found.unsure.tolist(), pictures, strict=True)
        for place, item in enumerate(batch):
            if place in errors:
                yield Prediction(Path(item.name), error=errors[place])
            else:
                top, unsure, picture = next(answers)
                yield Prediction(Path(item.name), tuple(top), unsure, picture.n_frames)


def open_classifier(
    options: PredictOptions, *, threads: int | None = None, isolate: bool | None = None
) -> Classifier:
    """Open the model that the options name, one from elsewhere too; `isolate` as in `Classifier`.

    Raises:
        InputError: it or the provider cannot be opened.
    """
    file = unproved.open_any(choose_model(options.model), options, ceiling=options.ceiling)
    unproved.require_used([file], options)
    settings = Settings(options.provider, threads, ceiling=options.ceiling)
    return Classifier(file, settings=settings, isolate=isolate)
