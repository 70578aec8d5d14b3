"""Open pictures in a process of its own, which a broken decoder may end without harm to another.

It imports numpy, Pillow and the preprocessing alone: it must start fast. When it is started, and
what it costs that a picture ends it, is the reader's business.
"""

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.pictures.decode import (
    MAX_PICTURE_BYTES,
    MAX_PIXELS,
    count_frames,
    decoding,
    open_picture,
)
from ..runtime.pictures.preprocess import Preprocessing, prepare
from .duplicates import dhash

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 64 * MIB  # the pixels of the largest network are 48
MAX_MEMORY_BYTES = 3072 * MIB  # of addresses


def serve(task: dict[str, Any]) -> None:
    """Answer requests, names of files each, until there are no more: a frame for each file.

    A first, empty frame says that it is ready.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    if os.name == "posix":
        os.set_blocking(2, False)  # nobody reads it before this ends
    _limit_memory()
    how = Preprocessing.read(task["how"])
    send(replies, b"")
    while (request := receive(sys.stdin.buffer)) is not None:
        for name in json.loads(request):
            found, pixels = _open(Path(name), how, task["invert"])
            send(replies, json.dumps(found).encode() + b"\n" + pixels)


def send(stream: IO[bytes], content: bytes) -> None:
    """Write `content` as a frame: its length, then itself."""
    stream.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Return the content of the next frame; None if what sends them has ended, or is astray."""
    length = stream.read(LENGTH_BYTES)
    n_bytes = int.from_bytes(length, "little")
    if len(length) < LENGTH_BYTES or n_bytes > MAX_FRAME_BYTES:
        return None
    content = stream.read(n_bytes)
    return content if len(content) == n_bytes else None


def _open(path: Path, how: Preprocessing, invert: bool | None) -> tuple[dict[str, Any], bytes]:
    """Return what `reader.Opened` says of a file, and its pixels; the parts of an error instead."""
    found: dict[str, Any] = {}
    try:
        data = read_bytes(path, limit=MAX_PICTURE_BYTES, next_step="name a picture file")
        found["sha256"] = hashlib.sha256(data).hexdigest()
        with decoding(str(path)):
            picture = open_picture(data, str(path), MAX_PIXELS)
            found |= {"width": picture.width, "height": picture.height, "mode": picture.mode}
            n_frames = count_frames(picture, data)
            prepared = prepare(picture, how, invert=invert)
    except InputError as error:
        return found | {"error": (error.found, error.expected, error.next_step)}, b""
    found["dhash"] = dhash(prepared.pixels)
    found["prepared"] = prepared.is_inverted, prepared.unevenness, n_frames
    return found, prepared.pixels.tobytes()


def _limit_memory() -> None:
    """Let a decoder that asks for too much meet an error, not the system's out-of-memory killer."""
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        limit, highest = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY or limit > MAX_MEMORY_BYTES:
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, highest))
