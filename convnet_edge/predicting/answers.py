"""Answers to many pictures at once, in columns, as processes hand them on: `Answers`."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np

from ..runtime.pictures.preprocess import Array

MAX_LINE_BYTES = 1 << 24
NO_CLASS = -1
DIGEST_BYTES = 32


class Spent(NamedTuple):
    """Seconds that processes spent on their pictures."""

    reading: float = 0.0
    decoding: float = 0.0
    labelling: float = 0.0

    def plus(self, other: Sequence[float]) -> "Spent":
        """Return the sum."""
        return Spent(*map(sum, zip(self, other, strict=True)))


@dataclass(frozen=True)
class Answers:
    """Answers to pictures, in order.

    errors: of those that have one, by their place. top, scores: the likeliest classes, best first,
    int32 and float32 (N, k); those of an error are `NO_CLASS` and 0. unsure: bool (N,). digests:
    SHA-256 of the files, uint8 (N, 32), zeros if one was not read, (N, 0) if nobody asked. spent:
    seconds.
    """

    paths: list[str]
    errors: dict[int, str]
    top: Array
    scores: Array
    unsure: Array
    digests: Array
    spent: Spent

    def __len__(self) -> int:
        """Return how many pictures they are of."""
        return len(self.paths)

    @classmethod
    def failed(cls, paths: list[str], errors: Sequence[str], k: int, *, digest: bool) -> "Answers":
        """Return those of pictures that have an error each."""
        n = len(paths)
        return cls(
            paths,
            dict(enumerate(errors)),
            np.full((n, k), NO_CLASS, np.int32),
            np.zeros((n, k), np.float32),
            np.zeros(n, bool),
            np.zeros((n, DIGEST_BYTES * digest), np.uint8),
            Spent(),
        )

    @classmethod
    def joined(cls, several: Sequence["Answers"]) -> "Answers":
        """Return one of all; there has to be one."""
        starts = itertools.accumulate(map(len, several), initial=0)

        def column(name: str) -> Array:
            return np.concatenate([getattr(one, name) for one in several])

        return cls(
            [path for one in several for path in one.paths],
            {
                start + place: why
                for start, one in zip(starts, several, strict=False)
                for place, why in one.errors.items()
            },
            column("top"),
            column("scores"),
            column("unsure"),
            column("digests"),
            Spent(*map(math.fsum, zip(*(one.spent for one in several), strict=True))),
        )

    def to_bytes(self) -> bytes:
        """Return all but the paths: a line of JSON, and the columns."""
        shape = (*self.top.shape, self.digests.shape[1])
        head = {"shape": shape, "errors": [*self.errors.items()], "spent": self.spent}
        columns = (self.top, self.scores, self.unsure, self.digests)
        return b"\n".join([json.dumps(head).encode(), b"".join(one.tobytes() for one in columns)])

    @classmethod
    def read(cls, stream: IO[bytes], paths: list[str]) -> "Answers":
        """Return the next of a stream, of these pictures.

        Raises:
            EOFError: it ends before that.
        """
        line = stream.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        head = json.loads(line)
        n, k, width = head["shape"]

        def column(kind: type[np.generic], n_columns: int) -> Array:
            size = n * n_columns * np.dtype(kind).itemsize
            data = stream.read(size)
            if len(data) < size:
                raise EOFError
            return np.frombuffer(data, kind).reshape(n, n_columns)

        top, scores = column(np.int32, k), column(np.float32, k)
        unsure, digests = column(np.bool_, 1)[:, 0], column(np.uint8, width)
        errors, spent = dict(head["errors"]), Spent(*head["spent"])
        return cls(paths, errors, top, scores, unsure, digests, spent)
