"""Read whole files within a limit, write them so that no reader ever sees half of one, and print.

Knows nothing of formats: IDX, ONNX and pictures are parsed elsewhere, always from bytes.
"""

import contextlib
import errno
import glob
import io
import json
import math
import os
import re
import stat
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

from .errors import InputError, some

MIB = 1 << 20
MOST_BESIDE = 4  # files named in place of one
NAME_RESERVE = 40  # letters more than `path` has what is written beside it, or before it
TELLING = ("accuracy", "status", "path", "passed", "verdict")  # what says most of a part
MAX_BRIEF = 60  # characters
# what a terminal obeys or does not show: control characters but tab and newline, line separators,
# marks that turn the direction of writing, halves of letters
HIDDEN = re.compile(
    r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def as_path(value: object) -> Path | None:
    """Return the path that text or a PathLike names, None of anything else."""
    try:
        return Path(os.fsdecode(value)) if isinstance(value, str | os.PathLike) else None
    except TypeError:  # its __fspath__ gives none
        return None


def read_bytes(path: str | Path, *, limit: int, next_step: str) -> bytes:
    """Return the content of the regular file `path`, at most `limit` bytes of it.

    Raises:
        InputError: missing, a folder or device, unreadable, empty, or larger than `limit`.
    """
    found, expected = "does not exist", "the name of a file"
    try:
        about = os.stat(path)  # noqa: PTH116 - a path that is text stays text: a third of the time
        if stat.S_ISREG(about.st_mode):
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                # not limit + 1: so much memory would be asked for, however short the file
                n = min(limit, about.st_size) + 1
                data = file.read(n)
                while 0 < len(data) < n - 1 and (more := file.read(n - len(data))):
                    data += more
            if 0 < len(data) <= limit:
                return data
            found = "is larger than that" if data else "is empty (0 bytes)"
            expected = f"at most {limit / MIB:g} MiB" if data else "a whole file"
        else:
            found = "is not a regular file"
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: what can be no name
        pass
    except OSError as error:
        found, expected = f"cannot be read: {error.strerror}", "a file that this user may read"
    raise InputError(f"{path} {found}", expected=expected, next_step=next_step)


def others_beside(path: Path) -> str:
    """Return ` (there: a.onnx)`, what has the suffix of a `path` that is missing; else nothing."""
    names: list[str] = []
    with contextlib.suppress(OSError):  # of a name that is too long; `read_bytes` says so
        if path.exists():
            return ""
        names = sorted(other.name for other in path.parent.glob(f"*{glob.escape(path.suffix)}"))
    return f" (there: {some(names, MOST_BESIDE)})" if names else ""


def require_writable(path: Path, *, flag: str = "--out") -> Path:
    """Return the file that writing `path` makes or replaces: what it links to, if it is a link.

    Leaves nothing, so that it can be asked before long work. `flag` is how `path` was named.

    Raises:
        InputError: a folder, a device or a link to nothing is there; the name is too long; the
            folder cannot be made or written.
    """
    try:
        end = Path(os.path.realpath(path)) if path.is_symlink() else path
        if end.exists() and not end.is_file():
            raise ValueError(f"it is a {'folder' if end.is_dir() else 'device, pipe or socket'}")
        if end is not path and not end.exists():
            raise ValueError("it is a link to nothing")
        with contextlib.suppress(FileNotFoundError):
            os.lstat(end.with_name(end.name + "." * NAME_RESERVE))
        folder = next(one for one in end.parents if one.exists())
        trial = _temporary(folder / end.name)  # as the permission bits tell root nothing
        try:
            trial.touch(exist_ok=False)
            trial.unlink()
        except OSError as error:
            raise ValueError(f"nothing can be written in {folder} ({error.strerror})") from error
    except (OSError, ValueError) as error:  # also a ValueError: a NUL byte in it
        raise InputError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}",
            expected="a new name or that of a regular file, in a folder that can be written",
            next_step=f"choose another place with {flag}",
        ) from error
    return end


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under its final name only once all of it is on the disk.

    A temporary file beside `path`, fsync, rename, fsync of the folder: after a crash at any
    moment `path` holds the old content or the new, never a part. A link stays one: the file that it
    names is written. Of several that write one name at the same moment the last one wins: each has
    a temporary name of its own, which holds its process id, so that the next write removes what a
    killed process of this machine left.

    Raises:
        InputError: as `require_writable`, or the disk is full; nothing is left.
    """
    end = require_writable(path)
    temporary = _temporary(end)
    try:
        end.parent.mkdir(parents=True, exist_ok=True)
        for leftover in end.parent.glob(f".{glob.escape(end.name)}.*-{'?' * 16}.tmp"):
            if not _is_running(leftover.name.removeprefix(f".{end.name}.").split("-")[0]):
                with contextlib.suppress(OSError):  # another user's, or a folder
                    leftover.unlink()
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(end)
        if os.name == "posix":  # Windows cannot open a folder; its rename is durable enough
            descriptor = os.open(end.parent, os.O_RDONLY)
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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(8).hex()}.tmp")


def _is_running(process_id: str) -> bool:
    if os.name != "posix" or not process_id.isdecimal():  # Windows has no signal 0
        return True
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process id at all
        return True
    return True


def write_json(path: Path, document: Any) -> None:
    """Write `document` as JSON, atomically."""
    write_atomically(path, f"{json_text(document)}\n".encode())


def as_json(found: Any) -> Any:
    """Return a dataclass, or a sequence of them, as plain JSON values; no NaN, no infinity."""
    if is_dataclass(found):
        return {one.name: as_json(getattr(found, one.name)) for one in fields(found)}
    if isinstance(found, dict):
        return {key: as_json(inner) for key, inner in found.items()}
    if isinstance(found, (tuple, list)):
        return [as_json(inner) for inner in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def json_text(document: Any) -> str:
    """Return `document` as JSON (no NaN, two-space indent) that no terminal obeys."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    return "\n".join(map(visible, text.split("\n")))


