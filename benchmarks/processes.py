"""Time a step in one process of two threads and in two of one: `python benchmarks/processes.py`.

From which network on several processes gain on the cores of one machine: in each round every
network takes its steps one way, then the other, each in processes of its own that torchrun starts.
On images of 28 x 28. Prints a table; a ratio above 1 is a gain of two processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch

from convnet_edge.training.distributed import joined
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.run import Run

NETWORKS = (  # and the images of a batch
    ("convnet", 64),
    ("convnet", 512),
    ("torchvision:mobilenet_v3_small", 64),
    ("torchvision:resnet18", 64),
)
N_STEPS = 5  # of which the first does not count
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def take_steps(arch: str, batch_size: int) -> None:
    """Take some steps as one process of the launch; the leading one prints their median in ms."""
    device = torch.device("cpu")
    with joined(device), tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(
            data="sample",
            arch=arch,
            recipe="scratch",
            batch_size=batch_size,
            device="cpu",
            out=f"{folder}/x.safetensors",
        )
        run, times = Run(options, device=device), []
        choices = run.draw(run.choices)
        for start, stop in run.split(len(choices["order"]))[:N_STEPS]:
            ours = slice(*run.launch.share(start, stop))
            started = time.perf_counter_ns()
            run.step({name: t[ours] for name, t in choices.items()}, stop - start)
            times.append((time.perf_counter_ns() - started) / 1e6)
        if run.launch.leads:
            print(statistics.median(times[1:]))


def step_ms(n_processes: int, *network: object) -> float:
    """Return what a step takes in so many processes, on two threads together."""
    command = [*TORCHRUN, str(n_processes), __file__, "--steps", *map(str, network)]
    threads = str(2 // n_processes)
    said = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": threads},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return float(said.split()[-1])


def main() -> None:
    """Measure round by round, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        arch, batch_size = options.steps
        take_steps(arch, int(batch_size))
        return
    print("| network | one process, ms | two, ms | ratio (range) |\n| --- | --- | --- | --- |")
    for network in NETWORKS:
        pairs = [(step_ms(1, *network), step_ms(2, *network)) for _ in range(options.rounds)]
        ratios = sorted(one / two for one, two in pairs)
        one, two = (statistics.median(times) for times in zip(*pairs, strict=True))
        arch, batch_size = network
        print(
            f"| {arch}, batch {batch_size} | {one:.1f} | {two:.1f} | "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
