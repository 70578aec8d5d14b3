"""Open many pictures in as many processes as there are cores.

What is done with a picture is the worker's business, what is kept of it the cache's.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from ..runtime.errors import InputError
from ..runtime.files import MIB
from ..runtime.measure.machine import usable_cores
from ..runtime.pictures.preprocess import Preprocessing
from . import processes
from .worker import Opened

MAX_CHUNK, MAX_CHUNK_BYTES = 32, 4 * MIB  # of pictures on their way to or from a worker


def read(paths: Iterable[str], how: Preprocessing) -> Iterator[Opened]:
    """Yield what each of `paths` holds, in order; a picture that cannot be opened stops no other.

    Raises:
        InputError: a process cannot be started.
    """
    for opened in processes.run(_Reading(how), paths, usable_cores()):
        yield from opened


def at_once(how: Preprocessing, most: int = MAX_CHUNK) -> int:
    """Return how many pictures a worker is given at once."""
    return max(1, min(most, MAX_CHUNK_BYTES // math.prod(how.shape)))


class _Reading:
    """Opening pictures: `processes.Job`."""

    module = "convnet_edge.data.worker"

    def __init__(self, how: Preprocessing) -> None:
        self.task: dict[str, Any] = {"how": how.document()}
        self.largest, self._shape = at_once(how), how.shape

    def ask(self, items: Sequence[str]) -> list[str]:
        return [os.fspath(path) for path in items]

    def read(self, stream: IO[bytes], items: Sequence[str]) -> list[Opened]:
        found = list[Opened]()
        for _ in items:
            if (opened := Opened.read(stream, self._shape)) is None:
                break
            found.append(opened)
        return found

    def crashed(self, item: str, why: str) -> list[Opened]:
        return [Opened(error=decoder_crashed(item, why))]


def decoder_crashed(name: str, why: str) -> InputError:
    """Return the error of a picture that ended the process which opened it."""
    return InputError(
        f"{name}: its decoder crashed ({why})",
        expected="a whole picture",
        next_step="save it again, or name another",
    )
