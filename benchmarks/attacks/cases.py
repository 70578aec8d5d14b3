"""A row of the campaign, a case of it, and what every case is judged by."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
from PIL import Image

from convnet_edge.runtime.archive import read_archive
from convnet_edge.runtime.errors import EdgeError
from convnet_edge.runtime.model_file import open_model

Random = random.Random
REPOSITORY = Path(__file__).resolve().parents[2]
CLI = [sys.executable, str(REPOSITORY / "cli.py")]
CODES = {0, 1, 2, 3, 130}  # those that the docs name
END_S, LONG_S = 10.0, 90.0  # for a command that was told to end, and for one that works


class ImpossibleError(Exception):
    """What is wanted cannot be tried here."""


@dataclass(frozen=True)
class Case:
    """One of a row's. folder: its own, empty. base: what `prepare` made, to be read alone."""

    number: int
    rng: Random
    folder: Path
    base: Path


@dataclass(frozen=True)
class Attack:
    """A row. n: cases. limit_s: of one, for all that it starts."""

    n: int
    limit_s: float
    run: Callable[[Case], None]


ATTACKS: dict[str, Attack] = {}


def attack(
    name: str, n: int, limit_s: float = 10.0
) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Add a function to the rows."""

    def add(run: Callable[[Case], None]) -> Callable[[Case], None]:
        ATTACKS[name] = Attack(n, limit_s, run)
        return run

    return add


@attack("planted", 0, 2.0)
def planted(case: Case) -> None:
    """Fail in every way that the campaign has to notice."""
    match case.number:
        case 1:
            raise ValueError("as planted")
        case 2:
            time.sleep(60)
        case 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 4:
            run(["train", "--epochs", "x"], case.folder, codes={0})
        case 5:
            (case.folder / "x.json").write_text('{"half":')
            require_whole(case.folder)
        case 6:
            sys.exit(0)


def pick(case: Case, *lists: Sequence[Any]) -> list[Any]:
    """Return one of each list, so that numbers in a row go through all combinations."""
    number, found = case.number, []
    for listed in lists:
        found.append(listed[number % len(listed)])
        number //= len(listed)
    return found


# --- what a command may do ---


def run(
    arguments: Sequence[str], folder: Path, *, program: Sequence[str] = CLI,
    limit_s: float = LONG_S, codes: set[int] = CODES, **how: Any,
) -> tuple[int, str]:  # fmt: skip
    """Run a command to its end; return its exit code and words. Raises where it did not hold."""
    process = start(arguments, folder, program=program, **how)
    try:
        said, aside = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"{arguments}: no end in {limit_s:g} s") from None
    return judge(arguments, process.returncode, said + aside, codes)


def start(
    arguments: Sequence[str], folder: Path, *, program: Sequence[str] = CLI, **how: Any
) -> subprocess.Popen[str]:
    """Start a command in a group of its own, with what it says in pipes."""
    given = {
        "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    } | how  # fmt: skip
    return subprocess.Popen(
        [*program, *arguments], cwd=folder, text=True, errors="replace", start_new_session=True,
        preexec_fn=listen, **given,
    )  # fmt: skip


def listen() -> None:
    """Let Ctrl-C reach a command that is started from the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def judge(arguments: Sequence[str], code: int, words: str, codes: set[int]) -> tuple[int, str]:
    """Return code and words, if the exit code is one of those, and the words are for people."""
    for unwanted in ("Traceback (", "leaked ", "Segmentation fault"):
        assert unwanted not in words, f"{arguments}: {words[-1500:]}"
    assert code in codes, f"{arguments}: exit {code}: {words[-1500:]}"
    if code == 2 and "Usage: " not in words:  # which Typer shows with what is wrong in it
        parts = "; expected " in words and "next: " in words
        assert parts or not words, f"{arguments}: {words[-1500:]}"
    return code, words


def require_whole(folder: Path) -> None:
    """Raise unless each file that has a name of its own can be read."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".onnx": open_model,
        ".pyz": read_archive,
        ".png": lambda path: Image.open(path).verify(),
        ".safetensors": lambda path: load_checkpoint(
            path, "resume" if path.stem.endswith(".resume") else "model"
        ),
        ".csv": lambda path: require_lines(path),
    }
    for path in folder.rglob("*"):
        if path.suffix in readers and path.is_file() and not path.name.startswith("."):
            try:
                readers[path.suffix](path)
            except (EdgeError, OSError, ValueError, SyntaxError, AssertionError) as error:
                raise AssertionError(f"{path.name} is not whole: {error}") from error


def require_lines(path: Path) -> None:
    """Raise unless a table's last line is a whole one."""
    assert path.read_bytes().endswith(b"\n"), "its last line has no end"


def load_checkpoint(path: Path, kind: str) -> Any:
    """Read a checkpoint."""
    from convnet_edge.networks import checkpoint

    return checkpoint.load(path, kind=kind)


def damaged(rng: Random, data: bytes) -> bytes:
    """Return data with some bytes changed, lost, doubled or put elsewhere."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place, size = rng.randrange(len(content) + 1), int(rng.expovariate(1 / 40)) + 1
        match rng.randrange(7):
            case 0:
                content[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del content[place : place + size]
            case 2:
                content[place:place] = rng.randbytes(size)
            case 3:
                content[place:place] = content[place : place + size]
            case 4:
                content[place : place + 4] = rng.choice(
                    (b"\xff" * 4, bytes(4), b"\x7f" + b"\xff" * 3)
                )
            case 5:
                del content[place:]
            case 6:
                if content:
                    content[place - 1] ^= 1 << rng.randrange(8)
        if not content:
            return b""
    return bytes(content)


HOSTILE: tuple[Any, ...] = (
    *faults.ODD, "x" * 10**6, "\x1b]0;owned\x07", "../../../etc/passwd", "\x00", "\ud800", 2**63,
    2**64, -(2**63), [[]] * 1000, json.loads("[" * 400 + "]" * 400), 1e308,
    {str(i): i for i in range(5000)},
)  # fmt: skip


def odd(rng: Random, value: Any) -> Any:
    """Return a JSON value with one part of it odd, hostile or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value])
        if rng.random() < 0.1:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: odd(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], odd(rng, value[place]), *value[place + 1 :]]
    return rng.choice(HOSTILE)


def refused_or_fine(action: Callable[[], Any]) -> None:
    """Do something whose only errors may be the program's own, of three parts each."""
    try:
        action()
    except EdgeError as error:
        require_three_parts(error)


def require_three_parts(error: EdgeError) -> None:
    """Raise unless an error says what was found, what was expected and what to do."""
    assert error.found, error
    assert error.expected, error
    assert error.next_step, error
