"""Time what happens before a picture is opened: 70,000 files listed, 1,000,000 digests split.

    python benchmarks/sources.py

Seconds are the least of five rounds, in which what is compared takes turns.
"""

import json
import os
import tempfile
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from convnet_edge.data.scan import scan
from convnet_edge.data.split import TRAIN, split

N_CLASSES, N_PER_CLASS, N_DIGESTS, N_ROUNDS = 10, 7_000, 1_000_000, 5


def main() -> None:
    """Print one JSON document."""
    random = np.random.default_rng(0)
    digests = random.integers(0, 256, (N_DIGESTS, 32), np.uint8)
    labels, groups = random.integers(0, 1_000, N_DIGESTS), random.integers(0, N_DIGESTS, N_DIGESTS)
    listed = {one.tobytes(): TRAIN for one in digests[::2]}
    with tempfile.TemporaryDirectory() as folder:
        for path in (Path(folder, f"class {at}") for at in range(N_CLASSES)):
            path.mkdir()
            for number in range(N_PER_CLASS):
                (path / f"{number:05}.png").touch()
        stages = {
            "scan_s": lambda: scan(folder, None),
            "os_walk_s": lambda: list(os.walk(folder)),
            "split_s": lambda: split(digests, labels, groups),
            "split_by_list_s": lambda: split(digests, labels, groups, listed=listed),
        }
        times_s: dict[str, list[float]] = {name: [] for name in stages}
        for _ in range(N_ROUNDS):
            for name, stage in stages.items():
                started = perf_counter_ns()
                stage()
                times_s[name].append((perf_counter_ns() - started) / 1e9)
    least_s = {name: round(min(times), 3) for name, times in times_s.items()}
    n_files = N_CLASSES * N_PER_CLASS
    print(
        json.dumps(
            {"n_files": n_files, "n_digests": N_DIGESTS, "usable_cores": os.cpu_count(), **least_s}
        )
    )


if __name__ == "__main__":
    main()
