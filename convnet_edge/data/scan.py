"""List the pictures of a source with their classes: a folder of class folders, or a table.

Opens no picture: that is the reader's business. Nor does it decide splits that nobody published.
"""

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from ..runtime.contract import MAX_CLASSES
from ..runtime.errors import InputError, MissingPackageError, first, some
from ..runtime.files import MIB, read_bytes
from ..runtime.options import require
from ..runtime.pictures.decode import FORMATS, PHONE_SUFFIXES

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
PART_WORDS: dict[str, Part] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
SUFFIXES = (*chain.from_iterable(FORMATS.values()), *PHONE_SUFFIXES)
COLUMNS = ("path", "label", "split")
MAX_TABLE_BYTES = 1024 * MIB
MIN_PICTURES = 2  # of a class
N_FOREIGN = 3  # that are named of the files that are no pictures
MAX_DEPTH = 100  # of folders within each other


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture: where it is, its class, and its split; None where the source publishes none."""

    path: str  # a Path takes ten times as long to make
    label: str
    part: Part | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is not used, and why. path: within the source, or as its table has it."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Scan:
    """What a source holds, class labels sorted. published: whether it has splits of its own."""

    entries: tuple[Entry, ...]
    class_labels: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    published: bool


def scan(source: str, data_dir: Path | None) -> Scan:
    """List the pictures of a folder or a table.

    A folder's pictures, however deep, belong to the class that its first level names, or its second
    where the first is splits. Names are compared in Unicode's form NFC.

    Raises:
        InputError: there is nothing, no table, or not two classes with two pictures each; a class
            has two folders, or no training picture; a table's picture has two labels.
    """
    require(
        data_dir is None, f"--data-dir {data_dir}", f"none beside {source}", "--data-dir",
        verb="leave out",
    )  # fmt: skip
    if os.path.isdir(source):  # noqa: PTH112 - it never raises, nor does the other
        entries, left_out = _scan_folder(source)
    elif os.path.isfile(source):  # noqa: PTH113
        entries, left_out = _scan_table(Path(source))
    else:
        raise InputError(
            f"{source} is neither a folder nor a file here",
            expected="a folder of class folders, a CSV or Parquet table, or the name of a data set",
            next_step="check how it is written",
        )
    counts = Counter(entry.label for entry in entries)
    trained = {entry.label for entry in entries if entry.part in ("train", None)}
    require_classes(source, counts, trained, left_out)
    return scan_of(entries, left_out)


def scan_of(entries: Sequence[Entry], left_out: Sequence[LeftOut] = ()) -> Scan:
    """Return what these entries are.

    If all are to train, that is no split. Validation beside train alone is the test, as ImageNet's.
    """
    parts = {entry.part for entry in entries}
    if parts == {"train"}:
        entries = [replace(entry, part=None) for entry in entries]
    if parts == {"train", "validation"}:
        entries = [replace(one, part="test") if one.part != "train" else one for one in entries]
    labels = sorted({entry.label for entry in entries})
    published = all(entry.part for entry in entries)
    return Scan(tuple(entries), tuple(labels), tuple(left_out), published)


def require_classes(
    source: str, counts: Mapping[str, int], trained: Collection[str], left_out: Sequence[LeftOut]
) -> None:
    """Raise InputError unless classes are two or more, and each has enough pictures.

    counts: pictures by class; trained: classes that have some to train with.
    """
    few = [f"{label} ({n})" for label, n in sorted(counts.items()) if n < MIN_PICTURES]
    untrained = sorted(set(counts).difference(trained))
    not_text = [label for label in counts if label.encode(errors="ignore").decode() != label]
    if len(counts) < 2:
        found = f"one class, {next(iter(counts))}" if counts else "no picture with a class"
        expected = "two classes or more: a folder for each, or train/, val/ and test/ of such"
        next_step = "name the folder that holds these, or sort the pictures into such"
    elif len(counts) > MAX_CLASSES:
        found, expected = f"{len(counts):,} classes", f"at most {MAX_CLASSES:,}"
        next_step = "give a folder to each class, not to each picture"
    elif not_text:
        found, expected = f"classes whose names are not UTF-8: {some(not_text)}", "names that are"
        next_step = "rename them"
    elif few:
        found = f"classes with fewer than {MIN_PICTURES} pictures: {some(few)}"
        expected, next_step = f"{MIN_PICTURES} or more of each", "add some, or take the classes out"
    elif untrained:
        found, expected = f"classes without training picture: {some(untrained)}", "some of each"
        next_step = "spell classes the same in all splits, or take these out"
    else:
        return
    details = tuple(f"left out: {one}" for one in first(left_out))
    found = f"{source} has {found}"
    raise InputError(found, expected=expected, next_step=next_step, details=details)


def names_within(source: str, entries: Sequence[Entry]) -> list[str]:
    """Return each picture's path within its source: its folder, or that of its table."""
    above = source if os.path.isdir(source) else Path(source).parent  # noqa: PTH112
    prefix = f"{Path(above)}{os.sep}"
    return [entry.path.removeprefix(prefix) for entry in entries]


