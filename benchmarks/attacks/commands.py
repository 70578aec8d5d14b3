"""Commands under pressure: stopped, killed, without space, given odd options and paths."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_type_hints

import numpy as np
import tiny
from PIL import Image

from convnet_edge.runtime.options import declared

from .cases import (
    CLI,
    CODES,
    END_S,
    Case,
    ImpossibleError,
    attack,
    end,
    judge,
    pick,
    require_whole,
    run,
    start,
)

N_PICTURES = 150


@attack("prepare", 0, 240.0)
def prepare(case: Case) -> None:
    """Make pictures, a checkpoint, a model, a result and a bundle."""
    made = case.base
    made.mkdir()
    draw = np.random.default_rng(0)
    for index in range(N_PICTURES):
        path = made / "pictures" / tiny.LABELS[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (16, 16), np.uint8)
        pixels[:, 4 * (index % 3) : 4 * (index % 3) + 4] = 255
        Image.fromarray(pixels).save(path)
    (made / "tiny.onnx").write_bytes(tiny.grey())
    for text in (
        "train --data pictures --epochs 2 --image-size 16 --out x.safetensors",
        "export x.safetensors --out x.onnx",
        "bench tiny.onnx --quick --out tiny.json",
        "bundle tiny.onnx --out tiny.pyz",
    ):
        code, words = run(text.split(), made)
        assert code == 0, words
    seconds = dict[str, float]()
    for name in LINES:
        began = time.perf_counter()
        own = case.folder / name
        own.mkdir()
        code, words = run(line(replace(case, folder=own), name), own)
        assert code == 0, words
        seconds[name] = time.perf_counter() - began
    (made / "seconds.json").write_text(json.dumps(seconds))


# --- files that were tampered with, given to commands ---


@attack("bundles", 5000)
def bundles(case: Case) -> None:
    """Flip a bit of a .pyz, of each of its first 4 kB before any other: never exit 0."""
    data = bytearray((case.base / "tiny.pyz").read_bytes())
    place = case.number if case.number < 4096 else case.rng.randrange(len(data))
    data[place] ^= 1 << case.rng.randrange(8)
    path = case.folder / "tiny.pyz"
    path.write_bytes(data)
    process = start(["info"], case.folder, program=[sys.executable, str(path)])
    try:
        _, words = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        end(process)
        raise
    assert process.returncode != 0, f"byte {place}: exit 0"
    assert words, f"byte {place}: not a word"


# --- commands under pressure ---

TRAIN = "train --data {base}/pictures --epochs 6 --image-size 16 --cache cache --out x.safetensors"
LINES = {
    "train": f"{TRAIN} --resume",
    "export": "export {base}/x.safetensors --out x.onnx",
    "quantize": "quantize {base}/x.onnx --data {base}/pictures --max-drop 20 --out x.int8.onnx",
    "bench": "bench {base}/tiny.onnx --quick --out x.json",
    "predict": "predict {base}/pictures --model {base}/tiny.onnx --out answers --format csv",
    "bundle": "bundle {base}/tiny.onnx --out x.pyz",
}


def line(case: Case, name: str) -> list[str]:
    """Return the arguments of a command that works."""
    return LINES[name].format(base=case.base).split()


def stop(case: Case, name: str, how: signal.Signals) -> int:
    """Stop a command at a random moment of its time; return its exit code."""
    longest_s = json.loads((case.base / "seconds.json").read_text())[name]
    process = start(line(case, name), case.folder)
    time.sleep(case.rng.uniform(0, longest_s))
    if process.poll() is None:
        process.send_signal(how)
    try:
        said, aside = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"{name} goes on {END_S:g} s after {how.name}") from None
    words = said + aside
    is_pythons = process.returncode == -how or "Fatal Python error: init_" in words
    if is_pythons and "convnet_edge" not in words:
        return -how  # Python itself was still on its way, and says so
    judge([name], process.returncode, words, {0, 130, 143, -signal.SIGTERM, -signal.SIGKILL})
    require_whole(case.folder)
    return process.returncode


@attack("stops", 1200, 60.0)
def stops(case: Case) -> None:
    """Send SIGINT or SIGTERM at a random moment: nothing half-written, and an end."""
    name, how = pick(case, [*LINES], (signal.SIGINT, signal.SIGTERM))
    stop(case, name, how)


@attack("kills", 200, 180.0)
def kills(case: Case) -> None:
    """Kill at a random moment; the same command then comes through."""
    (name,) = pick(case, ("train", "predict"))
    stop(case, name, signal.SIGKILL)
    code, words = run(line(case, name), case.folder)
    assert code == 0, words[-1500:]
    require_whole(case.folder)
    if name == "predict":
        parts = sorted((case.folder / "answers").glob("part-*.csv"))
        n = sum(len(path.read_text().splitlines()) - 1 for path in parts)
        assert n == N_PICTURES, f"{n} rows"


MOUNT = """mount -t tmpfs -o size=$0 tmpfs "$1" && cd "$1" || exit 99
"${@:3}"
code=$?
cp -r . "$2"
exit $code"""


@attack("full disk", 300, 120.0)
def full_disk(case: Case) -> None:
    """Let the disk be full after so many bytes: exit 0 or 2, and what is there is whole."""
    (name,) = pick(case, [*LINES])
    n_pages = int(2 ** case.rng.uniform(0, 9))
    small, kept = case.folder / "small", case.folder / "kept"
    small.mkdir()
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, *CLI[:1], "-c", ""], capture_output=True, check=False).returncode:
        raise ImpossibleError("no mounts of one's own, or this Python is out of reach there")
    program = [*own, "bash", "-c", MOUNT, f"{n_pages * 4}k", str(small), str(kept), *CLI]
    environment = os.environ | {"XDG_CACHE_HOME": str(small / "cache")}
    code, words = run(line(case, name), case.folder, program=program, env=environment)
    assert code in (0, 2), f"{code}: {words[-1500:]}"
    require_whole(kept)


CLOCK = """
import random, time
real, random_ = time.time, random.Random(0)
time.time = lambda: real() + random_.choice((-10**6, 0, 0, 10**6))
"""
GONE = "/nonexistent"
SURROUNDINGS: dict[str, dict[str, str | None]] = {
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "HOME that is not there": {"HOME": GONE, "XDG_CACHE_HOME": None},
    "cache that cannot be written": {"XDG_CACHE_HOME": "/proc"},
    "TMPDIR that is not there": {"TMPDIR": GONE},
    "no PATH": {"PATH": None},
    "ASCII": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "terminal of one column": {"COLUMNS": "1", "LINES": "1", "TERM": "dumb"},
    "clock that jumps": {},
}
LIMITS = ("-v 300000", "-v 800000", "-v 1500000", "-v 3000000", "-n 16", "-n 40", "-f 8", "-t 1")
STREAMS = ("<&-", ">&-", "2>&-", ">/dev/full", "2>/dev/full", "</dev/zero", ">&- 2>&-")


@attack("surroundings", 150, 180.0)
def surroundings(case: Case) -> None:
    """Run commands without a home, with odd streams, little memory, few files, a bad clock."""
    name, kind = pick(case, [*LINES], [*SURROUNDINGS, *LIMITS, *STREAMS, "read-only", "no space"])
    environment, program, codes = dict(os.environ), CLI, CODES
    if kind in SURROUNDINGS:
        (case.folder / "clock").mkdir()
        (case.folder / "clock" / "sitecustomize.py").write_text(CLOCK)
        for key, value in SURROUNDINGS[kind].items():
            environment.pop(key, None)
            if value is not None:
                environment[key] = value
        if kind == "clock that jumps":
            kept = environment.get("PYTHONPATH", "")
            environment["PYTHONPATH"] = f"{case.folder / 'clock'}{os.pathsep}{kept}"
    elif kind in LIMITS:
        program = ["bash", "-c", f'ulimit {kind} && exec "$@"', "bash", *CLI]
        codes = CODES | ({-signal.SIGXCPU, -signal.SIGKILL} if kind.startswith("-t") else set())
    elif kind in STREAMS:
        program = ["bash", "-c", f'exec "$@" {kind}', "bash", *CLI]
    elif kind == "read-only":
        case.folder.chmod(0o555)
    try:
        run(line(case, name), case.folder, program=program, env=environment, codes=codes)
    finally:
        case.folder.chmod(0o755)
    require_whole(case.folder)


@attack("at once", 60, 300.0)
def at_once(case: Case) -> None:
    """Run two or eight of the same command in one folder: each ends well or says why not."""
    name, n = pick(case, [*LINES], (2, 2, 2, 2, 8))
    processes = [start(line(case, name), case.folder) for _ in range(n)]
    for process in processes:
        said, aside = process.communicate(timeout=250)
        judge([name], process.returncode, said + aside, {0, 2})
    require_whole(case.folder)


@cache
def all_options() -> list[tuple[str, str]]:
    """Return each command with each of its options."""
    import inspect

    from convnet_edge.commands.app import COMMANDS

    found = []
    for name, command in COMMANDS.items():
        hints = get_type_hints(command, vars(inspect.getmodule(command)))
        kind = hints.get("options")
        found += [(name, one.flag) for one in declared(kind) if not one.positional] if kind else []
    return found


VALUES = ("", "-1", "0", "9" * 30, "nan", "x")
BASES = LINES | {
    "predict": "predict {base}/pictures/ring/2.png --model {base}/tiny.onnx",
    "verify": "verify {base}/tiny.onnx --out v.json",
    "inspect": "inspect {base}/tiny.onnx",
    "compare": "compare {base}/tiny.onnx {base}/tiny.onnx --pairs 6",
    "report": "report {base}/tiny.json --out r.html",
    "adopt": "adopt {base}/tiny.onnx --data {base}/pictures",
    "data": "data {base}/pictures --cache cache",
    "doctor": "doctor",
}


@attack("options", 1500, 60.0)
def options(case: Case) -> None:
    """Give an option an empty, negative, zero, huge, undefined or wrong value."""
    (name, flag), value = pick(case, all_options(), VALUES)
    arguments = BASES.get(name, name).format(base=case.base).split()
    process = start([*arguments, flag, value], case.folder)
    try:
        said, aside = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:  # the value is one to work with
        process.send_signal(signal.SIGINT)
        try:
            said, aside = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            end(process)
            raise AssertionError(f"{name} {flag} {value!r} goes on after SIGINT") from None
    judge([*arguments, flag, value], process.returncode, said + aside, CODES)
    require_whole(case.folder)


TAKERS = {
    "inspect {odd}", "verify {odd}", "bench {odd} --quick", "bench {model} --quick --out {odd}",
    "report {odd}", "report {result} --out {odd}", "predict {odd} --model {model}",
    "predict {picture} --model {odd}", "predict {pictures} --model {model} --out {odd}",
    "export {odd}", "export {checkpoint} --out {odd}", "quantize {odd} --data {pictures}",
    "train --data {odd} --epochs 1", "data {odd}", "data {pictures} --cache {odd}", "bundle {odd}",
    "bundle {model} --out {odd}", "compare {odd} {model} --pairs 6", "serve {odd}",
    "adopt {odd} --data {pictures}", "verify {model} --against {odd}", "bench --hosts {odd}",
}  # fmt: skip
PLACES = ("fifo", "socket", "/proc/self/mem", "/dev/zero", "/dev/full", "loop", "many",
          "\udcff.onnx", "a\nb.onnx", "-x.onnx", "folder", "shut", "/", "empty.onnx", "x" * 300,
          "\x1b[2J.json",
          "/proc", "~", "dangling", ".")  # fmt: skip


@attack("paths", 440, 60.0)
def paths(case: Case) -> None:
    """Name pipes, sockets, devices, loops, folders and odd names where a file is wanted."""
    taker, name = pick(case, sorted(TAKERS), PLACES)
    place = made_place(case.folder, name)
    named: dict[str, str | Path] = {
        "odd": place, "model": case.base / "tiny.onnx", "pictures": case.base / "pictures",
        "picture": case.base / "pictures/ring/2.png", "result": case.base / "tiny.json",
        "checkpoint": case.base / "x.safetensors",
    }  # fmt: skip
    arguments = [part.format(**{key: os.fspath(one) for key, one in named.items()})
                 for part in taker.split()]  # fmt: skip
    if place in ("/", "/proc") and arguments[0] in ("data", "train"):  # much to look through
        process = start(arguments, case.folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.send_signal(signal.SIGINT)
        try:
            said, aside = process.communicate(timeout=END_S)
        finally:
            end(process)
        judge(arguments, process.returncode, said + aside, CODES)
        return
    run(arguments, case.folder, limit_s=20.0)


def made_place(folder: Path, name: str) -> str:
    """Make what a name stands for, and return how it is named."""
    path = folder / name if len(name) < 256 else Path(name)
    match name:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(name)
        case "loop":
            path.symlink_to("loop")
        case "dangling":
            path.symlink_to("nowhere")
        case "many":
            path.mkdir()
            for index in range(5000):
                (path / f"{index}.png").touch()
        case "folder" | "shut":
            path.mkdir()
            path.chmod(0o755 if name == "folder" else 0)
        case "empty.onnx" | "-x.onnx" | "a\nb.onnx" | "\udcff.onnx":
            path.write_bytes(b"" if name == "empty.onnx" else tiny.grey())
    return name
