"""Keep decoded pictures on disk, so that each is decoded once; and test sets, by their digest.

A file is all pixels, what is known of them as .npz, its digest and its length, so that one rename
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from .. import __version__
from ..runtime.contract import Array
from ..runtime.errors import InputError
from ..runtime.pictures.preprocess import Preprocessing
from . import reader
from .duplicates import Duplicates
from .scan import Entry

MAX_REASON = 80  # letters of an error
ROW = np.dtype(
    [
        ("sha256", np.uint8, 32), ("dhash", np.uint64), ("width", np.uint32),
        ("height", np.uint32), ("mode", "U6"), ("error", f"U{MAX_REASON}"), ("n_bytes", np.int64),
        ("mtime_ns", np.int64),
    ]
)  # fmt: skip
FORMAT = 1  # of these rows, and of the hashes in them
SMALLEST_SHARE = 4  # a picture is too small if both its sides are below this part of the network's
BATCH = 256
N_TOLD = (
    1000  # times that progress is told: a bar takes longer to move than a small picture to open
)
SHA256_BYTES, TAIL_BYTES = 32, 40
LEFTOVER_S = 24 * 3600  # nothing is written for as long without a change
OURS = re.compile(r"([0-9a-f]{32}\.pictures|[0-9a-f]{64}\.(set|pairs))(\.[0-9a-f]{16}\.tmp)?")


@dataclass(frozen=True)
class Read:
    """The pictures of a source, in the order in which they were asked for.

    rows: (N,) of `ROW`: sha256 is of the file's bytes; error is "", or why it is left out. pixels:
    (N, *pixel shape) uint8, mapped from disk; zeros where there is an error.
    """

    rows: Array
    pixels: Array


@dataclass(frozen=True)
class KeptSet:
    """A test set as it was kept. images: (N, *pixel shape) uint8, mapped; labels: (N,) int64."""

    images: Array
    labels: Array


@dataclass(frozen=True)
class _Kept(Read):
    """What an earlier run left; names: the files', one behind the other."""

    names: bytes


