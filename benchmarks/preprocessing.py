"""Compare reading a 24-megapixel JPEG with Pillow's own decode and resize, filter by filter.

One command: `python benchmarks/preprocessing.py`. The last line is one JSON document. The two take
turns, so that the machine's state is in both; memory is the peak above that of a small picture.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.pictures.preprocess import FASHION_MNIST, Preprocessing, to_pixels

N_ROUNDS, SIZE = 11, (6000, 4000)
WAYS = {name: Preprocessing((224, 224), 3, filter=name) for name in ("area", "bilinear", "bicubic")}
WAYS["fashion-mnist"] = FASHION_MNIST


def peak_mib() -> float:
    """Return the most memory that this process has held."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, large: Path, small: Path) -> dict[str, float]:
    """Return how many times Pillow's time it takes, over the rounds, and its memory."""
    how, ratios, peaks_mib = WAYS[name], [], []
    resample = Image.Resampling["BICUBIC" if name == "bicubic" else "BILINEAR"]
    for path in (small, large):
        to_pixels(path, how)
        peaks_mib.append(peak_mib())
    for _ in range(N_ROUNDS):
        marks_ns = [time.perf_counter_ns()]
        to_pixels(large, how)
        marks_ns.append(time.perf_counter_ns())
        np.asarray(Image.open(large).resize(how.size[::-1], resample))
        ratios.append((marks_ns[1] - marks_ns[0]) / (time.perf_counter_ns() - marks_ns[1]))
    spread = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {**spread, "n": N_ROUNDS, "memory_mib": peaks_mib[1] - peaks_mib[0]}


if sys.argv[1:]:
    print(json.dumps(measure(sys.argv[1], *map(Path, sys.argv[2:]))))
else:
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{name}.jpg" for name in ("large", "small")]
        noise = [Image.effect_noise(SIZE, sigma) for sigma in (20, 40)]
        picture = Image.merge("RGB", (Image.linear_gradient("L").resize(SIZE), *noise))
        picture.save(paths[0], quality=85)
        picture.resize((60, 40)).save(paths[1])
        found = {}
        for way in WAYS:
            printed = subprocess.check_output([sys.executable, __file__, way, *paths])
            found[way] = json.loads(printed)
            print(f"{way:14} {found[way]['ratio']:.2f} x, {found[way]['memory_mib']:.0f} MiB")
    print(json.dumps({"times_of_pillow": found, "machine": machine.passport()}))
