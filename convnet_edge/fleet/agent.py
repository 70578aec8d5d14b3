"""What runs on another machine: sent to its Python with each question, kept nowhere.

Needs the standard library alone, of Python 3.8 or newer, so that an old one can be told so. Answers
with one line of JSON behind a mark: a login shell may have its own words on stdout. Its stdin stays
open behind the data: where that ends before the answer, nobody waits for it, and all stops.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

N_KEPT = 8  # bundles
MAX_WORDS = 4000
running: subprocess.Popen[bytes] | None = None


def main(do: str, mark: str, n_bytes: int, **how: Any) -> None:
    """Do one thing with the bytes that come on stdin, and print what was found."""
    does: dict[str, Any] = {"probe": probe, "put": put, "run": run}
    data = sys.stdin.buffer.read(n_bytes)
    threading.Thread(target=stop_when_left, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        found = does[do](data, **how)
    except OSError as error:
        found = {"error": f"{error.filename or 'the disk'}: {error.strerror or error}"}
    sys.stdout.write(f"\n{mark}{json.dumps(found)}\n")
    sys.stdout.flush()


def stop_when_left(stdin: int) -> None:
    """End this process and those it began when nobody is at the other end any more."""
    while os.read(stdin, 4096):
        pass
    if running is not None:
        running.kill()
    os._exit(1)


def folder() -> Path:
    """Return where bundles are kept."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(cache or Path.home() / ".cache", "convnet-edge", "bundles").absolute()


def place(sha256: str) -> Path:
    """Return where a bundle is kept."""
    return folder() / f"{sha256}.pyz"


def probe(_: bytes, sha256: str, packages: list[str]) -> dict[str, Any]:
    """Say what is here: Python, packages, room, and whether the bundle is."""
    there = next(one for one in (folder(), *folder().parents) if one.is_dir())
    path = place(sha256)
    return {
        "python": list(sys.version_info[:3]),
        "program": sys.executable,
        "machine": platform.machine(),
        "missing": [name for name in packages if importlib.util.find_spec(name) is None],
        "free_bytes": shutil.disk_usage(there).free,
        "has": path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256,
    }


def put(data: bytes, sha256: str) -> dict[str, Any]:
    """Keep the bundle that came, if it came whole; forget the oldest ones."""
    if hashlib.sha256(data).hexdigest() != sha256:
        return {"error": f"{len(data)} bytes arrived, which are not those that were sent"}
    folder().mkdir(parents=True, exist_ok=True)
    part = folder() / f"{sha256}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(place(sha256))
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    kept = sorted(folder().glob("*.pyz"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-N_KEPT]:
        path.unlink()
    return {"put": len(data)}


def run(data: bytes, sha256: str, commands: list[list[str]]) -> dict[str, Any]:
    """Run the bundle's commands in turn, up to one that fails; nobody else's at the same time.

    data: a tar of the files that they name, if there are any.
    """
    global running
    with (folder() / "lock").open("w") as lock, tempfile.TemporaryDirectory() as here:
        try:
            fcntl = importlib.import_module("fcntl")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows
        except BlockingIOError:
            return {"busy": True}
        if data:
            with tarfile.open(fileobj=io.BytesIO(data)) as files:
                files.extractall(here)  # noqa: S202 - the host made it
        found: list[dict[str, Any]] = []
        for arguments in commands:
            running = subprocess.Popen(  # noqa: S603 - what the host asks for
                [sys.executable, str(place(sha256)), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=here,
            )
            said, aside = (one.decode("utf-8", "replace") for one in running.communicate())
            found.append({"code": running.returncode, "said": said, "aside": aside[-MAX_WORDS:]})
            if running.returncode:
                break
        return {"ran": found}
