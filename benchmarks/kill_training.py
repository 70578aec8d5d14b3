"""Kill training runs at random moments and resume them: `python benchmarks/kill_training.py`.

Each run is `convnet-edge train --resume` on the embedded sample, killed by SIGKILL after a random
time, started again, killed again, until one attempt comes through; its weights must then equal
those of a run that nobody disturbed, byte for byte. Goes on until the wanted number of kills is
reached; fails at the first difference. Writes results/reference/training-kills.json.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine

REFERENCE_DIR = Path(__file__).resolve().parent / "results" / "reference"
TRAIN = [sys.executable, "-m", "convnet_edge", "train", "--data", "sample", "--recipe", "best",
         "--epochs", "4", "--arch-option", "width=0.25", "--device", "cpu"]  # fmt: skip


def attempt(out: Path, kill_after_s: float | None) -> bool:
    """Run or resume the training of `out`; return True if it came through."""
    with (out.parent / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            [*TRAIN, "--resume", "--out", str(out)], stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            status = process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    if status != 0:
        sys.exit(f"exit {status}: {(out.parent / 'errors.txt').read_text()}")
    return True


def main() -> None:
    """Kill, resume and compare until enough kills have been survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311 - no secret
    n_kills = n_runs = n_with_state = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole" / "x.safetensors"
        whole.parent.mkdir()
        started = time.perf_counter()
        attempt(whole, None)
        duration_s = time.perf_counter() - started
        while n_kills < options.kills:
            out = Path(folder) / f"run-{n_runs}" / "x.safetensors"
            out.parent.mkdir()
            while not attempt(out, moments.uniform(0, duration_s)):
                n_kills += 1
                n_with_state += out.with_name("x.resume.safetensors").exists()
            n_runs += 1
            if out.read_bytes() != whole.read_bytes():
                sys.exit(f"run {n_runs}, after {n_kills} kills: other weights than undisturbed")
            leftovers = sorted(p.name for p in out.parent.glob(".*"))
            if leftovers:
                sys.exit(f"run {n_runs} left {leftovers}")
            print(f"{n_kills} kills, {n_runs} runs, all equal to the undisturbed one", flush=True)
            write_json(
                REFERENCE_DIR / "training-kills.json",
                {
                    "schema": "convnet-edge/kill-benchmark/1",
                    "command": f"python benchmarks/kill_training.py --kills {options.kills}",
                    "n_kills": n_kills,
                    "n_kills_with_an_epoch_kept": n_with_state,
                    "n_runs": n_runs,
                    "n_different": 0,
                    "undisturbed_s": duration_s,
                    "machine": machine.passport(),
                },
            )


if __name__ == "__main__":
    main()