def brief(found: Any) -> str:
    """Return a dataclass on one line, for its repr: of what is long, what it is and how many."""
    shown = ((one.name, getattr(found, one.name)) for one in fields(found))
    parts = ", ".join(f"{name}={_brief(value)}" for name, value in shown if value is not None)
    return f"{type(found).__name__}({parts})"


def _brief(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list, dict)) and value:
        return f"<{len(value):,}>"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    telling = next((name for name in TELLING if hasattr(value, name)), None)
    if telling is not None:
        return f"{type(value).__name__}({telling}={_brief(getattr(value, telling))}, …)"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = repr(value)
    if len(text) <= MAX_BRIEF:
        return text
    return f"{type(value).__name__}(…)" if is_dataclass(value) else f"{text[:MAX_BRIEF]}…"


def percent(share: float, n_places: int = 1) -> str:
    """Return a share as people read it: `14.0 %`."""
    return f"{100 * share:.{n_places}f} %"


def visible(text: str) -> str:
    r"""Return `text` as one line, with what would not be seen as JSON's escapes: \u001b for ESC.

    Tabs stay, and JSON keeps its meaning.
    """
    shown = HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return shown.replace("\n", "\\n")


def fold(line: str, width: int | None) -> list[str]:
    """Return a line of text as lines of at most `width`, the later ones indented by two more."""
    if width is None or len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def open_streams() -> None:
    """Let print replace what a character set lacks (✓, ≥), and drop what goes to no stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as we live
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Turn into InputError what the system refuses: memory, threads, a disk under stdout or files.

    Raises:
        InputError: with the system's words.
        BrokenPipeError: nobody reads any more.
    """
    try:
        try:
            yield
        finally:  # what could not be printed may still be there to be flushed
            flush(sys.stdout)
    except BrokenPipeError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "start new thread" not in str(error):
            raise
        raise InputError(
            "the system gives this process no more memory or threads",
            expected="room to work",
            next_step="raise its limits (ulimit -v, ulimit -u), or end other programs",
        ) from error
    except OSError as error:
        place = error.filename or "the output, or a temporary file"
        raise InputError(
            f"the system refuses {place}: {error.strerror or error}",
            expected="to be allowed to read and write there, and space left on the disk",
            next_step="free some space, or read and write elsewhere (TMPDIR for what is temporary)",
        ) from error


def flush(stream: TextIO) -> None:
    """Hand over what was printed; where that fails, drop it, or Python fails again as it ends."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise
