"""Tell what the usual mistakes of preparing pictures would cost a model.

Whoever deploys a model often writes its preprocessing again, and a model that is given other pixels
than it learned from is wrong without a word. Each mistake here is one that people have made, run on
the test images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..runtime.classifier import Classifier
from ..runtime.contract import Array
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.result import percent
from ..runtime.measure.stats import paired_drop_bound
from ..runtime.measure.tables import Table
from ..runtime.pictures import preprocess
from ..runtime.pictures.decode import FORMATS
from ..runtime.pictures.preprocess import Preprocessing

MAX_IMAGES = 2_000
BATCH = 64
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TURNED = "no turn by EXIF orientation"


@dataclass(frozen=True)
class Skew:
    """What one mistake does. n: test images; n_lost, n_gained: right before, right after alone.

    drop: of the accuracy, a share of n; upper_bound: of it, one-sided 95 %.
    """

    mistake: str
    n: int
    accuracy: float
    n_lost: int
    n_gained: int
    drop: float
    upper_bound: float


def measure(classifier: Classifier, test: ImageSet) -> Iterator[Skew]:
    """Yield what each mistake that this model can meet costs, on at most 2,000 test images."""
    chosen = np.linspace(0, len(test) - 1, min(len(test), MAX_IMAGES)).astype(int)
    images, labels = test.images[chosen], test.labels[chosen]
    paths = [test.paths[place] for place in chosen] if test.paths else []
    right = classifier.logits(images).argmax(axis=1)
    for mistake, feed in _mistakes(classifier, images, paths).items():
        parts = [
            _run(classifier, feed(slice(at, at + BATCH))) for at in range(0, len(images), BATCH)
        ]
        said = np.concatenate(parts)
        pair = accuracy.compare(right, said, labels)
        yield Skew(
            mistake,
            pair.n,
            float((said == labels).mean()),
            pair.n_lost,
            pair.n_gained,
            (pair.n_lost - pair.n_gained) / pair.n,
            paired_drop_bound(pair.n_lost, pair.n_gained, pair.n),
        )


def table(found: tuple[Skew, ...]) -> Table:
    """Return the mistakes for people, the costliest first."""
    rows = tuple(
        (one.mistake, percent(one.accuracy, 2), f"{100 * one.drop:+.2f}",
         f"{one.n_lost:,}", f"{one.n_gained:,}")
        for one in sorted(found, key=lambda one: -one.drop)
    )  # fmt: skip
    caption = f"What mistakes in preparing pictures would cost, {found[0].n:,} test images"
    columns = ("mistake", "accuracy", "points lost", "images lost", "gained")
    return Table("skew", caption, columns, rows)


def _run(classifier: Classifier, inputs: Array) -> Array:
    labels: Array = classifier.session.run(np.ascontiguousarray(inputs)).argmax(axis=1)
    return labels


def _mistakes(
    classifier: Classifier, images: Array, paths: list[str]
) -> dict[str, Callable[[slice], Array]]:
    """Return, by its name, what each mistake feeds the graph for some of the images."""
    how = classifier.contract.preprocessing

    def pixels(change: Callable[[Array], Array]) -> Callable[[slice], Array]:
        return lambda which: classifier.to_input(np.ascontiguousarray(change(images[which])))

    def inputs(change: Callable[[Array], Array]) -> Callable[[slice], Array]:
        return lambda which: change(classifier.to_input(images[which]))

    def pictures(prepare: Callable[[str], Array]) -> Callable[[slice], Array]:
        return lambda which: classifier.to_input(np.stack([prepare(one) for one in paths[which]]))

    found = {"light and dark swapped": pixels(lambda values: 255 - values)}
    if how.channels == 3:
        found["BGR for RGB"] = pixels(lambda values: values[..., ::-1])
        found["channels last for channels first"] = inputs(
            lambda values: values.transpose(0, 2, 3, 1).reshape(values.shape)
        )
    if classifier.contract.input_dtype == "float32":
        by_channel = (1, how.channels, 1, 1)
        mean, deviation = (
            np.array(numbers[: how.channels], np.float32).reshape(by_channel)
            for numbers in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        found["[0, 255] for [0, 1]"] = inputs(lambda values: values * np.float32(255))
        found["[-1, 1] for [0, 1]"] = inputs(lambda values: values * np.float32(2) - np.float32(1))
        found["ImageNet's mean and deviation again"] = inputs(lambda v: (v - mean) / deviation)
    if paths:
        found |= {name: pictures(prepare) for name, prepare in _other_ways(how).items()}
    return found


def _other_ways(how: Preprocessing) -> dict[str, Callable[[str], Array]]:
    """Return other ways of making pixels of a picture file, by what is wrong with them."""

    def other(**changes: Any) -> Callable[[str], Array]:
        changed = replace(how, **changes)
        return lambda path: preprocess.to_pixels(path, changed).pixels

    ways = {TURNED: lambda path: preprocess.to_pixels(_unturned(path), how).pixels}
    ways["no antialias"] = lambda path: _without_antialias(_unturned(path, turn=True), how)
    for fit in ("pad", "crop", "stretch"):
        if fit != how.fit:
            ways[f"{fit} for {how.fit}"] = other(fit=fit)
    for filter_ in ("area", "bilinear", "bicubic"):
        if filter_ != how.filter:
            ways[f"{filter_} for {how.filter}"] = other(filter=filter_)
    ways["the middle cut out, not resized"] = lambda path: _cut(_unturned(path, turn=True), how)
    if how.background == "remove":
        ways["background kept"] = other(background="keep")
    return ways


def _unturned(path: str, *, turn: bool = False) -> Array:
    """Return a picture's RGB pixels (h, w, 3) as stored; `turn`: as EXIF says."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=tuple(FORMATS)) as picture:
        return np.asarray((ImageOps.exif_transpose(picture) if turn else picture).convert("RGB"))


def _without_antialias(values: Array, how: Preprocessing) -> Array:
    """Resize by reading single pixels, as a bilinear filter without antialias nearly does."""
    height, width = values.shape[:2]
    scale = min(height / how.size[0], width / how.size[1])
    rows, columns = (
        np.clip((side - n * scale) / 2 + (np.arange(n) + 0.5) * scale, 0, side - 1).astype(int)
        for side, n in ((height, how.size[0]), (width, how.size[1]))
    )
    return preprocess.to_pixels(np.ascontiguousarray(values[rows][:, columns]), how).pixels


def _cut(values: Array, how: Preprocessing) -> Array:
    """Cut the network's size out of the middle; a smaller picture is prepared as it should be."""
    top, left = ((side - n) // 2 for side, n in zip(values.shape, how.size, strict=False))
    if min(top, left) < 0:
        return preprocess.to_pixels(values, how).pixels
    part = values[top : top + how.size[0], left : left + how.size[1]]
    return preprocess.to_pixels(np.ascontiguousarray(part), how).pixels
