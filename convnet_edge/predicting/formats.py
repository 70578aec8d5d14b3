"""What a part of answers looks like: its columns, as CSV and as Parquet."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime.pictures.preprocess import Array
from .answers import DIGEST_BYTES, NO_CLASS, Answers

ROWS_AT_ONCE = 10_000


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


def as_text(name: str) -> str:
    """Return what every table holds of a path: bytes that are no UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()


class Format(Protocol):
    """How a part is written and read again."""

    suffix: str

    def write(self, columns: Columns, answers: Answers, stated: dict[str, Any]) -> bytes:
        """Return the content of a part."""

    def read(self, path: Path) -> Iterator[tuple[str, bool]]:
        """Yield each row's path, and whether it has an error."""

    def without_errors(self, path: Path) -> bytes | None:
        """Return the part without the rows of errors, None if nothing is left."""


class Csv:
    """Parts as CSV; `top` as JSON."""

    suffix = ".csv"

    def write(self, columns: Columns, answers: Answers, _: dict[str, Any]) -> bytes:
        """Return the content of a part."""
        labels = np.array([*columns.class_labels, ""], object)  # that of `NO_CLASS`
        each = zip(labels[answers.top].tolist(), answers.scores.tolist(), strict=True)
        best = [
            [{"label": label, "score": score} for label, score in zip(*pair, strict=True)]
            for pair in each
        ]
        found: dict[str, list[Any]] = {
            "path": answers.paths,
            "label": [row[0]["label"] for row in best],
            "score": [row[0]["score"] for row in best],
            "index": answers.top[:, 0].tolist(),
            "sure": [not one for one in answers.unsure.tolist()],
            "top": best,
            "error": [""] * len(answers),
            "sha256": [one.tobytes().hex() if one.any() else "" for one in answers.digests],
        }
        for place, why in answers.errors.items():
            found["error"][place] = as_text(why)
            for name in ("label", "score", "index", "sure", "top"):
                found[name][place] = None
        names = columns.names()
        return self._text(names, zip(*(found[name] for name in names), strict=True))

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

    def write(self, columns: Columns, answers: Answers, stated: dict[str, Any]) -> bytes:
        """Return the content of a part."""
        a, missing = self._arrow, answers.top[:, 0] == NO_CLASS
        labels, errors = self._texts([*columns.class_labels]), answers.errors
        why = [as_text(errors[place]) if place in errors else "" for place in range(len(answers))]
        digests, letters = answers.digests.tobytes().hex().encode(), 2 * DIGEST_BYTES
        not_read: Array = np.logical_not(answers.digests.any(axis=1))

        def named(index: Array, missing: Array) -> Any:
            numbers = self._numbers(a.int32(), index, missing)
            return a.DictionaryArray.from_arrays(numbers, labels).dictionary_decode()

        found = {
            "path": lambda: self._texts(answers.paths),
            "label": lambda: named(answers.top[:, 0], missing),
            "score": lambda: self._numbers(a.float32(), answers.scores[:, 0], missing),
            "index": lambda: self._numbers(a.int32(), answers.top[:, 0], missing),
            "sure": lambda: self._numbers(a.bool_(), ~answers.unsure, missing),
            "top": lambda: self._lists(named, answers, missing),
            "error": lambda: self._texts(why, ~missing),
            "sha256": lambda: self._column(
                a.string(), len(answers), not_read,
                letters * np.arange(len(answers) + 1, dtype=np.int32), digests,
            ),
        }  # fmt: skip
        names = columns.names()
        said = {"convnet_edge": json.dumps(stated, ensure_ascii=False)}
        table = a.Table.from_arrays([found[name]() for name in names], names, metadata=said)
        return self._content(table)

    # from buffers, because Arrow's `array` imports pandas if that is installed: half a second

    def _column(self, kind: Any, n: int, missing: Array | None, *parts: Any) -> Any:
        """Return `n` values of a kind out of Arrow's own layout of them."""
        known = None if missing is None else np.packbits(~missing, bitorder="little")
        buffers = [None if one is None else self._arrow.py_buffer(one) for one in (known, *parts)]
        return self._arrow.Array.from_buffers(kind, n, buffers)

    def _numbers(self, kind: Any, values: Array, missing: Array) -> Any:
        data = np.packbits(values, bitorder="little") if values.dtype == bool else values
        return self._column(kind, len(values), missing, np.ascontiguousarray(data))

    def _texts(self, values: list[str], missing: Array | None = None) -> Any:
        encoded = [value.encode() for value in values]
        ends = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
        return self._column(self._arrow.string(), len(values), missing, ends, b"".join(encoded))

    def _lists(self, named: Callable[..., Any], answers: Answers, missing: Array) -> Any:
        """Return the likeliest classes of each row, label and score."""
        a, (n, k) = self._arrow, answers.top.shape
        flat, hidden = answers.top.ravel(), np.repeat(missing, k)
        scores = self._numbers(a.float32(), answers.scores.ravel(), hidden)
        pairs = a.StructArray.from_arrays([named(flat, hidden), scores], ["label", "score"])
        starts = self._column(a.int32(), n + 1, None, k * np.arange(n + 1, dtype=np.int32))
        return a.ListArray.from_arrays(
            starts, pairs, mask=self._numbers(a.bool_(), missing, np.zeros(n, bool))
        )

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
        # paths and digests differ from row to row
        often = ["label", "error", "top.list.element.label"]
        self._parquet.write_table(table, out, compression="zstd", use_dictionary=often)
        return out.getvalue()


def choose_format(*, as_csv: bool) -> Format:
    """Return Parquet where pyarrow is and nothing else is asked for, else CSV."""
    if not as_csv:
        with contextlib.suppress(ImportError):
            return Parquet(import_module("pyarrow"), import_module("pyarrow.parquet"))
    return Csv()
