"""Tell what the usual mistakes of preparing pictures would cost a model.

Whoever deploys a model often writes its preprocessing again, and a model that is given other pixels
than it learned from is wrong without a word. Each mistake here is one that people have made, run on
the test images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np

from ..data.dataset import take
from ..runtime.classifier import Classifier
from ..runtime.contract import Array
from ..runtime.files import percent
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.tables import Table
from ..runtime.pictures import preprocess
from ..runtime.pictures.decode import FORMATS, decoding
from ..runtime.pictures.preprocess import Preprocessing
from ..runtime.pictures.resize import EXIF_ORIENTATION

if TYPE_CHECKING:
    from PIL import Image

MAX_IMAGES = 2_000
BATCH = 64
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TURNED = "no turn by EXIF orientation"


@dataclass(frozen=True)
class Skew:
    """What one mistake does. n: test images; n_lost, n_gained: right before, right after alone.

    drop: of the accuracy, a share of n; upper_bound: of it, one-sided 95 %. n_changed: images whose
    pixels it changes; a mistake that changes none of these may still cost others.
    """

    mistake: str
    n: int
    accuracy: float
    n_lost: int
    n_gained: int
    drop: float
    upper_bound: float
    n_changed: int


def measure(classifier: Classifier, test: ImageSet) -> Iterator[Skew]:
    """Yield what each mistake that this model can meet costs, on at most 2,000 test images."""
    chosen = np.linspace(0, len(test) - 1, min(len(test), MAX_IMAGES)).astype(int)
    some = take(test, chosen)
    right = classifier.logits(some.images).argmax(axis=1)
    for mistake, said, n_changed in _mistaken(classifier, some):
        pair = accuracy.compare(right, said, some.labels)
        yield Skew(
            mistake,
            pair.n,
            float((said == some.labels).mean()),
            pair.n_lost,
            pair.n_gained,
            (pair.n_lost - pair.n_gained) / pair.n,
            accuracy.drop_bounds(pair)[1],
            n_changed,
        )


def table(found: tuple[Skew, ...]) -> Table:
    """Return the mistakes for people, the costliest first."""
    rows = tuple(
        (one.mistake, percent(one.accuracy, 2), f"{100 * one.drop:+.2f}",
         f"{100 * one.upper_bound:.2f}", f"{one.n_lost:,}", f"{one.n_gained:,}")
        if one.n_changed else (one.mistake, "changes none of these", *[""] * 4)
        for one in sorted(found, key=lambda one: (not one.n_changed, -one.drop))
    )  # fmt: skip
    caption = (
        f"What mistakes in preparing pictures cost {found[0].n:,} test images; at most: at 95 %"
    )
    columns = ("mistake", "accuracy", "points lost", "at most", "images lost", "gained")
    return Table("skew", caption, columns, rows)


def _mistaken(classifier: Classifier, test: ImageSet) -> Iterator[tuple[str, Array, int]]:
    """Yield each mistake, the labels (N,) that the model then gives, and how many images differ."""
    how, images, n = classifier.contract.preprocessing, test.images, len(test)

    def labels(pixels: Array, change: Callable[[Array], Array] = np.asarray) -> Array:
        """Return the answers to uint8 `pixels`, if the graph is fed what `change` makes of them."""
        batches = (pixels[at : at + BATCH] for at in range(0, len(pixels), BATCH))
        inputs = (change(classifier.to_input(batch)) for batch in batches)
        logits = [classifier.session.run(np.ascontiguousarray(one)) for one in inputs]
        found: Array = np.concatenate(logits).argmax(axis=1)
        return found

    yield "light and dark swapped", labels(255 - images), n
    if how.channels == 3:
        yield "BGR for RGB", labels(images[..., ::-1]), n
        yield (
            "channels last for channels first",
            labels(images, lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape)),
            n,
        )
    if classifier.contract.input_dtype == "float32":
        mean, deviation = (
            np.array(numbers[: how.channels], np.float32)[:, None, None]
            for numbers in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        yield "[0, 255] for [0, 1]", labels(images, lambda x: x * np.float32(255)), n
        yield "[-1, 1] for [0, 1]", labels(images, lambda x: x * np.float32(2) - np.float32(1)), n
        twice = labels(images, lambda x: (x - mean) / deviation)
        yield "ImageNet's mean, deviation again", twice, n
    for name, prepare in _other_ways(how).items() if test.paths else ():
        pixels = np.stack([prepare(path) for path in test.paths])
        yield name, labels(pixels), int((pixels != images).reshape(n, -1).any(axis=1).sum())


def _other_ways(how: Preprocessing) -> dict[str, Callable[[str], Array]]:
    """Return other ways of making pixels of a picture file, by what is wrong with them."""

    def other(**changes: Any) -> Callable[[str], Array]:
        way = replace(how, **changes)
        return lambda path: preprocess.to_pixels(path, way).pixels

    def changed(change: Callable[[str], Array | None]) -> Callable[[str], Array]:
        """Prepare what `change` makes of a picture, which is None where it makes no other."""

        def prepare(path: str) -> Array:
            values = change(path)
            return preprocess.to_pixels(path if values is None else values, how).pixels

        return prepare

    ways = {
        TURNED: changed(_unturned),
        "no antialias": changed(lambda path: _without_antialias(_read(path), how.size)),
        "the middle cut out, not resized": changed(lambda path: _cut(_read(path), how.size)),
    }
    kinds = get_type_hints(Preprocessing)
    for name in ("fit", "filter"):
        own = getattr(how, name)
        others = (kind for kind in get_args(kinds[name]) if kind != own)
        ways |= {f"{kind} for {own}": other(**{name: kind}) for kind in others}
    if how.background == "remove":
        ways["background kept"] = other(background="keep")
    return ways


def _read(path: str) -> Array:
    """Return a picture's values as they are shown, (h, w) if it is grey, else RGB (h, w, 3)."""
    from PIL import ImageOps

    with decoding(path), _open(path) as picture:
        return _values(ImageOps.exif_transpose(picture))


def _unturned(path: str) -> Array | None:
    """Return a picture's values as they are stored, if EXIF turns them."""
    with decoding(path), _open(path) as picture:
        if picture.getexif().get(EXIF_ORIENTATION, 1) == 1:
            return None
        return _values(picture)


def _open(path: str) -> "Image.Image":
    from PIL import Image

    return Image.open(path, formats=tuple(FORMATS))


def _values(picture: "Image.Image") -> Array:
    return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))


def _without_antialias(values: Array, size: tuple[int, int]) -> Array | None:
    """Make a picture smaller by reading single pixels, as bilinear without antialias nearly does.

    size: (H, W). One that is to be made larger has nothing to alias.
    """
    sides = list(zip(values.shape, size, strict=False))
    scale = min(side / n for side, n in sides)
    if scale <= 1:
        return None
    rows, columns = (
        np.clip((side - n * scale) / 2 + (np.arange(n) + 0.5) * scale, 0, side - 1).astype(int)
        for side, n in sides
    )
    return np.ascontiguousarray(values[rows][:, columns])


def _cut(values: Array, size: tuple[int, int]) -> Array | None:
    """Cut `size` (H, W) out of the middle of a picture, if it is larger."""
    top, left = ((side - n) // 2 for side, n in zip(values.shape, size, strict=False))
    if min(top, left) < 0 or values.shape[:2] == size:
        return None
    return np.ascontiguousarray(values[top : top + size[0], left : left + size[1]])
