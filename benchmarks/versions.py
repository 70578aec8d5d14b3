"""Time an older version of this program against this one, in turn, as ratios.

One command: `python benchmarks/versions.py OLD`, where OLD is a folder that holds the older
`convnet_edge`, as `git worktree add OLD v0.1.0` makes it. Fresh processes of both take turns, A B B
A: the runtime on the three shipped files, the checks before a session is made, `--help`, and the
seconds of a training epoch. The last line is one JSON document. A ratio above 1: this version is
faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from convnet_edge.runtime.measure import machine

HERE = Path(__file__).resolve().parents[1]
FILES = tuple(f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort"))
SMALLEST_TYPER = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
WORKER = """
import json, sys, threading, time
from pathlib import Path
from convnet_edge.runtime import Classifier
data, seconds = Path(sys.argv[1]).read_bytes(), float(sys.argv[2])
clock, checks = time.perf_counter, []
for _ in range(15):
    began = clock()
    classifier = Classifier(data, threads=1)
    checks.append(1e3 * (clock() - began) - classifier.session.create_ms)
images = classifier.contract.goldens.images
one = classifier.to_input(images[:1])
many = classifier.to_input(images[[i % len(images) for i in range(64)]])
run, samples, until = classifier.session.run, [], clock() + seconds
while clock() < until:
    began = clock()
    run(one)
    samples.append(clock() - began)
counts = [0, 0]
def call(place):
    until = clock() + seconds
    while clock() < until:
        run(many)
        counts[place] += 64
callers = [threading.Thread(target=call, args=(place,)) for place in (0, 1)]
[c.start() for c in callers], [c.join() for c in callers]
print(json.dumps({"p50_ms": 1e3 * sorted(samples)[len(samples) // 2],
                  "ms_per_1000_images": 1e6 * seconds / sum(counts),
                  "check_ms": sorted(checks)[len(checks) // 2]}))
"""


def main() -> None:
    """Measure each subject in turn on both versions, and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each timing")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of training timed, 0: none")
    given = parser.parse_args()
    if not (given.old / "convnet_edge").is_dir():
        parser.error(f"{given.old} holds no convnet_edge")
    rows: dict[str, tuple[list[float], list[float]]] = {}
    versions = (given.old.resolve(), HERE)
    for number in range(given.rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            for name, value in measure(versions[side], given):
                rows.setdefault(name, ([], []))[side].append(value)
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    found = {name: ratios(*pair) for name, pair in rows.items()}
    for name, row in found.items():
        low, high = row["ratio_range"]
        print(f"{name}: {row['old']:.4g} → {row['new']:.4g}, ratio {row['ratio']:.3f} "
              f"({low:.3f}–{high:.3f})")  # fmt: skip
    print(json.dumps({"schema": "convnet-edge/versions/1", "rounds": given.rounds, "rows": found,
                      "machine": machine.passport()}))  # fmt: skip


def measure(version: Path, given: argparse.Namespace) -> list[tuple[str, float]]:
    """Return (what, cost) of each subject on the package in `version`; less is better."""
    found = []
    for file in FILES:
        model = str(HERE / "exported" / file)
        out = start(version, "-c", WORKER, model, str(given.seconds))
        found += [(f"{file} {key}", value) for key, value in json.loads(out).items()]
    found.append(("--help ms", timed(lambda: start(version, "-m", "convnet_edge", "--help"))))
    found.append(("smallest Typer program ms", timed(lambda: start(version, "-c", SMALLEST_TYPER))))
    if given.epochs:
        with tempfile.TemporaryDirectory() as folder:
            out_path = Path(folder) / "x.safetensors"
            start(version, "-m", "convnet_edge", "train", "--data", "sample", "--epochs",
                  str(given.epochs), "--out", str(out_path))  # fmt: skip
            record = json.loads(out_path.with_suffix(".train.json").read_text())
            seconds = min(epoch["duration_s"] for epoch in record["epochs"])
            found.append(("training epoch s", seconds))
    return found


def ratios(old: list[float], new: list[float]) -> dict[str, object]:
    """Return both medians, and the median and range of the rounds' ratios old / new."""
    each = sorted(a / b for a, b in zip(old, new, strict=True))
    return {
        "old": statistics.median(old),
        "new": statistics.median(new),
        "ratio": statistics.median(each),
        "ratio_range": [each[0], each[-1]],
    }


def timed(run: Callable[[], object]) -> float:
    """Return the milliseconds that `run` takes."""
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


def start(version: Path, *arguments: str) -> str:
    """Run Python with the package of `version`; return what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(version)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"{version}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
