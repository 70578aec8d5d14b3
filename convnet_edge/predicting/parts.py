"""Keep answers as a folder of parts, each under its name only when it is whole; go on from there.

Parquet where pyarrow is, else CSV. `_predictions.json` says of what model and options they are.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime.errors import InputError, first_line
from ..runtime.files import read_bytes, require_writable, write_atomically, write_json
from ..runtime.pictures.preprocess import Array
from .answers import NO_CLASS, Answers

STATED, LOCK, PART = "_predictions.json", ".lock", "part-{:06}"  # "_": no table to others
SCHEMA = "convnet-edge/predictions/1"
MAX_STATED_BYTES = 1 << 20
FIRST_PART_S, PART_S, PART_ROWS = 2.0, 30.0, 50_000  # a crash costs no more than one part
ROWS_AT_ONCE = 10_000
FREE = ("versions", "command")  # may differ from start to start


@dataclass(frozen=True)
class Columns:
    """What a part holds of each row. n_top: the likeliest classes beside the first, 0 for none."""

    class_labels: tuple[str, ...]
    n_top: int
    digest: bool

    def names(self) -> list[str]:
        """Return the columns' names."""
        shown = ["path", "label", "score", "index", "sure"]
        return [*shown, *["top"] * bool(self.n_top), "error", *["sha256"] * self.digest]

    def values(self, answers: Answers) -> dict[str, list[Any]]:
        """Return what each column holds of the answers; None where there is no answer."""
        labels, n = np.array([*self.class_labels, None], object), self.n_top  # at `NO_CLASS`: None
        index, missing = answers.top[:, 0], answers.top[:, 0] == NO_CLASS

        def known(values: Array) -> list[Any]:
            found = values.astype(object)
            found[missing] = None
            return found.tolist()  # type: ignore[no-any-return]

        found: dict[str, list[Any]] = {
            "path": answers.paths,
            "label": labels[index].tolist(),
            "score": known(answers.scores[:, 0]),
            "index": known(index),
            "sure": known(~answers.unsure),
            "error": [None] * len(answers),
        }
        for place, why in answers.errors.items():
            found["error"][place] = as_text(why)
        if self.digest:
            read = (row.tobytes() for row in answers.digests)
            found["sha256"] = [one.hex() if any(one) else None for one in read]
        if n:
            best = zip(labels[answers.top].tolist(), answers.scores.tolist(), strict=True)
            found["top"] = [
                [{"label": label, "score": score} for label, score in zip(*pair, strict=True)]
                if pair[0][0] is not None
                else None
                for pair in best
            ]
        return {name: found[name] for name in self.names()}


def as_text(name: str) -> str:
    """Return what every table holds of a path: bytes that are no UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()


class Format(Protocol):
    """How a part is written and read again."""

    suffix: str

    def write(self, values: Mapping[str, Sequence[Any]], stated: dict[str, Any]) -> bytes:
        """Return the content of a part of these columns."""

    def read(self, path: Path) -> Iterator[tuple[str, bool]]:
        """Yield each row's path, and whether it has an error."""

    def without_errors(self, path: Path) -> bytes | None:
        """Return the part without the rows of errors, None if nothing is left."""


class Csv:
    """Parts as CSV; `top` as JSON."""

    suffix = ".csv"

    def write(self, values: Mapping[str, Sequence[Any]], _: dict[str, Any]) -> bytes:
        """Return the content of a part of these columns."""
        return self._text([*values], zip(*values.values(), strict=True))

    def read(self, path: Path) -> Iterator[tuple[str, bool]]:
        """Yield each row's path, and whether it has an error."""
        _, rows, place = self._rows(path)
        yield from ((row[0], bool(row[place])) for row in rows)

    def without_errors(self, path: Path) -> bytes | None:
        """Return the part without the rows of errors, None if nothing is left."""
        names, rows, place = self._rows(path)
        kept = [row for row in rows if not row[place]]
        return self._text(names, kept) if kept else None

    def _rows(self, path: Path) -> tuple[list[str], list[list[str]], int]:
        """Return names, rows, and where in them errors stand."""
        names, *rows = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
        return names, rows, names.index("error")

    def _text(self, names: list[str], rows: Iterable[Iterable[Any]]) -> bytes:
        out = io.StringIO(newline="")
        table = csv.writer(out, lineterminator="\n")
        table.writerow(names)
        table.writerows(map(_as_cell, row) for row in rows)
        return out.getvalue().encode()


