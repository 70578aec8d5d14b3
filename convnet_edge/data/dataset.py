"""Find the pictures that a command works on, whatever their source, as one value: `Dataset`.

    load(TrainOptions(data="photos/"))

Which pictures there are is the business of `scan`, to read them that of `cache`, on which side each
stands that of `split`, what is wrong with them that of `checks`.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.contract import Array, Contract
from ..runtime.errors import InputError
from ..runtime.measure.accuracy import ImageSet, digest
from ..runtime.options import require
from ..runtime.pictures.decode import FORMATS, decoding
from ..runtime.pictures.preprocess import FASHION_MNIST, Preprocessing, to_pixels
from . import cache, checks, duplicates, fashion_mnist, scan, split, torchvision_sets
from .options import DataOptions, PreparationOptions
from .scan import Entry, Scan

VALIDATED = 0.1  # of training pictures, where the source has no others and a recipe wants some
EMBEDDED = ("fashion-mnist", "sample")
TORCHVISION = "torchvision:"
N_PROBED = 256  # pictures, from which defaults are chosen
LARGEST_OWN_SIZE, COMMON_SIZE = 96, 64  # pixels
GREY_MODES = ("1", "L", "LA", "I", "F")  # and I;16 in its kinds
MAX_IN_MEMORY = 512 << 20  # bytes of one side; more is mapped from disk
Progress = Callable[[int, int], None]


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
    """All pictures of a source in the order of its scan, and what was decided of each.

    digests: (N, 32) of their files; pixels: (N, ...); parts: (N,) an index into `scan.PARTS`, or
    `split.UNUSED`; alike: which of them are, by their place here. published: by the source itself.
    """

    entries: tuple[Entry, ...]
    digests: Array
    pixels: Array
    parts: Array
    alike: duplicates.Duplicates
    published: bool


@dataclass(frozen=True)
class Task:
    """What a checkpoint or model says of its pictures: enough to find and prepare them again.

    is_validated: whether some were held out of its training.
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
        tested = document.get("measured") or document["test"] or {"sha256": ""}
        return cls(
            tuple(document["class_labels"]),
            Preprocessing.read(document["preprocessing"]),
            document["training"]["data"],
            tested["sha256"],
            bool(document["training"].get("n_validation_images")),
        )


@dataclass(frozen=True)
class _Pictures:
    """What a source holds, prepared: its scan, and of each entry a row and pixels."""

    scan: Scan
    rows: Array
    pixels: Array
    how: Preprocessing


def load(
    options: PreparationOptions,
    *,
    validate: int = 0,
    validate_share: float = 0.0,
    progress: Progress = lambda *_: None,
) -> Dataset:
    """Load the pictures of `options.data`, prepared as the options say.

    Where the source has no validation pictures of its own: validate: the last so many of the
    training images; validate_share: this share of them, by digest. progress: n pictures decoded,
    of how many.

    Raises:
        InputError: not found, not readable, or too few of them.
        CheckFailedError: pixel-equal pictures stand on two sides or have two labels.
    """
    if options.data in EMBEDDED:
        how = _preprocessing(options, FASHION_MNIST)
        loaded = _load_embedded(options.data, how, options.data_dir)
        if validate_share and not validate:
            validate = round(validate_share * len(loaded.train))
    else:
        pictures = _open(options, progress)
        loaded = _arrange(options, pictures, validate_share)
        assert loaded.report is not None
        loaded.report.refuse_leaks()
        cache.keep_set(
            options.cache or cache.default_dir(),
            _key(loaded.test.sha256, loaded.preprocessing),
            loaded.test.images,
            loaded.test.labels,
        )
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


def load_again(task: Task, options: DataOptions) -> Dataset:
    """Load the pictures of `options.data` as a model takes them, else those it was made from.

    Raises:
        InputError: as `load`; or the source is not named and none that this program knows, or it
            has classes that the model does not.
    """
    source = options.data or task.source
    if source in EMBEDDED:
        loaded = _load_embedded(source, task.preprocessing, options.data_dir)
    else:
        require(
            options.data is not None,
            f"the model was trained on {source}, which it does not say where to find",
            "its pictures",
            "--data (the folder, table or name)",
            verb="add",
        )
        prepared = PreparationOptions(
            data=source, data_dir=options.data_dir, split=options.split, cache=options.cache
        )
        pictures = _open(prepared, lambda *_: None, task)
        share = VALIDATED if task.is_validated else 0.0
        loaded = _arrange(prepared, pictures, share)
    unknown = sorted(set(loaded.class_labels) - set(task.class_labels))
    require(
        not unknown,
        f"{source} has classes that the model does not know: {scan.some(unknown)}",
        f"some of {scan.some(task.class_labels)}",
        "--data",
    )
    return _renumbered(loaded, task.class_labels)


