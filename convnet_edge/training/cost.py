"""Say what training costs before it starts: arithmetic, bytes, and this machine's bound."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from ..networks.convnet import Architecture
from ..runtime.measure.accuracy import ImageSet

PEAK_SIDE = 1024
PEAK_ROUNDS = 6


@dataclass(frozen=True)
class Cost:
    """What training takes, beside what the architecture says of itself.

    data_bytes: of the images and labels on the device. peak_flops: floating-point operations a
    second, measured here on a large matrix product. bound_s: seconds of one epoch if all its
    operations ran at that peak.
    """

    data_bytes: int
    peak_flops: float
    bound_s: float


def training_operations(n_multiplications: tuple[int, ...]) -> int:
    """Return the floating-point operations of one image's training step.

    Forward, gradient of the weights and gradient of the input cost a layer's multiplications each,
    an addition with every multiplication; the first layer's input needs no gradient.
    """
    return 2 * (3 * sum(n_multiplications) - n_multiplications[0])


def estimate(architecture: Architecture, images: ImageSet, device: torch.device) -> Cost:
    """Return the cost of training that network on `images`."""
    peak = measure_peak(device)
    operations = len(images) * training_operations(architecture.n_multiplications)
    return Cost(images.images.nbytes + 8 * len(images), peak, operations / peak)


def measure_peak(device: torch.device) -> float:
    """Return the operations a second of a float32 matrix product here, the best of a few rounds."""
    matrix = torch.rand(PEAK_SIDE, PEAK_SIDE, device=device)
    shortest = float("inf")
    for _ in range(PEAK_ROUNDS):
        started = time.perf_counter_ns()
        (matrix @ matrix)[0, 0].item()  # reading one element waits for the device
        shortest = min(shortest, (time.perf_counter_ns() - started) / 1e9)
    return 2 * PEAK_SIDE**3 / shortest
