"""Time `predict --out` on many small pictures: `python benchmarks/predicting.py`.

Three ways in turn, `--rounds` times: `convnet-edge predict --out`; reading, decoding, preparing and
labelling alone, in batches of 64, in as many processes; and a plain loop `for file in files:
classifier(file)` over a tenth. Then what grows: JPEGs of 2 megapixels, the memory that a list of
ten million paths takes before its first part, and a second start where a million paths have their
rows. Writes results/reference/predicting.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reading import make_pictures

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.pictures.preprocess import to_pixels
from convnet_edge.runtime.session import Settings
from convnet_edge.sealing.default_model import shipped_model

REFERENCE_PATH = Path(__file__).resolve().parent / "results" / "reference" / "predicting.json"
CLI = Path(__file__).resolve().parent.parent / "cli.py"
BATCH_SIZE, LOOP_SHARE, WATCH_EVERY_S = 64, 10, 0.25


def list_pictures(folder: Path) -> list[str]:
    """Return all pictures, sorted."""
    return sorted(map(str, folder.rglob("*.png")))


def alone(paths: list[str]) -> None:
    """Read, decode, prepare and label pictures in batches, and keep nothing."""
    classifier = Classifier(shipped_model(), settings=Settings(threads=1))
    how = classifier.contract.preprocessing
    for start in range(0, len(paths), BATCH_SIZE):
        classifier.answer([to_pixels(path, how) for path in paths[start : start + BATCH_SIZE]])


def time_alone(folder: Path) -> float:
    """Return the seconds that `alone` takes in as many processes as there are cores."""
    paths, n = list_pictures(folder), machine.usable_cores()
    shares = [paths[index::n] for index in range(n)]
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(n) as pool:
        pool.map(alone, shares, chunksize=1)
    return time.perf_counter() - started


def time_loop(folder: Path) -> float:
    """Return the seconds that a plain loop would take for all, by a tenth of them."""
    paths = list_pictures(folder)[::LOOP_SHARE]
    started = time.perf_counter()
    classifier = Classifier(shipped_model())
    for path in paths:
        classifier(path)
    return (time.perf_counter() - started) * LOOP_SHARE


def memory_mb(process_id: int) -> float:
    """Return the resident memory of a process and those that it started."""
    pages, children = 0, [process_id]
    while children:
        one = children.pop()
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
            for task in Path(f"/proc/{one}/task").iterdir():
                children += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def time_ours(source: Path, out: Path, *, until_first: bool = False) -> dict[str, float]:
    """Run `predict --out`; return its seconds, those to its first part, and its peak memory.

    until_first: end it when the first picture is about to be labelled.
    """
    command = [sys.executable, str(CLI), "predict", str(source), "--out", str(out), "--json"]
    started, peak_mb, first_s = time.perf_counter(), 0.0, float("nan")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak_mb = max(peak_mb, memory_mb(process.pid))
            if first_s != first_s and any(out.glob("part-*")):  # NaN
                first_s = time.perf_counter() - started
                if until_first:
                    process.kill()
            time.sleep(WATCH_EVERY_S)
        whole_s = time.perf_counter() - started
        said = {} if until_first or not process.stdout else json.loads(process.stdout.read())
    return {"s": whole_s, "first_part_s": first_s, "peak_mb": peak_mb, "n": said.get("n", 0)}


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--paths", type=int, default=10_000_000, help="of the long list")
    parser.add_argument("--jpegs", type=int, default=1_000)
    parser.add_argument("--known", type=int, default=1_000_000, help="paths with rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=REFERENCE_PATH)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, asked.pictures, asked.jpegs)
        rounds = []
        for index in range(asked.rounds):
            ours = time_ours(folder / "png", folder / f"answers{index}")
            bare_s, loop_s = time_alone(folder / "png"), time_loop(folder / "png")
            rounds.append({"ours": ours, "alone_s": bare_s, "loop_s": loop_s})
            print(
                f"round {index + 1}: {ours['n'] / ours['s']:,.0f} pictures/s, "
                f"{bare_s / ours['s']:.2f} x alone, {loop_s / ours['s']:.2f} x a loop, first part "
                f"after {ours['first_part_s']:.1f} s, {ours['peak_mb']:.0f} MB"
            )
        grown = {
            "jpegs": time_ours(folder / "jpeg", folder / "jpegs"),
            "long_list": time_ours(
                list_of(asked.paths, folder / "long.txt"), folder / "long", until_first=True
            ),
            "rows": time_ours(list_of(asked.known, folder / "known.txt"), folder / "known"),
            "known": time_ours(folder / "known.txt", folder / "known"),
        }
        n_bytes = sum(path.stat().st_size for path in (folder / "answers0").glob("part-*"))
    for name, found in grown.items():
        print(f"{name}: {found}")
    write(asked, rounds, grown | {"bytes_a_row": n_bytes / asked.pictures})


def list_of(n: int, path: Path) -> Path:
    """Write a list of `n` pictures that are not there."""
    with path.open("w") as file:
        file.writelines(f"pictures/{index // 1000:06}/{index:09}.png\n" for index in range(n))
    return path


def write(asked: argparse.Namespace, rounds: list[dict[str, Any]], grown: dict[str, Any]) -> None:
    """Write the result."""
    ratios = {
        "alone": [one["alone_s"] / one["ours"]["s"] for one in rounds],
        "loop": [one["loop_s"] / one["ours"]["s"] for one in rounds],
    }
    write_json(asked.out, {
        "schema": "convnet-edge/predicting-benchmark/1",
        "command": " ".join(["python", *sys.argv]),
        "n_pictures": asked.pictures,
        "n_paths": asked.paths,
        "rounds": rounds,
        "times_as_fast": {key: statistics.median(values) for key, values in ratios.items()},
        **grown,
        "machine": machine.passport(),
        "versions": machine.versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
