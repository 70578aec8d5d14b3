"""Train a library's network on photographs, as people write it and by convnet-edge.

`python benchmarks/own_networks.py` draws JPEGs of about 17 kB, then runs, round by round and one
after the other, a plain loop (ImageFolder with PIL, two workers, RandomCrop, ToTensor, Adam,
contiguous float32) and `train` with the same network, size, batches and number of epochs. Both
decode in their first epoch; the plain loop in each. Images a second are of whole epochs, those of
`train` with all that it does before the first one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine
from convnet_edge.training import loop
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.run import EpochMetrics

RESULTS = Path(__file__).resolve().parent / "results" / "reference"
SIZE, BATCH_SIZE, N_CLASSES = 96, 64, 4
PICTURE = (160, 200)  # (H, W) of the JPEGs
N_WORKERS = 2


def draw_pictures(folder: Path, n: int) -> int:
    """Write `n` JPEGs, noise over colours of their class; return their mean bytes."""
    rng, total = np.random.default_rng(0), 0
    for i in range(n):
        label = i % N_CLASSES
        path = folder / f"class-{label}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = (
            rng.integers(0, 256, (PICTURE[0] // 4, PICTURE[1] // 4, 3)).repeat(4, 0).repeat(4, 1)
        )
        pixels = (coarse * 0.6 + 25 * label).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
        total += path.stat().st_size
    return total // n


def plain(folder: Path, arch: str, n_epochs: int, device: str) -> Iterator[float]:
    """Give the seconds of each epoch of a loop as people write it, from its first line on."""
    started = time.perf_counter()
    steps = [transforms.Resize(SIZE + 12), transforms.RandomCrop(SIZE), transforms.ToTensor()]
    pictures = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    loader = DataLoader(
        pictures, BATCH_SIZE, shuffle=True, num_workers=N_WORKERS, pin_memory=device == "cuda"
    )
    model = models.get_model(arch, weights=None, num_classes=N_CLASSES).to(device)
    optimizer, loss_fn = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    for _ in range(n_epochs):
        model.train()
        n_correct = total = 0.0
        for x, y in ((x.to(device), y.to(device)) for x, y in loader):
            optimizer.zero_grad()
            logits = model(x)
            loss = loss_fn(logits, y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            n_correct += (logits.argmax(1) == y).sum().item()
        yield time.perf_counter() - started
        started = time.perf_counter()


def ours(folder: Path, arch: str, n_epochs: int, *, device: str, precision: str) -> Iterator[float]:
    """Give the seconds of each epoch of `train`, the first with all that comes before it."""
    started, times = time.perf_counter(), list[float]()
    with tempfile.TemporaryDirectory() as scratch:
        options = TrainOptions(
            data=str(folder),
            arch=f"torchvision:{arch}",
            image_size=(SIZE,),
            batch_size=BATCH_SIZE,
            epochs=n_epochs,
            device=device,
            precision=precision,
            cache=Path(scratch),
            out=Path(scratch) / "x.safetensors",
        )

        def hear(event: loop.Event) -> None:
            nonlocal started
            if isinstance(event, EpochMetrics):
                times.append(time.perf_counter() - started)
                started = time.perf_counter()

        loop.train(options, hear)
    yield from times


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="mobilenet_v3_small", help="a name of torchvision's")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, help="default: results/reference/own-networks-DEVICE.json"
    )
    options = parser.parse_args()
    how = (options.arch, options.epochs)
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        n_bytes = draw_pictures(Path(name), options.pictures)
        n_ours = round(0.8 * options.pictures)  # the rest is held out or tests
        for _ in range(options.rounds):
            theirs = list(plain(Path(name), *how, options.device))
            mine = list(ours(Path(name), *how, device=options.device, precision=options.precision))
            rates = {"plain": [options.pictures / t for t in theirs],
                     "convnet-edge": [n_ours / t for t in mine]}  # fmt: skip
            later = [statistics.median(r[1:]) for r in rates.values()]
            whole = (
                options.pictures * options.epochs / sum(theirs),
                n_ours * options.epochs / sum(mine),
            )
            ratios = {"whole": whole[1] / whole[0], "from the second epoch": later[1] / later[0]}
            rounds.append({"images_per_s": rates, "ratios": ratios})
            print(
                options.arch, {name: round(ratio, 2) for name, ratio in ratios.items()}, flush=True
            )
    write_json(
        options.out or RESULTS / f"own-networks-{options.device}.json",
        {
            "schema": "convnet-edge/own-networks-benchmark/1",
            "command": " ".join(["python", *sys.argv]),
            "arch": options.arch,
            "device": options.device,
            "precision": options.precision,
            "image_size": SIZE,
            "batch_size": BATCH_SIZE,
            "mean_picture_bytes": n_bytes,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "rounds": rounds,
            "machine": machine.passport(),
            "versions": {"torch": torch.__version__},
        },
    )


if __name__ == "__main__":
    main()