def _scan_folder(source: str) -> tuple[list[Entry], list[LeftOut]]:
    """Return the pictures in the folders of classes, and what is left out."""
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    others: Counter[str] = Counter()
    spelled: dict[tuple[Part | None, str], str] = {}  # classes as their folders are called
    parts: dict[str, Part] = {}
    named: list[str] = []
    for folder, folders, files in _walk(source, left_out):
        inner = folder.relative_to(source).parts
        if not inner:
            parts = _parts(source, folders)
        names = sorted(name for name in files if _is_picture(name))
        foreign = sorted(set(files).difference(names))
        others.update(map(_kind, foreign))
        shown = [str(Path(*inner, name)) for name in foreign if not name.startswith(".")]
        named += shown[: N_FOREIGN - len(named)]
        if len(inner) <= bool(parts):
            others["pictures in no class's folder"] += len(names)
            continue
        part, place = parts.get(inner[0]), str(Path(*inner[: 1 + bool(parts)]))
        label = unicodedata.normalize("NFC", inner[bool(parts)])
        if spelled.setdefault((part, label), place) != place:
            raise InputError(
                f"{source} has two folders {place} that look the same: Unicode writes it two ways",
                expected="one folder for each class",
                next_step="move the pictures of one into the other",
            )
        entries += [Entry(f"{folder}{os.sep}{name}", label, part) for name in names]
    filled = {(entry.part, entry.label) for entry in entries}
    empty = [place for key, place in spelled.items() if key not in filled]
    left_out += [LeftOut(place, "a folder without a picture") for place in empty]
    if n_others := others.total():
        listed = ", ".join(f"{kind} ({n:,})" for kind, n in others.most_common() if n)
        as_ = f", as {', '.join(named)}" * bool(named)
        files_text = f"{n_others:,} file{'s' * (n_others > 1)} of no class"
        left_out.append(LeftOut(source, f"{files_text}: {listed}{as_}"))
    return entries, left_out


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _kind(name: str) -> str:
    """Return what a file is that is no picture."""
    return "hidden" if name.startswith(".") else Path(name).suffix.lower() or "no suffix"


