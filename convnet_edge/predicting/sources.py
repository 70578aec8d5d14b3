"""Find the pictures that sources name, one by one: files, folders, lists, tables, tar files.

Nothing here grows with their number but a folder's own listing.
"""

import csv
import os
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ..data.scan import import_parquet
from ..runtime.errors import InputError
from ..runtime.files import read_bytes
from ..runtime.pictures import decode

PICTURE_SUFFIXES = {*chain.from_iterable(decode.FORMATS.values()), *decode.PHONE_SUFFIXES}
LISTS, TABLES, SHARDS = (".txt", ".lst"), (".csv", ".parquet"), (".tar",)
ROWS_AT_ONCE, BLOCK = 10_000, 1 << 20
NEXT_STEP = "name a picture file"


class Item(NamedTuple):
    """A picture to label. name: as it stands in the answers.

    path: the file that holds it, from the byte `start` on, in `size` bytes; all of it if None.
    error: why it cannot be reached, if that is known already.
    """

    name: str
    path: str
    start: int = 0
    size: int | None = None
    error: InputError | None = None

    @property
    def is_named_so(self) -> bool:
        """Whether its name is its path."""
        return self.name == self.path and self.size is None

    def read(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            InputError: it is not there, cannot be read, is empty or too large.
        """
        if self.error:
            raise self.error
        if self.size is None:
            return read_bytes(self.path, limit=decode.MAX_PICTURE_BYTES, next_step=NEXT_STEP)
        found = f"{self.name} is of {self.size:,} bytes"
        if 0 < self.size <= decode.MAX_PICTURE_BYTES:
            try:
                with open(self.path, "rb") as file:  # noqa: PTH123 - speed
                    file.seek(self.start)
                    data = file.read(self.size)
                if len(data) == self.size:
                    return data
                found = f"{self.name}: its tar file ends before it"
            except OSError as error:
                found = f"{self.name} cannot be read: {error.strerror}"
        raise InputError(found, expected="a whole picture", next_step=NEXT_STEP)


def find(sources: Iterable[Path]) -> Iterator[Item]:
    """Yield the pictures of each source, in order: those of a folder sorted, by their suffix.

    A list names one file a line, a table has a column `path`; both mean it from their own folder.
    A source that cannot be read is an item with that error.
    """
    for source in sources:
        try:
            yield from _within(source)
        except InputError as error:
            yield Item(str(source), str(source), error=error)
        except (OSError, ValueError, EOFError, csv.Error, tarfile.TarError) as error:
            why = getattr(error, "strerror", None) or error
            yield _unreachable(source, f"cannot be read: {why}")


def _unreachable(source: Path, why: str) -> Item:
    expected = "pictures, or folders, lists, tables and tar files of them"
    error = InputError(f"{source} {why}", expected=expected, next_step="name another source")
    return Item(str(source), str(source), error=error)


def _within(source: Path) -> Iterator[Item]:
    suffix = source.suffix.lower()
    if os.path.isdir(source):  # noqa: PTH112 - it never raises
        pictures = _in_folder(str(source))
        first = next(pictures, None)
        if first is None:
            yield _unreachable(source, "holds no picture, by their names")
        else:
            yield first
            yield from pictures
    elif suffix in LISTS:
        with source.open(encoding="utf-8", errors="surrogateescape") as file:
            yield from _from(source, (line.rstrip("\r\n") for line in file))
    elif suffix in TABLES:
        yield from _from(source, _in_parquet(source) if suffix == ".parquet" else _in_csv(source))
    elif suffix in SHARDS:
        yield from _in_shard(source)
    else:
        yield Item(str(source), str(source))


def _in_folder(folder: str) -> Iterator[Item]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:  # those beside it go on
        yield _unreachable(Path(folder), f"cannot be read: {error.strerror}")
        return
    for entry in entries:
        if entry.is_dir():
            if not entry.is_symlink():  # which may lead back here
                yield from _in_folder(entry.path)
        elif _is_picture(entry.name):
            yield Item(entry.path, entry.path)


def _is_picture(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and f"{dot}{suffix.lower()}" in PICTURE_SUFFIXES


def _from(source: Path, names: Iterable[str]) -> Iterator[Item]:
    """Yield what a list or table names, seen from where that lies."""
    folder = str(source.parent)
    for name in names:
        if name:
            path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 - speed
            yield Item(path, path)


def _in_csv(source: Path) -> Iterator[str]:
    with source.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        delimiter = max(",;\t", key=head.count)
        place = _place(source, next(csv.reader([head], delimiter=delimiter), []))
        for row in csv.reader(file, delimiter=delimiter):
            yield row[place] if place < len(row) else ""


def _in_parquet(source: Path) -> Iterator[str]:
    arrow, parquet = import_parquet(source)
    try:
        file = parquet.ParquetFile(source)
        name = file.schema_arrow.names[_place(source, file.schema_arrow.names)]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[name]):
            yield from (str(one or "") for one in batch.column(0).to_pylist())
    except arrow.ArrowException as error:
        raise InputError(
            f"{source} is no Parquet, or damaged: {error}",
            expected="a whole table",
            next_step="write it anew",
        ) from error


def _place(source: Path, names: Iterable[str]) -> int:
    known = [name.strip().lower() for name in names]
    if known.count("path") != 1:
        raise InputError(
            f"{source} has the columns {', '.join(known)[:200] or '(none)'}",
            expected="one of them to be path",
            next_step="name the first row's columns so",
        )
    return known.index("path")


def _in_shard(source: Path) -> Iterator[Item]:
    with tarfile.open(source, "r:") as shard:
        while (member := shard.next()) is not None:
            shard.__dict__["members"] = []  # it keeps all it saw
            if member.isfile() and _is_picture(member.name):
                name = f"{source}/{member.name}"
                yield Item(name, str(source), member.offset_data, member.size)


def count(sources: Iterable[Path]) -> int | None:
    """Return about how many pictures there are, without looking at them; None if that takes long.

    Raises:
        InputError, OSError: a source cannot be read.
    """
    n = 0
    for source in sources:
        suffix = source.suffix.lower()
        if os.path.isdir(source):  # noqa: PTH112 - it never raises
            n += _count_folder(str(source))
        elif suffix == ".parquet":
            n += import_parquet(source)[1].ParquetFile(source).metadata.num_rows
        elif suffix in (*LISTS, *TABLES):
            with source.open("rb") as file:
                n += sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))
        elif suffix in SHARDS:
            return None
        else:
            n += 1
    return n


def _count_folder(folder: str) -> int:
    with os.scandir(folder) as found:
        entries = list(found)
    folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    inner = sum(_count_folder(entry.path) for entry in folders)
    return inner + sum(_is_picture(entry.name) for entry in entries)
