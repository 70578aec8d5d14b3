"""Keep decoded pictures on disk, so that each is decoded once; and test sets, by their digest.

A file is all pixels, what is known of them as .npz, a digest and a length, so that one rename
replaces all. Which pictures there are is the scan's business, and to open them the reader's.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from .. import __version__
from ..runtime.contract import Array
from ..runtime.errors import InputError
from ..runtime.measure.accuracy import ImageSet
from ..runtime.pictures.preprocess import Preprocessing, to_pixels
from . import duplicates, reader
from .duplicates import Duplicates
from .options import PreparationOptions
from .scan import Entry, Scan, scan_of
from .torchvision_sets import PictureSet
from .worker import Opened

MAX_REASON = 80  # letters of an error
ROW = np.dtype(
    [
        ("sha256", np.uint8, 32), ("width", np.uint32), ("height", np.uint32), ("mode", "U6"),
        ("error", f"U{MAX_REASON}"), ("n_bytes", np.int64), ("mtime_ns", np.int64),
    ]
)  # fmt: skip
FORMAT = 2  # of the files here
SMALLEST_SHARE = 4  # a picture is too small if both its sides are below this part of the network's
BATCH = 256
N_TOLD = 1000  # times that progress is told: to move a bar takes as long as a small picture
SHA256_BYTES, TAIL_BYTES = 32, 40
LEFTOVER_S = 24 * 3600  # nothing is written for as long without a change
OURS = re.compile(r"[0-9a-f]{32,64}\.(pictures|set|pairs)(\.[0-9a-f]{16}\.tmp)?")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pictures:
    """All pictures of a source, in the order of its scan, and how they are prepared.

    rows: (N,) of `ROW`: sha256 is of the file's bytes, of the array's where there is no file; error
    is "", or why it is left out. pixels: (N, *pixel shape) uint8, mapped from disk; zeros where
    there is an error.
    """

    scan: Scan
    how: Preprocessing
    rows: Array
    pixels: Array


def read(
    scan: Scan,
    how: Preprocessing,
    options: PreparationOptions,
    progress: Progress = lambda *_: None,
) -> Pictures:
    """Return all pictures of `scan`; those with a new path, size or time of change are opened.

    `options` say where they are kept, and whether to open all. `progress` is told how many of how
    many are open. What could not be opened is tried again each time: rights and packages change,
    and leave no trace in the file.

    Raises:
        InputError: the cache cannot be written, or no process can be started.
    """
    paths = [entry.path for entry in scan.entries]
    names, rows = _look(paths)
    path = _path(options.cache_dir, "pictures", str(Path(options.data).absolute()), how)
    kept = None if options.recheck else _load(path, _version())
    places = np.full(len(rows), -1)
    if kept:
        places = _places(kept, names, rows)
        rows[places >= 0] = kept["rows"][places[places >= 0]]
        failed = np.flatnonzero(rows["error"]).tolist()
        for index, one in zip(failed, reader.read((paths[i] for i in failed), how), strict=True):
            if _reason(paths[index], one, how) != rows["error"][index]:
                places[index] = -1
        if np.array_equal(places, np.arange(len(kept["rows"]))):
            return Pictures(scan, how, rows, kept["pixels"])

    def pixels() -> Generator[bytes, None, None]:
        """Yield the pixels of each entry, and complete its row."""
        new = np.flatnonzero(places < 0).tolist()
        opened = reader.read((paths[index] for index in new), how)
        n_opened, nothing = 0, bytes(math.prod(how.shape))
        for index, place in enumerate(places.tolist()):
            if kept and place >= 0:
                yield kept["pixels"][place].tobytes()
                continue
            one, row = next(opened), rows[index]
            row["sha256"] = np.frombuffer(one.sha256, np.uint8)
            row["width"], row["height"], row["mode"] = one.width, one.height, one.mode
            row["error"] = _reason(paths[index], one, how)
            yield nothing if one.pixels is None or row["error"] else one.pixels.tobytes()
            n_opened += 1
            if n_opened % max(1, len(new) // N_TOLD) == 0 or n_opened == len(new):
                progress(n_opened, len(new))

    rest = {"names": np.frombuffer(names, np.uint8), "rows": rows}
    mapped = _save(path, _version(), (len(rows), *how.shape), pixels(), rest)
    return Pictures(scan, how, rows, mapped)


def read_set(
    made: PictureSet, how: Preprocessing, options: PreparationOptions, progress: Progress
) -> Pictures:
    """Return the pictures of a set, which are no files; decoded anew if its state is another.

    Raises:
        InputError: the cache cannot be written, or a picture not be read.
    """
    path = _path(options.cache_dir, "pictures", made.name, how)
    made_by = f"{_version()} {made.state}"
    if not options.recheck and (kept := _load(path, made_by)):
        known = [Entry(*one) for one in json.loads(kept["entries"].tobytes())]
        return Pictures(scan_of(known), how, kept["rows"], kept["pixels"])
    entries: list[Entry] = []
    rows = np.zeros(len(made), ROW)
    rest = {"rows": rows}

    def pixels() -> Generator[bytes, None, None]:
        """Yield the pixels of each picture, complete its row, and add the entries in the end."""
        for row, (picture, label, part) in zip(rows, made, strict=True):
            values = np.asarray(picture)
            row["sha256"] = np.frombuffer(hashlib.sha256(values.tobytes()).digest(), np.uint8)
            row["height"], row["width"] = values.shape[:2]
            row["mode"] = getattr(picture, "mode", "L" if values.ndim == 2 else "RGB")
            entries.append(Entry(f"{part}/{len(entries)}", label, part))
            yield to_pixels(picture, how).pixels.tobytes()
            progress(len(entries), len(made))
        text = json.dumps([(one.path, one.label, one.part) for one in entries])
        rest["entries"] = np.frombuffer(text.encode(), np.uint8)

    mapped = _save(path, made_by, (len(made), *how.shape), pixels(), rest)
    return Pictures(scan_of(entries), how, rows, mapped)


def find_duplicates(pictures: Pictures, cache_dir: Path) -> Duplicates:
    """Return which pictures are alike; found once for the same ones.

    Raises:
        InputError: the cache cannot be written.
    """
    rows = pictures.rows
    seen = hashlib.sha256(rows["sha256"].tobytes() + rows["error"].tobytes()).hexdigest()
    path = _path(cache_dir, "pairs", seen, pictures.how)
    if kept := _load(path, _version()):
        return Duplicates(kept["first"], kept["near"], kept["distances"])
    found = duplicates.find(pictures.pixels, duplicates.dhashes(pictures.pixels))
    _save(path, _version(), (0,), (b"" for _ in ()), asdict(found))
    return found


def keep_set(
    cache_dir: Path,
    images: ImageSet,
    how: Preprocessing,
    class_labels: Sequence[str],
    *,
    order: Array | None = None,
) -> ImageSet:
    """Keep a set under its digest, and return it as `find_set` will, but with its paths.

    class_labels: what its labels count, which the digest does not tell. order: (N,) where in
    `images.images` each of them is, as they may be more than the memory.

    Raises:
        InputError: the cache cannot be written.
    """
    if kept := find_set(cache_dir, images.sha256, how, class_labels):
        return replace(images, images=kept.images)
    order = np.arange(len(images)) if order is None else order
    batches = (order[start : start + BATCH] for start in range(0, len(order), BATCH))
    path, rest = _set_path(cache_dir, images.sha256, how, class_labels), {"labels": images.labels}
    parts = (images.images[batch].tobytes() for batch in batches)
    return replace(images, images=_save(path, "", (len(order), *how.shape), parts, rest))


def find_set(
    cache_dir: Path, sha256: str, how: Preprocessing, class_labels: Sequence[str]
) -> ImageSet | None:
    """Return the set that is kept under this digest; None if there is none, or it is damaged."""
    kept = _load(_set_path(cache_dir, sha256, how, class_labels), "")
    if kept and kept["sha256"] == hashlib.sha256(kept["pixels"].reshape(-1).data).hexdigest():
        return ImageSet(kept["pixels"], kept["labels"], sha256, str(cache_dir))
    return None


def size(cache_dir: Path) -> int:
    """Return how many bytes the cache takes.

    Raises:
        InputError: it cannot be read.
    """
    with _allowed(cache_dir, "read"):
        return sum(path.stat().st_size for path in _ours(cache_dir))


def clear(cache_dir: Path) -> int:
    """Remove what was kept, and nothing else in that folder; return how many bytes it took.

    Raises:
        InputError: it cannot be removed.
    """
    n_bytes = size(cache_dir)
    with _allowed(cache_dir, "cleared"):
        for path in _ours(cache_dir):
            path.unlink(missing_ok=True)
    return n_bytes


def _ours(cache_dir: Path) -> list[Path]:
    within = cache_dir.iterdir() if cache_dir.exists() else ()
    return [path for path in within if OURS.fullmatch(path.name)]


def _path(cache_dir: Path, kind: str, name: str, how: Preprocessing) -> Path:
    found = hashlib.sha256(json.dumps([name, how.document()]).encode())
    return cache_dir / f"{found.hexdigest()}.{kind}"


def _set_path(
    cache_dir: Path, sha256: str, how: Preprocessing, class_labels: Sequence[str]
) -> Path:
    return _path(cache_dir, "set", "\0".join((sha256, *class_labels)), how)


def _version() -> str:
    """Return what decided on pixels and pairs: another program may find others."""
    return f"{__version__} {PIL.__version__}"


def _look(paths: Sequence[str]) -> tuple[bytes, Array]:
    """Return the absolute names of the files, and (N,) rows of what the system says of them."""
    here = f"{Path.cwd()}{os.sep}"  # Path.absolute would take half a second for 70,000
    names = [name if os.path.isabs(name) else here + name for name in paths]  # noqa: PTH117
    rows = np.zeros(len(names), ROW)
    rows["n_bytes"], rows["mtime_ns"] = np.array([*map(_stat, names)]).reshape(-1, 2).T
    return os.fsencode("\0".join(names)), rows


def _stat(name: str) -> tuple[int, int]:
    try:
        found = os.stat(name)  # noqa: PTH116 - as above
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _places(kept: dict[str, Array], names: bytes, rows: Array) -> Array:
    """Return (N,) where in `kept` each file is, -1 if it is not, or has changed since."""
    places, known_names = np.arange(len(rows)), kept["names"].tobytes()
    if known_names != names:
        known = {name: place for place, name in enumerate(known_names.split(b"\0"))}
        places = np.array([known.get(name, -1) for name in names.split(b"\0")])
    was = kept["rows"][places]
    same = (was["n_bytes"] == rows["n_bytes"]) & (was["mtime_ns"] == rows["mtime_ns"])
    return np.where(same & (places >= 0), places, -1)


def _reason(path: str, opened: Opened, how: Preprocessing) -> str:
    """Return why a picture is left out, "" if it is not."""
    reason = ""
    if error := opened.error:
        reason = error.found.removeprefix(path).lstrip(": ").removeprefix("is ")
        if "pip install" in error.next_step:  # not the picture's fault
            reason += f"; {error.next_step.split(',')[0]}"
    elif opened.n_frames > 1:
        reason = f"animated ({opened.n_frames} frames)"
    elif (
        opened.height * SMALLEST_SHARE < how.size[0] and opened.width * SMALLEST_SHARE < how.size[1]
    ):
        reason = f"too small ({opened.width} × {opened.height} pixels)"
    return reason[:MAX_REASON]


def _load(path: Path, made_by: str) -> dict[str, Array] | None:
    """Return what `_save` wrote, with the pixels; None if it did not, or as another."""
    try:
        with path.open("rb") as file:
            file.seek(-TAIL_BYTES, os.SEEK_END)
            digest, n_bytes = file.read(SHA256_BYTES), int.from_bytes(file.read(), "little")
            file.seek(-TAIL_BYTES - n_bytes, os.SEEK_END)
            rest = file.read(n_bytes)
            # before it is parsed: numpy raises all kinds of errors at damage
            if _digest(path, made_by, rest) != digest:
                return None
            with np.load(io.BytesIO(rest)) as arrays:
                shape = tuple(arrays["shape"].tolist())
                return {**arrays, "pixels": np.memmap(file, np.uint8, "r", shape=shape)}
    except (OSError, ValueError):  # there is no such file, or no such length
        return None


def _save(
    path: Path,
    made_by: str,
    shape: tuple[int, ...],
    parts: Generator[bytes, None, None],
    rest: dict[str, Any],
) -> Array:
    """Write uint8 pixels of this shape, given in parts, then `rest`; return the pixels mapped.

    The file has another name until all of it is on the disk. `parts` may complete `rest`.
    """
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with _allowed(path.parent, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in _ours(path.parent):
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    if old.suffix == ".tmp" and old.stat().st_mtime < time.time() - LEFTOVER_S:
                        old.unlink()
            with temporary.open("xb") as file, contextlib.closing(parts):
                pixels_digest = hashlib.sha256()
                for part in parts:
                    pixels_digest.update(part)
                    file.write(part)
                rest |= {"shape": np.array(shape), "sha256": np.array(pixels_digest.hexdigest())}
                np.savez(arrays := io.BytesIO(), **rest)
                known = arrays.getvalue()
                file.write(known + _digest(path, made_by, known))
                file.write(len(known).to_bytes(TAIL_BYTES - SHA256_BYTES, "little"))
                file.flush()
                os.fsync(file.fileno())
            mapped = np.memmap(temporary, np.uint8, "r", shape=shape)  # before another has its name
            temporary.replace(path)
            return mapped
    finally:  # it is there no more if all went well
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _digest(path: Path, made_by: str, rest: bytes) -> bytes:
    return hashlib.sha256(f"{FORMAT} {path.name} {made_by}\n".encode() + rest).digest()


@contextlib.contextmanager
def _allowed(folder: Path, verb: str) -> Iterator[None]:
    """Turn what the system refuses into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the cache {folder} cannot be {verb}: {error.strerror}",
            expected="a folder that this user may read and write, on a disk with space left",
            next_step="free some space, or name another folder with --cache DIR",
        ) from error