def _walk(source: str, left_out: list[LeftOut]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder with the names of the folders and files in it, links followed."""
    seen: dict[tuple[tuple[str, ...], int, int], str] = {}

    def leave_out(path: str, reason: str) -> None:
        left_out.append(LeftOut(os.path.relpath(path, source), reason))

    def refused(error: OSError) -> None:
        leave_out(error.filename, f"cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(source, onerror=refused, followlinks=True):
        inner, status = Path(folder).relative_to(source).parts, Path(folder).stat()
        # two classes may link to one folder: that is a leak to be reported, not a circle
        keys = [(inner[:n], status.st_dev, status.st_ino) for n in range(3)]
        before = next((seen[key] for key in keys if key in seen), None)
        if before is not None or len(inner) > MAX_DEPTH:
            leave_out(folder, f"the same folder as {before}" if before else "in too many folders")
            folders.clear()
            continue
        seen[keys[-1]] = os.path.relpath(folder, source)
        for name in [name for name in folders if name.startswith(".")]:
            leave_out(f"{folder}/{name}", "a hidden folder")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(folder), folders, files


def _parts(source: str, folders: Sequence[str]) -> dict[str, Part]:
    """Return the split that each folder is called after; none where classes name them."""
    words = {name: PART_WORDS[name.casefold()] for name in folders if name.casefold() in PART_WORDS}
    if len(words) == len(folders) == len({*words.values()}) and "train" in words.values():
        return words
    if len(words) < 2:
        return {}
    raise InputError(
        f"{source} holds {some(folders)}",
        expected="classes alone, or splits alone: one train, at most one val and one test",
        next_step="rename what is no split, or one of two for the same",
    )


def _scan_table(path: Path) -> tuple[list[Entry], list[LeftOut]]:
    """Return the pictures that a table lists, and the rows left out."""
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    entries: dict[str, Entry] = {}
    left_out: list[LeftOut] = []
    for number, row in enumerate(_read_parquet(path) if is_parquet else _read_csv(path), 1):
        written, label, *word = map(_text, row)
        full = str(path.parent / os.path.normpath(written))
        part = PART_WORDS.get(word[0].strip().casefold()) if word else None
        entry = Entry(full, unicodedata.normalize("NFC", label.strip()), part)
        if not entry.label:
            reason = "no label"
        elif word and part is None:
            reason = f"split {word[0]!r} is not one of {', '.join(PART_WORDS)}"
        elif not _is_picture(Path(full).name):
            reason = "no picture by its name"
        elif not os.path.isfile(full):  # noqa: PTH113 - it never raises
            reason = "no such file"
        elif (before := entries.setdefault(full, entry)) is entry:
            continue
        elif before == entry:
            reason = "a second time"
        else:
            raise InputError(
                f"{path} has {written} twice, in row {number} with another label or split",
                expected="one row for each picture",
                next_step="remove the wrong one",
            )
        left_out.append(LeftOut(written, f"row {number}: {reason}"))
    return list(entries.values()), left_out


def _text(cell: Any) -> str:
    if cell is None or cell != cell:  # NaN, as pandas writes what is missing
        return ""
    return os.fsdecode(cell) if isinstance(cell, bytes) else str(cell)


def _read_csv(path: Path) -> list[list[str]]:
    """Return each row's path, label and, where the table has any, split."""
    data = read_bytes(path, limit=MAX_TABLE_BYTES, next_step="name another table")
    try:
        text = data.decode("utf-8-sig") or "\n"
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        names, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        places = _places(path, [name.strip().lower() for name in names])
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_table(path, error) from error
    padding = [""] * len(names)
    return [[(row + padding)[at] for at in places] for row in rows if row]


def _read_parquet(path: Path) -> list[tuple[Any, ...]]:
    """Return each row's path, label and, where the table has any, split."""
    arrow, parquet = import_parquet(path)
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        places = _places(path, [name.strip().lower() for name in names])
        columns = file.read(columns=[names[at] for at in places]).columns
        return list(zip(*(column.to_pylist() for column in columns), strict=True))
    except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
        raise _no_table(path, error) from error


def import_parquet(path: Path) -> tuple[Any, Any]:
    """Return the modules that read a table.

    Raises:
        MissingPackageError: they are not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingPackageError(
            f"pyarrow is not installed, and {path} is Parquet",
            expected="pyarrow to read Parquet",
            next_step="pip install pyarrow, or write the table as CSV",
        ) from error


def _places(path: Path, names: Sequence[str]) -> list[int]:
    """Return where in a row path, label and, if there is any, split stand."""
    if any(names.count(name) > 1 for name in COLUMNS) or not {*COLUMNS[:2]} <= {*names}:
        raise InputError(
            f"{path} has the columns {some(names)}",
            expected="one path and one label, and at most one split",
            next_step="name the first row's columns so",
        )
    return [names.index(name) for name in COLUMNS if name in names]


def _no_table(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is no table, or damaged: {error}",
        expected="CSV in UTF-8, or Parquet",
        next_step="name a table or a folder",
    )
