"""Find the pictures that a command works on, whatever their source, as one value: `Dataset`.

    load(TrainOptions(data="photos/"))

Which pictures there are is the business of `scan`, to read them that of `cache`, on which side each
stands that of `split`, what is wrong with them that of `checks`.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.contract import Array, Contract
from ..runtime.errors import InputError, some
from ..runtime.measure.accuracy import ImageSet, digest
from ..runtime.options import require
from ..runtime.pictures.decode import FORMATS, decoding
from ..runtime.pictures.preprocess import FASHION_MNIST, Preprocessing, to_pixels
from . import cache, checks, fashion_mnist, scan, split
from .cache import Progress as Progress
from .duplicates import Duplicates
from .options import DataOptions, PreparationOptions
from .scan import Entry
from .torchvision_sets import PictureSet, open_set

VALIDATED = 0.1  # of training pictures, where the source has no others and a recipe wants some
EMBEDDED = ("fashion-mnist", "sample")
TORCHVISION = "torchvision:"
UNKNOWN = "pictures unknown here"
N_PROBED = 256  # pictures, from which defaults are chosen
SMALLEST_SIZE, COMMON_SIZE, LARGEST_OWN_SIZE = 16, 64, 96  # pixels
GREY_MODES = ("1", "L", "LA", "I", "F")  # and I;16 in its kinds
MAX_IN_MEMORY = 512 << 20  # bytes of one side; more is mapped from disk


@dataclass(frozen=True)
class Dataset:
    """Pictures of a source, ready for a network, on three sides; a side may be empty.

    source: as it was named, of a path the last part. report, arranged: None of what needs no check.
    """

    source: str
    class_labels: tuple[str, ...]
    preprocessing: Preprocessing
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    report: checks.Report | None = None
    arranged: "Arranged | None" = None


@dataclass(frozen=True)
class Arranged:
    """All pictures of a source, and what was decided of each.

    parts: (N,) an index into `scan.PARTS`, or `split.UNUSED`; alike: which of them are.
    """

    pictures: cache.Pictures
    parts: Array
    alike: Duplicates


@dataclass(frozen=True)
class Task:
    """What a checkpoint or model says of its pictures: enough to find and prepare them again.

    is_validated: whether a share was held out of its training, which the digests tell again.
    """

    class_labels: tuple[str, ...]
    preprocessing: Preprocessing
    source: str
    test_sha256: str
    is_validated: bool = False

    @classmethod
    def of(cls, contract: Contract) -> "Task":
        """Return what a model says."""
        return cls.read(contract.document)

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Task":
        """Return what a checkpoint's header or a contract's document says."""
        tested = document.get("measured") or document.get("test") or {"sha256": ""}
        training = document.get("training") or {"data": UNKNOWN}  # of a model from elsewhere
        held_out = training.get("validation_sha256")  # that of all training images for --validate N
        return cls(
            tuple(document["class_labels"]),
            Preprocessing.read(document["preprocessing"]),
            training["data"],
            tested["sha256"],
            held_out is not None and held_out != training["train_sha256"],
        )


def load(
    options: PreparationOptions,
    *,
    validate: int | None = None,
    validate_share: float = 0.0,
    class_labels: tuple[str, ...] = (),
    progress: Progress = lambda *_: None,
) -> Dataset:
    """Load the pictures of `options.data`, prepared as the options say.

    Where the source has no validation pictures of its own: validate: the last so many of the
    training images; validate_share: if that is None, this share of them, by digest. class_labels:
    what the labels are to count, which may be more than there are pictures of. progress: n pictures
    decoded, of how many.

    Raises:
        InputError: not found, not readable, or too few of them.
        CheckFailedError: pixel-equal pictures stand on two sides or have two labels.
    """
    if options.data in EMBEDDED:
        how = _preprocessing(options, FASHION_MNIST)
        loaded = _load_embedded(options.data, how, options.data_dir)
        if validate is None:
            validate = round(validate_share * len(loaded.train))
    else:
        share = validate_share if validate is None else 0.0
        loaded = _arrange(options, _open(options, progress), share)
        assert loaded.report is not None
        loaded.report.refuse_leaks()
    if class_labels:
        loaded = _renumbered(loaded, class_labels, str(options.data), told=True)
    if loaded.arranged:
        how, labels = loaded.preprocessing, loaded.class_labels
        cache.keep_set(options.cache_dir, loaded.test, how, labels)
    if not validate or len(loaded.validation):
        return loaded
    n = len(loaded.train) - validate
    found = f"--validate {validate} of {len(loaded.train)} training images"
    require(n > 0, found, "fewer than there are", "--validate")
    train, validation = take(loaded.train, slice(n)), take(loaded.train, slice(n, None))
    return replace(loaded, train=train, validation=validation)


def examine(options: PreparationOptions, progress: Progress = lambda *_: None) -> Dataset:
    """Load and check any source, also those that need none; nothing is refused.

    Raises:
        InputError: as `load`.
    """
    return _arrange(options, _open(options, progress), 0.0)


def load_again(task: Task, options: DataOptions, *, otherwise: str = "") -> Dataset:
    """Load the pictures of `options.data` as a model takes them, else those it was made from.

    otherwise: what else helps where they have changed.

    Raises:
        InputError: as `load`; or the source is not named and none that this program knows, or it
            has classes that the model does not.
    """
    source = options.data or task.source
    if source in EMBEDDED:
        loaded = _load_embedded(source, task.preprocessing, options.data_dir)
        return _renumbered(loaded, task.class_labels, source)
    is_here = options.data is None and os.path.exists(source)  # noqa: PTH110 - false of any text
    require(
        options.data is not None,
        f"the model was trained on {source}, which it does not say where to find",
        "its pictures",
        f"--data {source}" if is_here else "--data (the folder, table or name)",
        verb="add",
    )
    prepared = PreparationOptions(
        data=source, data_dir=options.data_dir, split=options.split, cache=options.cache
    )
    opened = _open(prepared, lambda *_: None, task.preprocessing)
    loaded = _arrange(prepared, opened, VALIDATED if task.is_validated else 0.0)
    renumbered = _renumbered(loaded, task.class_labels, source)
    require(
        opened.scan.published or task.test_sha256 in ("", loaded.test.sha256),
        f"{source} is not as it was: by their digests, other pictures are its test pictures, "
        "some of which the model may have learned from",
        f"those that the model was tested on (sha256 {task.test_sha256[:16]}…)",
        f"--split (the NAME.split.json that train wrote){otherwise}",
        verb="name them with",
    )
    return renumbered


def find_test_set(task: Task, options: DataOptions) -> ImageSet | None:
    """Return the test images of `options.data`, else those the model was tested on; None without.

    Raises:
        InputError: the source named is not readable, of other classes, or without test images.
    """
    if options.data is not None:
        kept = ", or leave out --data: the cache may hold them"
        named = load_again(task, options, otherwise=kept).test
        expected = "some that no model learned from: a folder test/, or a test split in its table"
        require(len(named) > 0, f"{options.data} has no test pictures", expected, "--data")
        return named
    if {*task.class_labels} >= {*fashion_mnist.CLASS_LABELS}:
        test = fashion_mnist.load_test_set()
        if test.sha256 == task.test_sha256:
            known = fashion_mnist.CLASS_LABELS
            return _prepared(_relabelled(test, known, task.class_labels), task.preprocessing)
    how, labels = task.preprocessing, task.class_labels
    try:
        return cache.find_set(options.cache_dir, task.test_sha256, how, labels)
    except InputError:  # no home folder, so nothing is kept there
        return None


def require_test_set(task: Task, options: DataOptions) -> ImageSet:
    """Return what `find_test_set` finds.

    Raises:
        InputError: it finds nothing.
    """
    found = find_test_set(task, options)
    if found:
        return found
    if not task.test_sha256:
        raise InputError(
            f"{task.source} had no test picture when this was trained",
            expected="some: what is claimed of a model is shown on them",
            next_step="add pictures, of which a tenth become test pictures, and train again",
        )
    raise InputError(
        f"the pictures that it was tested on ({task.source}, sha256 {task.test_sha256[:16]}…) "
        "are not here",
        expected="them in the cache, where training leaves them, or their source",
        next_step="name it with --data",
    )


def take(images: ImageSet, which: Any) -> ImageSet:
    """Return some of the images, by a slice or by their indices; the digest stays the whole's."""
    paths = tuple(np.array(images.paths, object)[which]) if images.paths else ()
    return replace(images, images=images.images[which], labels=images.labels[which], paths=paths)


