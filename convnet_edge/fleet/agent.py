"""What runs on another machine: sent to its Python with each question, kept nowhere.

Needs the standard library alone, of Python 3.8 or newer, so that an old one can be told so. Answers
with one line of JSON behind a mark: a login shell may have its own words on stdout.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

N_KEPT = 8  # bundles
MAX_WORDS = 4000


def main(do: str, mark: str, **how: Any) -> None:
    """Do one thing, and print what was found."""
    does: dict[str, Any] = {"probe": probe, "put": put, "run": run}
    try:
        found = does[do](**how)
    except OSError as error:
        found = {"error": f"{error.filename or 'the disk'}: {error.strerror or error}"}
    sys.stdout.write(f"\n{mark}{json.dumps(found)}\n")
    sys.stdout.flush()


def folder() -> Path:
    """Return where bundles are kept."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(cache or Path.home() / ".cache", "convnet-edge", "bundles")


def place(sha256: str) -> Path:
    """Return where a bundle is kept."""
    return folder() / f"{sha256}.pyz"


def probe(sha256: str, packages: list[str]) -> dict[str, Any]:
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


def put(sha256: str) -> dict[str, Any]:
    """Keep the bundle that comes on stdin, if it comes whole; forget the oldest ones."""
    data = sys.stdin.buffer.read()
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


def run(sha256: str, commands: list[list[str]]) -> dict[str, Any]:
    """Run the bundle's commands in turn, up to one that fails; nobody else's at the same time."""
    with (folder() / "lock").open("w") as lock:
        try:
            fcntl = importlib.import_module("fcntl")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows
        except BlockingIOError:
            return {"busy": True}
        found: list[dict[str, Any]] = []
        for arguments in commands:
            done = subprocess.run(  # noqa: S603 - what the host asks for
                [sys.executable, str(place(sha256)), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            said, aside = (one.decode("utf-8", "replace") for one in (done.stdout, done.stderr))
            found.append({"code": done.returncode, "said": said, "aside": aside[-MAX_WORDS:]})
            if done.returncode:
                break
        return {"ran": found}