def find_test_set(task: Task, options: DataOptions) -> ImageSet | None:
    """Return the test images of `options.data`, else those the model was tested on; None without.

    Raises:
        InputError: the source named is not readable, or of other classes.
    """
    if options.data is not None:
        return load_again(task, options).test
    if task.class_labels == fashion_mnist.CLASS_LABELS:
        test = fashion_mnist.load_test_set()
        if test.sha256 == task.test_sha256:
            return _prepared(test, task.preprocessing)
    try:
        cache_dir = options.cache or cache.default_dir()
    except InputError:  # no home folder, so nothing is kept there
        return None
    kept = cache.find_set(cache_dir, _key(task.test_sha256, task.preprocessing))
    if kept is None:
        return None
    return ImageSet(kept.images, kept.labels, task.test_sha256, str(cache_dir))


def require_test_set(task: Task, options: DataOptions) -> ImageSet:
    """Return what `find_test_set` finds.

    Raises:
        InputError: it finds nothing.
    """
    found = find_test_set(task, options)
    if found is None or not len(found):
        raise InputError(
            f"the pictures that it was tested on ({task.source}, sha256 {task.test_sha256[:16]}…) "
            "are not here",
            expected="them in the cache, where training leaves them, or their source",
            next_step="name it with --data",
        )
    return found


def take(images: ImageSet, which: Any) -> ImageSet:
    """Return some of the images, by a slice or by their indices; the digest stays the whole's."""
    paths = tuple(np.array(images.paths, object)[which]) if images.paths else ()
    return replace(images, images=images.images[which], labels=images.labels[which], paths=paths)


def _load_embedded(name: str, how: Preprocessing, data_dir: Path | None) -> Dataset:
    train = _prepared(fashion_mnist.load_training_set(name, data_dir), how)
    test = _prepared(fashion_mnist.load_test_set(), how)
    return Dataset(name, fashion_mnist.CLASS_LABELS, how, train, take(train, slice(0)), test)


def _renumbered(loaded: Dataset, class_labels: tuple[str, ...]) -> Dataset:
    """Return pictures whose labels are indices into `class_labels`, which hold all of theirs."""
    place = np.array([class_labels.index(name) for name in loaded.class_labels])
    train, validation, test = (
        replace(one, labels=place[one.labels])
        for one in (loaded.train, loaded.validation, loaded.test)
    )
    return replace(loaded, class_labels=class_labels, train=train, validation=validation, test=test)


def _prepared(images: ImageSet, how: Preprocessing) -> ImageSet:
    """Return images, which are pictures of a size of their own, as a network takes them."""
    if images.images.shape[1:] == how.shape:
        return images
    pixels = [to_pixels(one, how).pixels for one in images.images]
    return replace(images, images=np.array(pixels, np.uint8))


def _key(sha256: str, how: Preprocessing) -> str:
    """Return the name under which a test set is kept: its digest, and how it was prepared."""
    return digest([bytes.fromhex(sha256)], np.zeros(1, np.int64), [repr(how)])


def _preprocessing(options: PreparationOptions, stored: Preprocessing) -> Preprocessing:
    """Return how pictures are prepared: as the options say, else as is usual for the source."""
    background = options.background or stored.background
    grey = options.channels == "grey" or (not options.channels and stored.channels == 1)
    if background == "remove" and not options.channels:
        grey = True
    require(
        background == "keep" or grey,
        "--background remove with --channels rgb",
        "grey: an object without its background has no colours",
        "--channels",
    )
    size = options.image_size or stored.size
    require(len(size) <= 2, f"--image-size {size}", "one number, or height,width", "--image-size")
    return Preprocessing(
        (size[0], size[-1]),
        1 if grey else 3,
        background,
        "border" if background == "remove" else stored.invert,
        options.fit or stored.fit,
        filter=options.filter or stored.filter,
    )


