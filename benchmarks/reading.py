"""Time how fast folders of pictures are read, into the cache and from it, on all usable cores.

One command: `python benchmarks/reading.py` (`--quick`: a tenth of the pictures). It makes PNG files
of 28 x 28 and JPEGs of 2 megapixels in a temporary folder. Pillow's own decoding and resizing in as
many processes runs in turn with ours, all in fresh processes. The last line is one JSON document.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from convnet_edge.data import cache
from convnet_edge.data.fashion_mnist import load_test_set
from convnet_edge.data.options import PreparationOptions
from convnet_edge.data.scan import Entry, scan_of
from convnet_edge.runtime.contract import Array
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.pictures.preprocess import Preprocessing

N_ROUNDS, SIDE = 3, 224


def main() -> None:
    """Make the pictures, then time all; or do in a fresh process what is timed there."""
    if len(sys.argv) > 2:
        print(json.dumps(ours(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
        return
    n_pngs, n_jpegs = (7_000, 100) if "--quick" in sys.argv else (70_000, 1_000)
    with tempfile.TemporaryDirectory() as name:
        folder, jpegs = Path(name), Path(name, "jpeg")
        make_pictures(folder, n_pngs, n_jpegs)
        first, second = (fresh(folder / "png", 28, folder / "cache") for _ in range(2))
        rounds = [(fresh(jpegs, SIDE, folder / str(n)), pillows(jpegs)) for n in range(N_ROUNDS)]
    ratios = [theirs_s / mine["s"] for mine, theirs_s in rounds]
    per_s = n_pngs / first["s"]
    print(f"PNG: {per_s:,.0f}/s; all {n_pngs:,} from the cache in {second['s']:.2f} s")
    print(f"JPEG: {statistics.median(ratios):.2f} × Pillow's speed (n = {N_ROUNDS} × {n_jpegs:,})")
    print(f"peak memory: {first['peak_mb']:.0f} MB, of a worker {first['worker_peak_mb']:.0f} MB")
    print(json.dumps({"png": [first, second], "jpeg": rounds, "machine": machine.passport()}))


def make_pictures(folder: Path, n_pngs: int, n_jpegs: int) -> None:
    """Write test images of Fashion-MNIST, again and again one level brighter, and grainy clouds."""
    images, rng = load_test_set().images, np.random.default_rng(0)
    for index in range(n_pngs):
        path = folder / "png" / str(index % 10) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index % 10_000] + np.uint8(index // 10_000)).save(path)
    (folder / "jpeg").mkdir()
    for index in range(20):
        clouds = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((1632, 1224))
        grain = rng.integers(0, 24, (1224, 1632, 1), np.uint8)
        Image.fromarray(np.asarray(clouds) // 2 + grain).save(folder / "jpeg" / f"{index}.jpg")
    for index in range(20, n_jpegs):  # other names of the same files
        (folder / "jpeg" / f"{index}.jpg").hardlink_to(folder / "jpeg" / f"{index % 20}.jpg")


def ours(source: Path, side: int, cache_dir: Path) -> dict[str, float]:
    """Read all of `source`; return how long it took, and in how much memory."""
    how = Preprocessing((side, side), 1 if side == 28 else 3)
    paths = sorted(f"{folder}/{name}" for folder, _, names in os.walk(source) for name in names)
    scan = scan_of([Entry(path, "", None) for path in paths])
    started = time.perf_counter()
    found = cache.read(scan, how, PreparationOptions(data=str(source), cache=cache_dir))
    assert not found.rows["error"].any()
    assert "torch" not in sys.modules
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peaks = [resource.getrusage(kind).ru_maxrss / 1024 for kind in kinds]
    return {"s": time.perf_counter() - started, "peak_mb": peaks[0], "worker_peak_mb": peaks[1]}


def fresh(*arguments: object) -> dict[str, float]:
    """Return what `ours` returns in a fresh process."""
    command = [sys.executable, __file__, *map(str, arguments)]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def pillows(source: Path) -> float:
    """Return the seconds that Pillow alone takes in as many processes, their start included."""
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(machine.usable_cores()) as pool:
        pool.map(shrink, sorted(source.iterdir()), chunksize=8)
    return time.perf_counter() - started


def shrink(path: Path) -> Array:
    """Decode a picture and resize its middle."""
    with Image.open(path) as picture:
        left = (picture.width - picture.height) // 2
        box = (left, 0, left + picture.height, picture.height)
        return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), 2, box=box))


if __name__ == "__main__":
    main()
