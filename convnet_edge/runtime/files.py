"""Read whole files within a limit, and write them so that no reader ever sees half of one.

Knows nothing of formats: IDX, ONNX and pictures are parsed elsewhere, always from bytes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from .errors import InputError

MIB = 1 << 20


def read_bytes(path: Path, *, limit: int, next_step: str) -> bytes:
    """Return the content of the regular file `path`, at most `limit` bytes of it.

    Raises:
        InputError: missing, a folder or device, unreadable, empty, or larger than `limit`.
    """
    expected = f"a readable file of at most {limit / MIB:g} MiB"
    try:
        if not path.is_file():
            kind = "is not a regular file" if path.exists() else "does not exist"
            raise InputError(f"{path} {kind}", expected=expected, next_step=next_step)
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{path} cannot be read: {reason}", expected=expected, next_step=next_step
        ) from error
    if len(data) > limit:
        raise InputError(f"{path} is larger than that", expected=expected, next_step=next_step)
    if not data:
        raise InputError(f"{path} is empty (0 bytes)", expected=expected, next_step=next_step)
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under its final name only once all of it is on the disk.

    A temporary file beside `path`, fsync, rename, fsync of the folder: after a crash at any
    moment `path` holds the old content or the new, never a part.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full; nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InputError(
            f"{path} cannot be written: {error.strerror}",
            expected=f"a writable folder with {len(data) / MIB:.2g} MiB free",
            next_step="free some space" if full else "choose another place with --out",
        ) from error


def print_any_letter() -> None:
    """Let print replace what the terminal's character set lacks (✓, ≥), rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed processes of this machine left beside `path`."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        process_id = leftover.name.split(".")[-2]
        if process_id.isdigit() and not _is_running(int(process_id)):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    if os.name != "posix":  # Windows has no signal 0: there, leftovers stay
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_json(path: Path, document: Any) -> None:
    """Write `document` as JSON (no NaN, two-space indent), atomically."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is durable enough
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