def _usual(shapes: Sequence[tuple[tuple[int, int], str]]) -> Preprocessing:
    """Return how pictures of these sizes and Pillow modes are prepared unless asked otherwise."""
    sizes = {size for size, _ in shapes}
    grey = all(mode in GREY_MODES or mode.startswith("I;16") for _, mode in shapes)
    own = next(iter(sizes)) if len(sizes) == 1 else (COMMON_SIZE, COMMON_SIZE)
    size = own if max(own) <= LARGEST_OWN_SIZE else (COMMON_SIZE, COMMON_SIZE)
    return Preprocessing(size, 1 if grey and shapes else 3)


def _open(options: PreparationOptions, progress: Progress, task: Task | None = None) -> _Pictures:
    """Scan and read a source; task: of the model that takes the pictures."""
    if options.data in EMBEDDED:
        loaded = _load_embedded(options.data, FASHION_MNIST, options.data_dir)
        sides: tuple[tuple[scan.Part, ImageSet], ...]
        sides = (("train", loaded.train), ("test", loaded.test))
        listed: list[tuple[Any, str, scan.Part | None]] = [
            (image, loaded.class_labels[label], part)
            for part, side in sides
            for image, label in zip(side.images, side.labels.tolist(), strict=True)
        ]
        how = task.preprocessing if task else _preprocessing(options, FASHION_MNIST)
        return _from_arrays(listed, len(listed), how, progress, loaded.class_labels)
    if options.data.startswith(TORCHVISION):
        made = torchvision_sets.open_set(options.data.removeprefix(TORCHVISION), options.data_dir)
        first = [one for one, _, _ in islice(made, N_PROBED)]
        shapes = [(np.asarray(one).shape[:2], getattr(one, "mode", "RGB")) for one in first]
        how = task.preprocessing if task else _preprocessing(options, _usual(shapes))
        return _from_arrays(made, len(made), how, progress)
    found = scan.scan(options.data, options.data_dir)
    usual = _usual(_probe(found.entries))
    how = task.preprocessing if task else _preprocessing(options, usual)

    def read(how: Preprocessing) -> cache.Read:
        return cache.read(
            found.entries,
            how,
            cache_dir=options.cache or cache.default_dir(),
            source=options.data,
            recheck=options.recheck,
            progress=progress,
        )

    opened = read(how)
    modes = [(usual.size, str(mode)) for mode in np.unique(opened.rows["mode"]) if mode]
    seen = _preprocessing(options, replace(usual, channels=_usual(modes).channels))
    if not task and seen != how:  # a picture that was not probed has colours
        how, opened = seen, read(seen)
    return _Pictures(found, opened.rows, opened.pixels, how)