def _as_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


class Parquet:
    """Parts as Parquet; what `_predictions.json` says is in each one's metadata, too."""

    suffix = ".parquet"

    def __init__(self, arrow: Any, parquet: Any) -> None:
        self._arrow, self._parquet = arrow, parquet

    def write(self, values: Mapping[str, Sequence[Any]], stated: dict[str, Any]) -> bytes:
        """Return the content of a part of these columns."""
        a = self._arrow
        pair = a.struct([("label", a.string()), ("score", a.float32())])
        types = {
            "path": a.string(), "label": a.string(), "score": a.float32(), "index": a.int32(),
            "sure": a.bool_(), "top": a.list_(pair), "error": a.string(), "sha256": a.string(),
        }  # fmt: skip
        said = {"convnet_edge": json.dumps(stated, ensure_ascii=False)}
        schema = a.schema([(name, types[name]) for name in values], metadata=said)
        return self._content(a.Table.from_pydict(values, schema=schema))

    def read(self, path: Path) -> Iterator[tuple[str, bool]]:
        """Yield each row's path, and whether it has an error."""
        file = self._parquet.ParquetFile(path)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=["path", "error"]):
            paths, errors = (batch.column(name).to_pylist() for name in ("path", "error"))
            yield from zip(paths, (error is not None for error in errors), strict=True)

    def without_errors(self, path: Path) -> bytes | None:
        """Return the part without the rows of errors, None if nothing is left."""
        table = self._parquet.read_table(path)
        kept = table.filter(table.column("error").is_null())
        return self._content(kept) if kept.num_rows else None

    def _content(self, table: Any) -> bytes:
        out = io.BytesIO()
        self._parquet.write_table(table, out, compression="zstd")
        return out.getvalue()


class Done:
    """Which paths have an answer already: 16 bytes for each."""

    def __init__(self, paths: Iterator[str]) -> None:
        digests = np.fromiter(map(_digest, paths), "S16")
        self._digests, self._n = np.unique(digests, return_counts=True)

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self._digests)

    def take(self, path: str) -> bool:
        """Tell whether a path has an answer that was not taken before."""
        digest = np.bytes_(_digest(path))
        place = int(np.searchsorted(self._digests, digest))
        if place == len(self._digests) or self._digests[place] != digest or not self._n[place]:
            return False
        self._n[place] -= 1
        return True


def _digest(path: str) -> bytes:
    return hashlib.blake2b(path.encode(), digest_size=15).digest() + b"."  # no zero at the end


