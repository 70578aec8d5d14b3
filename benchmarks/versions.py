"""Time an older version of this program against this one, in turn, as ratios.

One command: `python benchmarks/versions.py OLD`, where OLD is a folder that holds the older
`convnet_edge`, as `git worktree add OLD v0.1.0` makes it. Both runtimes live in this one process
and take turns, each on the three files that it ships, A B B A, in bursts of milliseconds, so that
the machine is the same for both; `--help` and a training epoch take turns in fresh processes. The
last line is one JSON document. A ratio above 1: this version is faster.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnet_edge.runtime import classifier as this_version
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.measure.stats import median_interval

HERE = Path(__file__).resolve().parents[1]
FILES = tuple(f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort"))
BURSTS = {"p50_ms at batch 1": (1, 200), "ms a run at batch 64": (64, 8)}  # images a run, runs
SMALLEST_TYPER = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
Pairs = dict[str, list[tuple[float, float]]]


def main() -> None:
    """Measure each subject in turn on both versions, and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("--bursts", type=int, default=300, help="of each version, on each file")
    parser.add_argument("--rounds", type=int, default=9, help="of fresh processes")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of training timed, 0: none")
    given = parser.parse_args()
    if not (given.old / "convnet_edge").is_dir():
        parser.error(f"{given.old} holds no convnet_edge")
    pairs: Pairs = {}
    with tempfile.TemporaryDirectory() as folder:
        # imports inside of the runtime are relative: it runs under any name
        shutil.copytree(given.old / "convnet_edge" / "runtime", Path(folder) / "older_runtime")
        sys.path.insert(0, folder)
        versions = (importlib.import_module("older_runtime.classifier"), this_version)
        for file in FILES:
            data = [(version / "exported" / file).read_bytes() for version in (given.old, HERE)]
            for name, found in time_runtimes(versions, file, data, given.bursts):
                pairs.setdefault(name, []).append(found)
            print(f"{file} done", file=sys.stderr)
    for number in range(given.rounds):
        for name, found in time_processes(given.old.resolve(), number, given.epochs):
            pairs.setdefault(name, []).append(found)
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    rows = {name: compared(found) for name, found in pairs.items()}
    for name, row in rows.items():
        low, high = row["ratio_interval_95"]
        print(f"{name}: {row['old']:.4g} → {row['new']:.4g}, ratio {row['ratio']:.3f} "
              f"(95 % {low:.3f}–{high:.3f}, n = {row['n']})")  # fmt: skip
    print(json.dumps({"schema": "convnet-edge/versions/2", "rows": rows,
                      "machine": machine.passport()}))  # fmt: skip


def in_turn(number: int) -> tuple[int, int]:
    """Return which version is measured first, and which second: A B, then B A."""
    return (0, 1) if number % 2 == 0 else (1, 0)


def time_runtimes(
    versions: tuple[Any, Any], file: str, data: Sequence[bytes], n_bursts: int
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield (what, ms of both versions) for each burst of runs and each opening of `file`."""
    clock = time.perf_counter
    both = [versions[side].Classifier(data[side], threads=1) for side in (0, 1)]
    images = both[1].contract.goldens.images
    for what, (size, n_runs) in BURSTS.items():
        batches = [each.to_input(images[np.arange(size) % len(images)]) for each in both]
        for number in range(n_bursts):
            found = [0.0, 0.0]
            for side in in_turn(number):
                run, batch, times = both[side].session.run, batches[side], []
                for _ in range(n_runs):
                    began = clock()
                    run(batch)
                    times.append(1e3 * (clock() - began))
                found[side] = statistics.median(times)
            yield f"{file} {what}", (found[0], found[1])
    for number in range(n_bursts // 5):
        found = [0.0, 0.0]
        for side in in_turn(number):
            began = clock()
            opened = versions[side].Classifier(data[side], threads=1)
            found[side] = 1e3 * (clock() - began) - opened.session.create_ms
        yield f"{file} check_ms, before the session", (found[0], found[1])


def time_processes(
    old: Path, number: int, n_epochs: int
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield (what, cost of both versions) of fresh processes, and of the smallest Typer program."""
    subjects: dict[str, Callable[[Path], float]] = {"--help ms": time_help}
    if n_epochs:
        subjects["training epoch s"] = lambda version: time_epoch(version, n_epochs)
    for name, measure in subjects.items():
        found = [0.0, 0.0]
        for side in in_turn(number):
            found[side] = measure((old, HERE)[side])
        yield name, (found[0], found[1])
    smallest = time_process(HERE, "-c", SMALLEST_TYPER)
    yield "the smallest Typer program's --help ms, against this one's", (smallest, time_help(HERE))


def time_help(version: Path) -> float:
    """Return the milliseconds of `convnet-edge --help`."""
    return time_process(version, "-m", "convnet_edge", "--help")


def time_epoch(version: Path, n_epochs: int) -> float:
    """Return the seconds of the fastest of so many epochs on the embedded images."""
    with tempfile.TemporaryDirectory() as folder:
        out_path = Path(folder) / "x.safetensors"
        time_process(version, "-m", "convnet_edge", "train", "--data", "sample",
                     "--epochs", str(n_epochs), "--out", str(out_path))  # fmt: skip
        record = json.loads(out_path.with_suffix(".train.json").read_text())
    return float(min(epoch["duration_s"] for epoch in record["epochs"]))


def compared(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return both medians, and the median of the ratios old / new with its interval."""
    ratios = np.array([old / new for old, new in pairs])
    interval = median_interval(ratios)
    return {
        "n": len(pairs),
        "old": statistics.median(old for old, _ in pairs),
        "new": statistics.median(new for _, new in pairs),
        "ratio": float(np.median(ratios)),
        "ratio_interval_95": [interval.low, interval.high],
    }


def time_process(version: Path, *arguments: str) -> float:
    """Run Python with the package of `version`; return the milliseconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(version)},
            capture_output=True,
            text=True,
            check=False,
        )
        taken = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(f"{version}: {done.stderr[-2000:]}")
    return 1e3 * taken


if __name__ == "__main__":
    main()