def _probe(entries: Sequence[Entry]) -> list[tuple[tuple[int, int], str]]:
    """Return (height, width) and Pillow mode of some of the pictures, from their headers."""
    from PIL import Image

    found: list[tuple[tuple[int, int], str]] = []
    for entry in entries[:: max(1, len(entries) // N_PROBED)]:
        with (
            suppress(InputError),  # it will be left out
            decoding(entry.path),
            Image.open(entry.path, formats=tuple(FORMATS)) as picture,
        ):
            found.append((picture.size[::-1], picture.mode))
    return found


def _from_arrays(
    listed: Iterable[tuple[Any, str, scan.Part | None]],
    n: int,
    how: Preprocessing,
    progress: Progress,
    class_labels: tuple[str, ...] = (),
) -> _Pictures:
    """Prepare `n` decoded pictures, each with its class and side; classes sorted unless given."""
    rows, pixels = np.zeros(n, cache.ROW), np.empty((n, *how.shape), np.uint8)
    entries: list[Entry] = []
    for row, place, (picture, label, part) in zip(rows, pixels, listed, strict=True):
        values = np.asarray(picture)
        row["sha256"] = np.frombuffer(sha256(values.tobytes()).digest(), np.uint8)
        row["height"], row["width"] = values.shape[:2]
        row["mode"] = getattr(picture, "mode", "L" if values.ndim == 2 else "RGB")
        place[...] = to_pixels(picture, how).pixels
        entries.append(Entry(f"{part}/{len(entries)}", label, part))
        progress(len(entries), n)
    rows["dhash"] = duplicates.dhashes(pixels)
    labels = class_labels or tuple(sorted({entry.label for entry in entries}))
    published = any(entry.part not in ("train", None) for entry in entries)
    return _Pictures(Scan(tuple(entries), labels, (), published), rows, pixels, how)


def _arrange(options: PreparationOptions, pictures: _Pictures, validate_share: float) -> Dataset:
    """Find pictures that are alike, decide each one's side, and check all of it."""
    found, rows, pixels = pictures.scan, pictures.rows, pictures.pixels
    place = {label: index for index, label in enumerate(found.class_labels)}
    labels = np.array([place[entry.label] for entry in found.entries])
    usable = np.flatnonzero(rows["error"] == "")
    twins = _find_duplicates(options, rows, pixels)
    published = np.array([scan.PARTS.index(entry.part or "train") for entry in found.entries])
    decided = split.split(
        rows["sha256"][usable],
        labels[usable],
        duplicates.groups(twins.near, twins.exact, len(rows))[usable],
        published=published[usable] if found.published else None,
        validate_share=validate_share,
        listed=split.read_split(options.split) if options.split else None,
    )
    parts = np.full(len(rows), split.UNUSED, np.int8)
    parts[usable] = decided.parts
    near = zip(*twins.near.T.tolist(), twins.distances.tolist(), strict=True)
    report = checks.check(
        options.data,
        found,
        rows=rows,
        parts=parts,
        copies=twins.exact,
        near=near,
        n_gone=decided.n_gone,
        allow_leaks=options.allow_leaks,
    )
    train, validation, test = (
        _side(options, pictures, np.flatnonzero(parts == part), labels)
        for part in range(len(scan.PARTS))
    )
    return Dataset(
        _short(options.data),
        found.class_labels,
        pictures.how,
        train,
        validation,
        test,
        report,
        Arranged(found.entries, rows["sha256"], pixels, parts, twins, found.published),
    )


def _short(source: str) -> str:
    """Return a source as a model may name it: of a path its last part, a folder's with a slash."""
    if source in EMBEDDED or source.startswith(TORCHVISION):
        return source
    path = Path(source).resolve()
    return f"{path.name}/" if path.is_dir() else path.name


def _find_duplicates(
    options: PreparationOptions, rows: Array, pixels: Array
) -> duplicates.Duplicates:
    """Return which pictures are alike; found once for the same ones, and kept in the cache."""
    seen = sha256(rows["sha256"].tobytes() + rows["error"].tobytes() + str(pixels.shape).encode())
    cache_dir, key = options.cache or cache.default_dir(), seen.hexdigest()
    if kept := cache.find_pairs(cache_dir, key):
        return kept
    found = duplicates.find(pixels, rows["dhash"])
    unread = {*np.flatnonzero(rows["error"] != "").tolist()}  # their pixels are all black
    exact = ([place for place in group if place not in unread] for group in found.exact)
    found = replace(found, exact=tuple(tuple(group) for group in exact if len(group) > 1))
    cache.keep_pairs(cache_dir, key, found)
    return found


class _Ordered:
    """Pixels in another order, taken from disk a few at a time."""

    def __init__(self, pixels: Array, order: Array) -> None:
        self._pixels, self._order = pixels, order
        self.shape = (len(order), *pixels.shape[1:])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, which: slice) -> Array:
        chosen: Array = self._pixels[self._order[which]]
        return chosen


def _side(
    options: DataOptions,
    pictures: _Pictures,
    index: Array,
    labels: Array,
) -> ImageSet:
    """Return the pictures at `index`, in the order of their digests: the same wherever they lie."""
    digests = pictures.rows["sha256"]
    keys = np.ascontiguousarray(digests[index]).view(">u8")  # (N, 4)
    order = index[np.lexsort(keys.T[::-1])]
    labels = labels[order]
    pairs = [one.tobytes() for one in digests[order]]
    own = digest(pairs, labels, pictures.scan.class_labels)
    images: Any = _Ordered(pictures.pixels, order)
    if images.shape[0] * pictures.pixels[:1].nbytes <= MAX_IN_MEMORY:
        images = images[:]
    else:
        cache_dir, key = options.cache or cache.default_dir(), _key(own, pictures.how)
        cache.keep_set(cache_dir, key, images, labels)
        kept = cache.find_set(cache_dir, key)
        assert kept is not None
        images = kept.images
    paths = tuple(pictures.scan.entries[place].path for place in order.tolist())
    return ImageSet(images, labels, own, str(options.data), paths)
