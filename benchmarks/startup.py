"""Time how long the command line takes to answer `--help`, in fresh processes.

One command: `python benchmarks/startup.py`. The last line is one JSON document. The bare
interpreter is timed in turn with the commands, so that the machine's state is in both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from convnet_edge.runtime.measure import machine

N_ROUNDS = 20
COMMANDS = {
    "python": ["-c", "pass"],
    "convnet-edge --help": ["-m", "convnet_edge", "--help"],
    "convnet-edge bench --help": ["-m", "convnet_edge", "bench", "--help"],
}


def main() -> None:
    """Run every command in turn, N_ROUNDS times, and print the medians."""
    samples_ms: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(N_ROUNDS):
        for name, arguments in COMMANDS.items():
            started_ns = time.perf_counter_ns()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            samples_ms[name].append((time.perf_counter_ns() - started_ns) / 1e6)
    for name, samples in samples_ms.items():
        print(f"{name:30} median {statistics.median(samples):6.0f} ms, n = {len(samples)}")
    print(json.dumps({"samples_ms": samples_ms, "machine": machine.passport()}))


if __name__ == "__main__":
    main()
