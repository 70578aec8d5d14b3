"""Read whole files within a limit, and write them so that no reader ever sees half of one.

Knows nothing of formats: IDX, ONNX and pictures are parsed elsewhere, always from bytes.
"""

import contextlib
import errno
import glob
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
    try:
        if not path.is_file():
            raise ValueError("is not a regular file" if path.exists() else "does not exist")
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if not data or len(data) > limit:
            raise ValueError("is larger than that" if data else "is empty (0 bytes)")
    except (OSError, ValueError) as error:  # also a ValueError: a NUL byte in the name
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else error
        raise InputError(
            f"{path} {reason}",
            expected=f"a readable file of at most {limit / MIB:g} MiB",
            next_step=next_step,
        ) from error
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under its final name only once all of it is on the disk.

    A temporary file beside `path`, fsync, rename, fsync of the folder: after a crash at any
    moment `path` holds the old content or the new, never a part. Of several that write one name at
    the same moment the last one wins: each has a temporary name of its own, which holds its process
    id, so that the next write removes what a killed process of this machine left.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full; nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*-{'?' * 16}.tmp"):
            if not _is_running(leftover.name.removeprefix(f".{path.name}.").split("-")[0]):
                leftover.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":  # Windows cannot open a folder; its rename is durable enough
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InputError(
            f"{path} cannot be written: {error.strerror}",
            expected=f"a writable folder with {len(data) / MIB:.2g} MiB free",
            next_step="free some space" if full else "choose another place with --out",
        ) from error
    finally:  # it is there no more if all went well
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_running(process_id: str) -> bool:
    if os.name != "posix" or not process_id.isdigit():  # Windows has no signal 0
        return True
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process id at all
        return True
    return True


def print_any_letter() -> None:
    """Let print replace what the terminal's character set lacks (✓, ≥), rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def write_json(path: Path, document: Any) -> None:
    """Write `document` as JSON (no NaN, two-space indent), atomically."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())
