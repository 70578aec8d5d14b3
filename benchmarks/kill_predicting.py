"""Kill `predict --out` at random moments and go on: `python benchmarks/kill_predicting.py`.

The program or one of its processes, drawn by chance, is killed by SIGKILL after a random time; what
is left of it goes on, or it is started again until it comes through. Its rows must then equal those
of a run that nobody disturbed, error rows of broken pictures included. Goes on until the wanted
number of kills is reached; fails at the first difference. Writes
results/reference/predicting-kills.json.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reading import make_pictures

from convnet_edge.predicting.parts import STATED
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine

HERE = Path(__file__).resolve().parent
REFERENCE_PATH = HERE / "results" / "reference" / "predicting-kills.json"
N_PICTURES, N_BROKEN = 6_000, 20
START = (  # parts that are small enough to lose many of them
    "from convnet_edge.predicting import parts; parts.FIRST_PART_S, parts.PART_ROWS = 0.2, 500\n"
    "from convnet_edge.__main__ import main; main()"
)


def start(pictures: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start or go on."""
    options = ["predict", str(pictures), "--out", str(out), "--format", "csv"]
    command = [sys.executable, "-c", START, *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(out: Path) -> list[list[str]]:
    """Return the rows of all parts, sorted; exit if anything else is there."""
    found = []
    for path in out.iterdir():
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                found += list(csv.reader(file))[1:]
        elif path.name not in (STATED, ".lock"):
            sys.exit(f"{path} was left")
    return sorted(found)


def children(process_id: int) -> list[int]:
    """Return the processes that one has started."""
    tasks = Path(f"/proc/{process_id}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def disturb(pictures: Path, out: Path, moments: random.Random, longest_s: float) -> dict[str, int]:
    """Run until it comes through, killed on the way; return how often, by what was killed."""
    n_kills = {"program": 0, "process": 0}
    while True:
        with start(pictures, out) as running:
            time.sleep(moments.uniform(0, longest_s))
            workers = children(running.pid) if running.poll() is None else []
            victim = moments.choice([running.pid, *workers])
            if running.poll() is None:
                os.kill(victim, signal.SIGKILL)
                n_kills["program" if victim == running.pid else "process"] += 1
            if running.wait() == 0:
                return n_kills


def main() -> None:
    """Kill, go on and compare until enough kills have been survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    asked = parser.parse_args()
    moments, kills, n_runs = random.Random(asked.seed), {"program": 0, "process": 0}, 0  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, N_PICTURES, 0)
        for index in range(N_BROKEN):
            (folder / "png" / f"{index:04}.png").write_bytes(b"no picture")
        started = time.perf_counter()
        start(folder / "png", folder / "whole").wait()
        longest_s, whole = time.perf_counter() - started, rows(folder / "whole")
        assert len(whole) == N_PICTURES + N_BROKEN
        while sum(kills.values()) < asked.kills:
            out = folder / str(n_runs)
            for victim, n in disturb(folder / "png", out, moments, longest_s).items():
                kills[victim] += n
            n_runs += 1
            if rows(out) != whole:
                sys.exit(f"other rows than undisturbed, after {kills} kills")
            print(f"{kills}: rows as undisturbed", flush=True)
    write_json(REFERENCE_PATH, {
        "schema": "convnet-edge/kill-predicting/1",
        "command": f"python benchmarks/kill_predicting.py --kills {asked.kills}",
        "n_kills": kills,
        "n_runs": n_runs,
        "n_rows": len(whole),
        "n_different": 0,
        "machine": machine.passport(),
        "versions": machine.versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