def _load_embedded(name: str, how: Preprocessing, data_dir: Path | None) -> Dataset:
    train = _prepared(fashion_mnist.load_training_set(name, data_dir), how)
    test = _prepared(fashion_mnist.load_test_set(), how)
    return Dataset(name, fashion_mnist.CLASS_LABELS, how, train, take(train, slice(0)), test)


def _relabelled(images: ImageSet, had: Sequence[str], wanted: Sequence[str]) -> ImageSet:
    """Return pictures whose labels are indices into `wanted`, which holds all that they `had`."""
    place = np.array([wanted.index(name) for name in had])
    return replace(images, labels=place[images.labels])


def _renumbered(
    loaded: Dataset, class_labels: tuple[str, ...], source: str, *, told: bool = False
) -> Dataset:
    """Return pictures whose labels are indices into `class_labels`.

    told: whether these are what --classes names; else a model's.

    Raises:
        InputError: the source has classes beyond these.
    """
    unknown = sorted(set(loaded.class_labels) - set(class_labels))
    lacks = "are not in --classes" if told else "the model does not know"
    require(
        not unknown,
        f"{source} has classes that {lacks}: {some(unknown)}",
        f"some of {some(class_labels)}",
        "--classes or --data" if told else "--data",
    )
    train, validation, test = (
        _relabelled(one, loaded.class_labels, class_labels)
        for one in (loaded.train, loaded.validation, loaded.test)
    )
    return replace(loaded, class_labels=class_labels, train=train, validation=validation, test=test)


