"""Open pictures in a process of its own, which a broken decoder may end without harm to another.

It imports numpy, Pillow and the preprocessing alone: it must start fast. When it is started, and
what it costs that a picture ends it, is the reader's business.
"""

import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.pictures.decode import (
    MAX_PICTURE_BYTES,
    MAX_PIXELS,
    count_frames,
    decoding,
    open_picture,
)
from ..runtime.pictures.preprocess import Array, Preprocessing, prepare

MAX_LINE_BYTES = MIB
MAX_MEMORY_BYTES = 3072 * MIB  # of addresses


@dataclass(frozen=True)
class Opened:
    """What was found of one file: its pixels, prepared, or an error.

    sha256: of the file's bytes, zeros if they could not be read. width, height, mode: as stored.
    """

    pixels: Array | None = None
    error: InputError | None = None
    sha256: bytes = bytes(32)
    width: int = 0
    height: int = 0
    mode: str = ""
    n_frames: int = 1

    def to_bytes(self) -> bytes:
        """Return it as a line of JSON, and the pixels behind that."""
        error = self.error and (self.error.found, self.error.expected, self.error.next_step)
        others = {name: getattr(self, name) for name in ("width", "height", "mode", "n_frames")}
        line = json.dumps({"error": error, "sha256": self.sha256.hex(), **others}).encode()
        return line + b"\n" + (b"" if self.pixels is None else self.pixels.tobytes())

    @classmethod
    def read(cls, stream: IO[bytes], shape: tuple[int, ...]) -> "Opened | None":
        """Return the next of a stream, with pixels of this shape; None if it ends before that."""
        line = stream.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            return None
        said = json.loads(line)
        error, sha256 = said.pop("error"), bytes.fromhex(said.pop("sha256"))
        if error:
            found, expected, next_step = error
            error = InputError(found, expected=expected, next_step=next_step)
            return cls(None, error, sha256, **said)
        pixels = stream.read(math.prod(shape))
        if len(pixels) < math.prod(shape):
            return None
        return cls(np.frombuffer(pixels, np.uint8).reshape(shape), None, sha256, **said)


def serve(task: dict[str, Any]) -> None:
    """Answer lines of files' names, until there are no more, with an `Opened` for each file."""
    how = Preprocessing.read(task["how"])
    replies = open_replies()
    for request in requests(replies):
        for name in request:
            replies.write(open_file(Path(name), how).to_bytes())
            replies.flush()


def open_replies() -> IO[bytes]:
    """Return where answers go: stdout, which from now on is no more that of anything else."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    if os.name == "posix":
        os.set_blocking(2, False)  # nobody reads it before this ends
    return replies


def requests(replies: IO[bytes], *, limited: bool = True) -> Iterator[Any]:
    """Say that this is ready, and yield each request.

    limited: in memory, so that a decoder that asks for too much meets an error.
    """
    if limited:
        _limit_memory()
    replies.write(b".")
    replies.flush()
    yield from map(json.loads, sys.stdin.buffer)


def open_file(path: Path, how: Preprocessing) -> Opened:
    """Return what a file holds, prepared."""
    found = Opened()
    try:
        data = read_bytes(path, limit=MAX_PICTURE_BYTES, next_step="name a picture file")
        found = Opened(sha256=hashlib.sha256(data).digest())
        with decoding(str(path)):
            picture = open_picture(data, str(path), MAX_PIXELS)
            found = replace(found, width=picture.width, height=picture.height, mode=picture.mode)
            n_frames = count_frames(picture, data)
            return replace(found, pixels=prepare(picture, how).pixels, n_frames=n_frames)
    except InputError as error:
        return replace(found, error=error)


def _limit_memory() -> None:
    """Let a decoder that asks for too much meet an error, not the system's out-of-memory killer."""
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        limit, highest = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY or limit > MAX_MEMORY_BYTES:
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, highest))
