"""Say what training costs before it starts: arithmetic, bytes, and this machine's bound."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

PEAK_SIDE = 1024
PEAK_ROUNDS = 6


@dataclass(frozen=True)
class Cost:
    """What the network and its training take.

    n_parameters: trainable ones; float32. n_multiplications: of one image's forward pass, by layer
    (see `needed_multiplications`). data_bytes: of the images and labels on the device.
    peak_flops: floating-point operations a second, measured here on a large matrix product.
    bound_s: seconds of one epoch if all its operations ran at that peak.
    """

    n_parameters: int
    n_multiplications: tuple[int, ...]
    parameter_bytes: int
    data_bytes: int
    peak_flops: float
    bound_s: float


def training_operations(n_multiplications: tuple[int, ...]) -> int:
    """Return the floating-point operations of one image's training step.

    Forward, gradient of the weights and gradient of the input cost a layer's multiplications each,
    an addition with every multiplication; the first layer's input needs no gradient.
    """
    return 2 * (3 * sum(n_multiplications) - n_multiplications[0])


def estimate(
    model: torch.nn.Module, layers: tuple[int, ...], *, n_images: int, data_bytes: int
) -> Cost:
    """Return the cost of training `model`, whose `layers` multiply so often, on `n_images`."""
    parameters = list(model.parameters())
    peak = measure_peak(parameters[0].device)
    return Cost(
        n_parameters=sum(p.numel() for p in parameters),
        n_multiplications=layers,
        parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
        data_bytes=data_bytes,
        peak_flops=peak,
        bound_s=n_images * training_operations(layers) / peak,
    )


def measure_peak(device: torch.device) -> float:
    """Return the operations a second of a float32 matrix product here, the best of a few rounds."""
    matrix = torch.rand(PEAK_SIDE, PEAK_SIDE, device=device)
    shortest = float("inf")
    for _ in range(PEAK_ROUNDS):
        started = time.perf_counter_ns()
        (matrix @ matrix)[0, 0].item()  # reading one element waits for the device
        shortest = min(shortest, (time.perf_counter_ns() - started) / 1e9)
    return 2 * PEAK_SIDE**3 / shortest