def _prepared(images: ImageSet, how: Preprocessing) -> ImageSet:
    """Return images, which are pictures of a size of their own, as a network takes them."""
    if images.images.shape[1:] == how.shape:
        return images
    pixels = [to_pixels(one, how).pixels for one in images.images]
    return replace(images, images=np.array(pixels, np.uint8))


def _preprocessing(options: PreparationOptions, stored: Preprocessing) -> Preprocessing:
    """Return how pictures are prepared: as the options say, else as is usual for the source."""
    background = options.background or stored.background
    is_grey = background == "remove" or stored.channels == 1
    channels = options.channels or ("grey" if is_grey else "rgb")
    require(
        background == "keep" or channels == "grey",
        "--background remove with --channels rgb",
        "grey: an object without its background has no colours",
        "--channels",
    )
    size = options.image_size or stored.size
    require(len(size) <= 2, f"--image-size {size}", "one number, or height,width", "--image-size")
    return Preprocessing(
        (size[0], size[-1]),
        1 if channels == "grey" else 3,
        background,
        "border" if background == "remove" else stored.invert,
        options.fit or stored.fit,
        options.crop_share or stored.share,
        filter=options.filter or stored.filter,
    )


def _usual(sizes: Collection[tuple[int, int]], modes: Iterable[str]) -> Preprocessing:
    """Return how pictures of these sizes and Pillow modes are prepared unless asked otherwise."""
    longest = sorted(map(max, sizes)) or [COMMON_SIZE]
    side = max(SMALLEST_SIZE, min(COMMON_SIZE, longest[len(longest) // 2]))
    size = next(iter(sizes)) if len({*sizes}) == 1 else (side, side)
    if min(size) < SMALLEST_SIZE or max(size) > LARGEST_OWN_SIZE:
        size = side, side
    grey = bool(sizes) and all(mode in GREY_MODES or mode.startswith("I;16") for mode in modes)
    return Preprocessing(size, 1 if grey else 3)


def _open(
    options: PreparationOptions, progress: Progress, how: Preprocessing | None = None
) -> cache.Pictures:
    """Scan and read a source; how: as its pictures are prepared, unless the options say."""
    if options.data in EMBEDDED or options.data.startswith(TORCHVISION):
        return _open_set(options, progress, how)
    found = scan.scan(options.data, options.data_dir)
    probed = _probe(found.entries)
    sizes, modes = [size for size, _ in probed], [mode for _, mode in probed]
    usual = how or _preprocessing(options, _usual(sizes, modes))
    pictures = cache.read(found, usual, options, progress)
    seen = filter(None, np.unique(pictures.rows["mode"]).tolist())
    better = how or _preprocessing(options, _usual(sizes, seen))
    # it is another if a picture that was not probed has colours
    return pictures if better == usual else cache.read(found, better, options, progress)


def _open_set(
    options: PreparationOptions, progress: Progress, how: Preprocessing | None
) -> cache.Pictures:
    """Read a source whose pictures are no files, as `_open`."""
    if options.data in EMBEDDED:
        loaded, usual = _load_embedded(options.data, FASHION_MNIST, options.data_dir), FASHION_MNIST
        sides: tuple[tuple[scan.Part, ImageSet], ...]
        sides = ("train", loaded.train), ("test", loaded.test)
        splits = tuple(
            (part, [*zip(side.images, side.labels, strict=True)], loaded.class_labels)
            for part, side in sides
        )
        made = PictureSet(options.data, loaded.train.sha256, splits)
    else:
        made = open_set(options.data.removeprefix(TORCHVISION), options.data_dir)
        probed = [one for one, *_ in islice(made, N_PROBED)]
        modes = [getattr(one, "mode", "RGB") for one in probed]
        usual = _usual([np.asarray(one).shape[:2] for one in probed], modes)
    return cache.read_set(made, how or _preprocessing(options, usual), options, progress)


def _probe(entries: Sequence[Entry]) -> list[tuple[tuple[int, int], str]]:
    """Return (height, width) and Pillow mode of some of the pictures, from their headers."""
    from PIL import Image

    found: list[tuple[tuple[int, int], str]] = []
    for entry in entries[:: max(1, len(entries) // N_PROBED)]:
        if not Path(entry.path).is_file():  # to open a pipe would wait for ever
            continue
        with (
            suppress(InputError),  # it will be left out
            decoding(entry.path),
            Image.open(entry.path, formats=tuple(FORMATS)) as picture,
        ):
            found.append((picture.size[::-1], picture.mode))
    return found


def _arrange(
    options: PreparationOptions, pictures: cache.Pictures, validate_share: float
) -> Dataset:
    """Find pictures that are alike, decide each one's side, and check all of it."""
    found, rows = pictures.scan, pictures.rows
    place = {label: index for index, label in enumerate(found.class_labels)}
    labels = np.array([place[entry.label] for entry in found.entries])
    usable = np.flatnonzero(rows["error"] == "")
    alike = cache.find_duplicates(pictures, options.cache_dir)
    published = np.array([scan.PARTS.index(entry.part or "train") for entry in found.entries])
    listed = split.read_split(options.split) if options.split else {}
    digests, parts = rows["sha256"][usable], np.full(len(rows), split.UNUSED, np.int8)
    parts[usable] = split.split(
        digests,
        labels[usable],
        alike.groups()[usable],
        published=published[usable] if found.published else None,
        validate_share=validate_share,
        listed=listed,
    )
    report = checks.check(
        options.data,
        pictures,
        parts=parts,
        alike=alike,
        n_gone=len(listed.keys() - {one.tobytes() for one in digests}),
        allow_leaks=options.allow_leaks,
    )
    train, validation, test = (
        _side(options, pictures, np.flatnonzero(parts == part), labels)
        for part in range(len(scan.PARTS))
    )
    arranged = Arranged(pictures, parts, alike)
    return Dataset(
        _short(options.data),
        found.class_labels,
        pictures.how,
        train,
        validation,
        test,
        report,
        arranged,
    )


def _short(source: str) -> str:
    """Return a source as a model may name it: of a path its last part, a folder's with a slash."""
    if source in EMBEDDED or source.startswith(TORCHVISION):
        return source
    path = Path(source).resolve()
    return f"{path.name}/" if path.is_dir() else path.name


def _side(options: DataOptions, pictures: cache.Pictures, index: Array, labels: Array) -> ImageSet:
    """Return the pictures at `index`, in the order of their digests: the same wherever they lie."""
    keys = np.ascontiguousarray(pictures.rows["sha256"][index]).view(">u8")  # (N, 4)
    order = index[np.lexsort(keys.T[::-1])]
    digests = [one.tobytes() for one in pictures.rows["sha256"][order]]
    own = digest(digests, labels[order], pictures.scan.class_labels)
    paths = tuple(pictures.scan.entries[place].path for place in order.tolist())
    side = ImageSet(pictures.pixels, labels[order], own, str(options.data), paths)
    if len(order) * pictures.pixels[:1].nbytes > MAX_IN_MEMORY:
        labelled = pictures.scan.class_labels
        return cache.keep_set(options.cache_dir, side, pictures.how, labelled, order=order)
    return replace(side, images=pictures.pixels[order])
