"""Keep answers as a folder of parts, each under its name only when it is whole; go on from there.

Parquet where pyarrow is, else CSV. `_predictions.json` says of what model and options they are.
"""

import contextlib
import csv
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError, first_line
from ..runtime.files import read_bytes, require_writable, write_atomically, write_json
from .answers import Answers
from .formats import Columns, Format

STATED, LOCK, PART = "_predictions.json", ".lock", "part-{:06}"  # "_": no table to others
SCHEMA = "convnet-edge/predictions/1"
MAX_STATED_BYTES = 1 << 20
FIRST_PART_S, PART_S, PART_ROWS = 2.0, 30.0, 50_000  # a crash costs no more than one part
FREE = ("versions", "command")  # may differ from start to start


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
            answers = Answers.joined(self._answers)
            write_atomically(path, self._form.write(self._columns, answers, self._stated))
            self._number += 1
            self._answers, self._n = [], 0
        self._began = time.monotonic()

    def close(self) -> None:
        """Let others write here."""
        with contextlib.suppress(OSError):
            os.close(self._lock)


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
