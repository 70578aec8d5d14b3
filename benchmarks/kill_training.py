"""Kill training runs at random moments and resume them: `python benchmarks/kill_training.py`.

Each run is `convnet-edge train --resume` on some pictures of the embedded sample, of the convnet or
of a residual network with batch normalisation and dropout, in turn. It is killed by SIGKILL after a
random time, started again, killed again, until one attempt comes through; its weights must then
equal those of a run that nobody disturbed, byte for byte. Goes on until the wanted number of kills
is reached; fails at the first difference. Writes results/reference/training-kills.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from convnet_edge.__main__ import main
from convnet_edge.data import fashion_mnist
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine

PROCESSES = multiprocessing.get_context("forkserver")  # from one that has imported everything
PROCESSES.set_forkserver_preload(["convnet_edge.commands.train", "convnet_edge.training.loop"])
REFERENCE_DIR = Path(__file__).resolve().parent / "results" / "reference"
N_PICTURES = 1000
# precision: left to auto, a run killed before its first epoch ends is timed again
TRAIN = ["train", "--device", "cpu", "--precision", "float32", "--epochs", "30", "--resume",
         "--cache", "../cache", "--out", "x.safetensors"]  # fmt: skip
NETWORKS = {
    "convnet": ["--recipe", "best", "--arch-option", "width=0.25"],
    "net.py:Residual": ["--recipe", "scratch", "--augment", "shift,flip,erase"],
}
SOURCE = """
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.first = nn.Conv2d(in_channels, 8, 3, stride=2)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, num_classes)
        )

    def forward(self, x):
        x = self.first(x).relu()
        return self.head(x + self.block(x))
"""


def train(folder: Path, network: str) -> None:
    """Run or resume the training in `folder`, as the command line does, and leave the process."""
    os.chdir(folder)
    with Path("said.txt").open("w") as said:
        sys.stdout = sys.stderr = said
        pictures = str(folder.parent / "pictures")
        network_options = ["--arch", network, *NETWORKS[network]]
        sys.argv = ["convnet-edge", *TRAIN, "--data", pictures, *network_options]
        main()


def attempt(folder: Path, network: str, kill_after_s: float | None) -> bool:
    """Run or resume the training in a process of its own; return True if it came through."""
    process = PROCESSES.Process(target=train, args=(folder, network))
    process.start()
    process.join(kill_after_s)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    if process.exitcode != 0:
        sys.exit(f"exit {process.exitcode}: {(folder / 'said.txt').read_text()}")
    return True


def write_pictures(folder: Path) -> None:
    """Write pictures into a folder for each class."""
    found = fashion_mnist.load_training_set("sample", None)
    for i, (pixels, label) in enumerate(zip(found.images[:N_PICTURES], found.labels, strict=False)):
        path = folder / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def made(folder: Path) -> Path:
    """Return the new `folder` with the file of the second network in it."""
    folder.mkdir()
    (folder / "net.py").write_text(SOURCE)
    return folder


@dataclass
class Survived:
    """What one network has come through. undisturbed: its weights without a kill."""

    network: str
    undisturbed: bytes
    undisturbed_s: float
    n_kills: int = 0
    n_kills_with_an_epoch_kept: int = 0
    n_runs: int = 0

    def run(self, folder: Path, moments: random.Random) -> None:
        """Train once, killed on the way; exit unless the weights are the undisturbed ones."""
        while not attempt(folder, self.network, moments.uniform(0, self.undisturbed_s)):
            self.n_kills += 1
            self.n_kills_with_an_epoch_kept += (folder / "x.resume.safetensors").exists()
        self.n_runs += 1
        if (folder / "x.safetensors").read_bytes() != self.undisturbed:
            sys.exit(f"{self.network}, after {self.n_kills} kills: other weights than undisturbed")
        if leftovers := sorted(p.name for p in folder.glob(".*")):
            sys.exit(f"{self.network} left {leftovers}")


def undisturbed(folder: Path, network: str) -> Survived:
    """Train once without a kill."""
    started = time.perf_counter()
    attempt(folder, network, None)
    duration_s = time.perf_counter() - started
    return Survived(network, (folder / "x.safetensors").read_bytes(), duration_s)


def save(found: list[Survived], n_wanted: int) -> None:
    """Write the sums, and each network's own."""
    rows = [{k: v for k, v in asdict(one).items() if k != "undisturbed"} for one in found]
    sums = ("n_kills", "n_kills_with_an_epoch_kept", "n_runs")
    write_json(
        REFERENCE_DIR / "training-kills.json",
        {
            "schema": "convnet-edge/kill-benchmark/2",
            "command": f"python benchmarks/kill_training.py --kills {n_wanted}",
            **{name: sum(row[name] for row in rows) for name in sums},
            "n_different": 0,
            "networks": rows,
            "machine": machine.passport(),
        },
    )


def kill_and_compare() -> None:
    """Kill, resume and compare until enough kills have been survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as root:
        write_pictures(Path(root) / "pictures")
        undisturbed(made(Path(root) / "first"), "convnet")  # which decodes them
        found = [
            undisturbed(made(Path(root) / f"whole-{i}"), name) for i, name in enumerate(NETWORKS)
        ]
        while (n_kills := sum(one.n_kills for one in found)) < options.kills:
            least = min(found, key=lambda one: one.n_kills)
            folder = Path(root) / f"{found.index(least)}-{least.n_runs}"
            least.run(made(folder), moments)
            print(f"{n_kills} kills, all runs equal to the undisturbed ones", flush=True)
            save(found, options.kills)


if __name__ == "__main__":
    kill_and_compare()