def default_dir() -> Path:
    """Return where the cache is unless another place is named: `$XDG_CACHE_HOME/convnet-edge`.

    Raises:
        InputError: this user has no home folder.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # a relative one is no place: https://specifications.freedesktop.org/basedir-spec
        return (named if named.is_absolute() else Path.home() / ".cache") / "convnet-edge"
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder to keep decoded pictures in",
            expected="HOME or XDG_CACHE_HOME to name a folder",
            next_step="name one with --cache DIR",
        ) from error


def read(
    entries: Sequence[Entry],
    how: Preprocessing,
    *,
    cache_dir: Path,
    source: str,
    recheck: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Read:
    """Return all of `entries`; those whose path, size or time of change are new are opened first.

    `recheck` opens them all. `progress` is told how many of how many are open. What could not be
    opened is tried again each time: rights and packages change, and leave no trace in the file.

    Raises:
        InputError: the cache cannot be written, or no process can be started.
    """
    paths = [entry.path for entry in entries]
    names, rows = _look(paths)
    path = cache_dir / f"{_hexdigest([str(Path(source).absolute()), asdict(how)])[:32]}.pictures"
    made_by = _hexdigest([FORMAT, __version__, PIL.__version__, how.document()])
    kept = None if recheck else _load(path, made_by, how.shape)
    places = np.full(len(rows), -1)
    if kept:
        places = _places(kept, names, rows)
        rows[places >= 0] = kept.rows[places[places >= 0]]
        failed = np.flatnonzero(rows["error"]).tolist()
        for index, one in zip(failed, reader.read((paths[i] for i in failed), how), strict=True):
            if _reason(paths[index], one, how) != rows["error"][index]:
                places[index] = -1
        if np.array_equal(places, np.arange(len(kept.rows))):
            return Read(rows, kept.pixels)

    def pixels() -> Generator[bytes, None, None]:
        """Yield the pixels of each entry, and complete its row."""
        new = np.flatnonzero(places < 0).tolist()
        opened = reader.read((paths[index] for index in new), how)
        n_opened, nothing = 0, bytes(math.prod(how.shape))
        for index, place in enumerate(places.tolist()):
            if kept and place >= 0:
                yield kept.pixels[place].tobytes()
                continue
            one = next(opened)
            error = _reason(paths[index], one, how)
            _describe(rows[index], one, error)
            yield nothing if error or not one.prepared else one.prepared.pixels.tobytes()
            n_opened += 1
            if n_opened % max(1, len(new) // N_TOLD) == 0 or n_opened == len(new):
                progress(n_opened, len(new))

    rest = {"made_by": np.array(made_by), "names": np.frombuffer(names, np.uint8), "rows": rows}
    return Read(rows, _save(path, (len(rows), *how.shape), pixels(), rest))


def keep_set(cache_dir: Path, sha256: str, images: Array, labels: Array) -> None:
    """Keep a test set, so that `find_set` returns it for its digest.

    Raises:
        InputError: the cache cannot be written.
    """
    if not find_set(cache_dir, sha256):
        parts = (part.tobytes() for part in _parts(images))
        rest = {"labels": labels, "sha256": np.array(_set_sha256(sha256, images))}
        _save(cache_dir / f"{sha256}.set", images.shape, parts, rest)


def find_set(cache_dir: Path, sha256: str) -> KeptSet | None:
    """Return the test set that is kept for this digest; None if there is none, or it is damaged."""
    if not (found := _open(cache_dir / f"{sha256}.set", "labels", "sha256")):
        return None
    images, labels, digest = found
    is_whole = str(digest) == _set_sha256(sha256, images)
    return KeptSet(images, labels) if is_whole else None


def keep_pairs(cache_dir: Path, key: str, found: Duplicates) -> None:
    """Keep which pictures are alike, for `find_pairs`.

    Raises:
        InputError: the cache cannot be written.
    """
    sizes = np.array([len(group) for group in found.exact], np.int64)
    members = np.array([place for group in found.exact for place in group], np.int64)
    rest = {"near": found.near, "distances": found.distances, "sizes": sizes, "members": members}
    _save(cache_dir / f"{key}.pairs", (1,), (bytes(1) for _ in range(1)), rest)  # no pixels


def find_pairs(cache_dir: Path, key: str) -> Duplicates | None:
    """Return which pictures are alike, as it was kept; None if it was not, or is damaged."""
    found = _open(cache_dir / f"{key}.pairs", "near", "distances", "sizes", "members")
    if found is None:
        return None
    _, near, distances, sizes, members = found
    groups = np.split(members, np.cumsum(sizes)[:-1]) if len(sizes) else []
    return Duplicates(tuple(tuple(group.tolist()) for group in groups), near, distances)


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


def _hexdigest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _set_sha256(sha256: str, images: Array) -> str:
    """Return the digest of the pixels that are kept of a set, and of its own."""
    digest = hashlib.sha256(sha256.encode())
    for part in _parts(images):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _parts(images: Array) -> Iterator[Array]:
    """Yield `images`, which may be more than the memory, a few at a time."""
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


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


def _places(kept: "_Kept", names: bytes, rows: Array) -> Array:
    """Return (N,) where in `kept` each file is, -1 if it is not, or has changed since."""
    places = np.arange(len(rows))
    if kept.names != names:
        known = {name: place for place, name in enumerate(kept.names.split(b"\0"))}
        places = np.array([known.get(name, -1) for name in names.split(b"\0")])
    was = kept.rows[places]
    same = (was["n_bytes"] == rows["n_bytes"]) & (was["mtime_ns"] == rows["mtime_ns"])
    return np.where(same & (places >= 0), places, -1)


def _reason(path: str, opened: reader.Opened, how: Preprocessing) -> str:
    """Return why a picture is left out, "" if it is not."""
    reason = ""
    if error := opened.error:
        reason = error.found.removeprefix(path).lstrip(": ").removeprefix("is ")
        if "pip install" in error.next_step:  # not the picture's fault
            reason += f"; {error.next_step.split(',')[0]}"
    elif opened.prepared and opened.prepared.n_frames > 1:
        reason = f"animated ({opened.prepared.n_frames} frames)"
    elif (
        opened.height * SMALLEST_SHARE < how.size[0] and opened.width * SMALLEST_SHARE < how.size[1]
    ):
        reason = f"too small ({opened.width} × {opened.height} pixels)"
    return reason[:MAX_REASON]


def _describe(row: Any, opened: reader.Opened, error: str) -> None:
    """Fill the row of a picture."""
    row["sha256"] = np.frombuffer(opened.sha256, np.uint8)
    for name in ("dhash", "width", "height", "mode"):
        row[name] = getattr(opened, name)
    row["error"] = error


def _load(path: Path, made_by: str, shape: tuple[int, ...]) -> _Kept | None:
    """Return what is kept at `path`, None if that is nothing, damaged, or made otherwise."""
    if not (found := _open(path, "made_by", "names", "rows")) or str(found[1]) != made_by:
        return None
    pixels, _, names, rows = found
    is_whole = rows.dtype == ROW and pixels.shape == (len(rows), *shape)
    return _Kept(rows, pixels, names.tobytes()) if is_whole else None


def _open(path: Path, *names: str) -> list[Array] | None:
    """Return the pixels and the arrays of these names that `_save` wrote; None if it did not."""
    try:
        with path.open("rb") as file:
            file.seek(-TAIL_BYTES, os.SEEK_END)
            sha256, n_bytes = file.read(SHA256_BYTES), int.from_bytes(file.read(), "little")
            file.seek(-TAIL_BYTES - n_bytes, os.SEEK_END)
            rest = file.read(n_bytes)
            # before it is parsed: numpy raises all kinds of errors at damage
            if hashlib.sha256(rest).digest() != sha256:
                return None
            with np.load(io.BytesIO(rest)) as arrays:
                shape = tuple(arrays["shape"].tolist())
                pixels = np.memmap(file, np.uint8, "r", shape=shape)
                return [pixels, *(arrays[name] for name in names)]
    except (OSError, ValueError, LookupError):  # no such length, or arrays of another kind
        return None


def _save(
    path: Path, shape: tuple[int, ...], parts: Generator[bytes, None, None], rest: dict[str, Any]
) -> Array:
    """Write uint8 pixels of this shape, given in parts, then `rest`; return the pixels mapped.

    The file has another name until all of it is on the disk.

    Raises:
        InputError: the system refuses.
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
                file.writelines(parts)
                np.savez(arrays := io.BytesIO(), shape=np.array(shape), **rest)
                known = arrays.getvalue()
                file.write(known + hashlib.sha256(known).digest())
                file.write(len(known).to_bytes(TAIL_BYTES - SHA256_BYTES, "little"))
                file.flush()
                os.fsync(file.fileno())
            mapped = np.memmap(temporary, np.uint8, "r", shape=shape)  # before another has its name
            temporary.replace(path)
            return mapped
    finally:  # it is there no more if all went well
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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