class Parts:
    """A folder of answers, opened to go on; `close` it.

    stated: what the answers follow from; those of another are refused.

    Raises:
        InputError: it holds other answers, is written by another process, or cannot be written.
    """

    def __init__(
        self, folder: Path, form: Format, columns: Columns, stated: dict[str, Any]
    ) -> None:
        self.folder, self._form, self._columns, self._stated = folder, form, columns, stated
        self._answers, self._n = list[Answers](), 0
        self._wait_s, self._began = FIRST_PART_S, time.monotonic()
        require_writable(folder / STATED)
        with _refusing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        with contextlib.ExitStack() as undoing:
            undoing.callback(self.close)
            self._require_same()
            numbered = re.compile(rf"part-(\d+){re.escape(form.suffix)}")
            found = ((numbered.fullmatch(path.name), path) for path in folder.iterdir())
            parts = sorted((int(name[1]), path) for name, path in found if name)
            self._paths = [path for _, path in parts]
            self._number = 1 + parts[-1][0] if parts else 0
            undoing.pop_all()

    def _require_same(self) -> None:
        path = self.folder / STATED
        if not path.exists():
            others = [one.name for one in self.folder.iterdir() if one.name.startswith("part-")]
            if others:
                raise self._other(f"{others[0]} and no {STATED}")
            write_json(path, self._stated)
            return
        data = read_bytes(path, limit=MAX_STATED_BYTES, next_step="name another folder with --out")
        try:
            said = json.loads(data)
            settled = {key: self._stated[key] for key in self._stated if key not in FREE}
            differing = [key for key in settled if said.get(key) != settled[key]]
        except (ValueError, AttributeError) as error:
            raise self._other(f"a damaged {STATED}") from error
        if differing:
            key = differing[0]
            raise self._other(f"answers of another {key} ({str(said.get(key))[:80]})")

    def _other(self, found: str) -> InputError:
        return InputError(
            f"{self.folder} holds {found}",
            expected="an empty folder, or answers of the same model and options to go on with",
            next_step="name another folder with --out",
        )

    def drop_errors(self) -> None:
        """Remove the rows of errors, so that their pictures are tried again."""
        for path in [*self._paths]:
            if any(has_error for _, has_error in self._read(path)):
                left = self._form.without_errors(path)
                if left is None:
                    path.unlink()
                    self._paths.remove(path)
                else:
                    write_atomically(path, left)

    def done(self) -> tuple[Done, int, int]:
        """Return what has an answer, how many rows there are, and how many of them are errors."""
        counts = [0, 0]

        def paths() -> Iterator[str]:
            for path in self._paths:
                for name, has_error in self._read(path):
                    counts[0] += 1
                    counts[1] += has_error
                    yield name

        return Done(paths()), counts[0], counts[1]

    def _read(self, path: Path) -> Iterator[tuple[str, bool]]:
        try:
            yield from self._form.read(path)
        except (OSError, ValueError, LookupError, csv.Error) as error:  # pyarrow's is a ValueError
            raise InputError(
                f"{path} cannot be read: {first_line(error)}",
                expected="a whole part, as this program wrote it",
                next_step="remove it, and start again: its pictures are labelled anew",
            ) from error

    def add(self, answers: Answers) -> None:
        """Add rows; now and then, a part is written."""
        self._answers.append(answers)
        self._n += len(answers)
        is_late = time.monotonic() - self._began > self._wait_s
        if self._n >= PART_ROWS or is_late:
            self.flush()
            self._wait_s = min(PART_S, 2 * self._wait_s)

    def flush(self) -> None:
        """Write the rows that are waiting."""
        if self._answers:
            path = self.folder / f"{PART.format(self._number)}{self._form.suffix}"
            values = self._columns.values(Answers.joined(self._answers))
            write_atomically(path, self._form.write(values, self._stated))
            self._number += 1
            self._answers, self._n = [], 0
        self._began = time.monotonic()

    def close(self) -> None:
        """Let others write here."""
        with contextlib.suppress(OSError):
            os.close(self._lock)


def choose_format(*, as_csv: bool) -> Format:
    """Return Parquet where pyarrow is and nothing else is asked for, else CSV."""
    if not as_csv:
        with contextlib.suppress(ImportError):
            return Parquet(import_module("pyarrow"), import_module("pyarrow.parquet"))
    return Csv()


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror}",
            expected="a folder, or a new name for one",
            next_step="choose another place with --out",
        ) from error


def _lock(folder: Path) -> int:
    """Return a file that only one process can hold, and that is free when this one ends."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(ImportError):  # Windows has no such locks
        fcntl: Any = import_module("fcntl")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                f"another process writes in {folder}",
                expected="one at a time",
                next_step="wait for it, or name another folder with --out",
            ) from error
    return descriptor
