"""Empty Python environments, and programs started without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command that has to succeed; return what it printed."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def empty_environment(folder: Path, *packages: object, python: object = sys.executable) -> Path:
    """Make a virtual environment with `packages` from the index; return its Python."""
    run(python, "-m", "venv", folder)
    made = folder / "bin" / "python"
    run(made, "-m", "pip", "install", "--quiet", *packages)
    return made


def offline(*command: str) -> list[str]:
    """Prefix a command so that it has no network, where this user may do so."""
    if shutil.which("unshare"):
        allowed = subprocess.run(["unshare", "-n", "true"], capture_output=True)
        if allowed.returncode == 0:
            return ["unshare", "-n", *command]
    return list(command)
