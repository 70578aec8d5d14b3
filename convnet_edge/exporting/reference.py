"""Compute what is right for the test images, in float64, on as many as there is time for."""

import time

import numpy as np
from torch import nn

from ..networks.convnet import reference_logits
from ..runtime.contract import Array
from ..sealing import parity

N_TIMED = 16  # images of the second of two short runs
N_LEAST = 64


def compute(model: nn.Module, images: Array, *, limit_s: float) -> parity.Reference:
    """Return the reference for uint8 `images`, or for a seeded sample that takes about `limit_s`.

    The sample is a power of two of them, 64 at least: machines of like speed then take the same.
    """
    n, n_all = _affordable(model, images, limit_s), len(images)
    n = max(N_LEAST, 1 << n.bit_length() >> 1) if n < n_all else n_all
    if n >= n_all:
        return parity.from_pytorch(images, reference_logits(model, images))
    chosen = np.sort(np.random.default_rng(0).choice(n_all, n, replace=False))
    sample = images[chosen]
    logits = reference_logits(model, sample)
    return parity.from_pytorch(sample, logits, indices=chosen, n_all=n_all)


def _affordable(model: nn.Module, images: Array, limit_s: float) -> int:
    """Return how many images both precisions do in `limit_s`."""
    for _ in range(2):  # the first run makes what the second finds there
        started = time.perf_counter()
        reference_logits(model, images[:N_TIMED])
    return int(limit_s * min(N_TIMED, len(images)) / (time.perf_counter() - started))
