"""Time inference on varying real images, and check that the timed runs computed the truth.

Measures the session's run alone: from a float32 batch in host memory to logits in host memory.
Machine and verdicts are told elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .classifier import Classifier
from .errors import CheckFailedError
from .stats import Percentile, percentile

Array = np.ndarray[Any, np.dtype[Any]]

PERCENTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
N_IMAGES = 2048
MIN_WARMUP_RUNS = 10
WARMUP_SHARE = 0.1
MIN_RUNS = 11
N_CHECKED_OUTPUTS = 64
TICK_EVERY_S = 0.1


@dataclass(frozen=True)
class Latency:
    """The timed runs at one batch size.

    samples_ns: (R,) int64, one wall time a run, in order. elapsed_s: of the whole timed loop.
    n_checked: outputs taken from the timed runs and compared; largest_error: the worst of them.
    """

    batch_size: int
    n_warmup: int
    samples_ns: Array
    elapsed_s: float
    n_checked: int
    largest_error: float

    @property
    def images_per_s(self) -> float:
        """Images per second of run time, one caller, runs back to back."""
        return float(self.batch_size * len(self.samples_ns) / (self.samples_ns.sum() / 1e9))

    def percentiles_ms(self) -> tuple[Percentile, ...]:
        """Return p50 to p99.9 in milliseconds, each None below its sample floor."""
        return tuple(percentile(self.samples_ns / 1e6, p) for p in PERCENTILES)


def measure_latency(
    classifier: Classifier,
    images: Array,
    *,
    batch_size: int,
    duration_s: float,
    tick: Callable[[float], None] = lambda _share: None,
) -> Latency:
    """Time runs of `batch_size` images, drawn in turn from `images` (N, H, W) uint8.

    Warms up for a tenth of `duration_s` (at least 10 runs), then times for `duration_s` and at
    least 11 runs. `tick` gets the share done, in [0, 1], between runs and outside the timing.

    Raises:
        CheckFailedError: an output of a timed run differs from the reference run.
    """
    batches, reference = _batches(classifier, images, batch_size)
    run = classifier.session.run
    n_warmup = _warm_up(run, batches, WARMUP_SHARE * duration_s)
    samples: list[int] = []
    kept: dict[int, Array] = {}
    keep_every = 1
    clock = time.perf_counter_ns
    started = last_tick = clock()
    deadline = started + int(duration_s * 1e9)
    while clock() < deadline or len(samples) < MIN_RUNS:
        index = len(samples)
        batch = batches[index % len(batches)]
        before = clock()
        logits = run(batch)
        after = clock()
        samples.append(after - before)
        if index % keep_every == 0:
            kept[index] = logits
            if len(kept) == N_CHECKED_OUTPUTS:  # thin out, so that all of the loop is covered
                keep_every *= 2
                kept = {i: kept[i] for i in kept if i % keep_every == 0}
        if after - last_tick > TICK_EVERY_S * 1e9:
            last_tick = after
            tick(min(1.0, (after - started) / max(1, deadline - started)))
    elapsed_s = (clock() - started) / 1e9
    error = _largest_error(kept, reference)
    if not error <= classifier.contract.goldens.tolerance:
        raise CheckFailedError(
            f"a timed run at batch size {batch_size} gave logits off by {error:.2g}",
            expected=f"at most {classifier.contract.goldens.tolerance:.2g}, as in the first run",
            next_step="check this machine with `convnet-edge verify`",
        )
    return Latency(batch_size, n_warmup, np.array(samples, np.int64), elapsed_s, len(kept), error)


def _batches(
    classifier: Classifier, images: Array, batch_size: int
) -> tuple[list[Array], list[Array]]:
    """Return contiguous float32 batches of differing images, and their logits run one by one.

    The reference runs the images at another batch size than the timed one, so an error that
    only this batch size has cannot hide in it.
    """
    n_batches = max(2, min(N_IMAGES, len(images)) // batch_size)
    chosen = np.arange(n_batches * batch_size) % len(images)
    other_size = 32 if batch_size != 32 else 16
    inputs = classifier.to_input(images[chosen])
    logits = classifier.logits(images[chosen], batch_size=other_size)
    cuts = [slice(i * batch_size, (i + 1) * batch_size) for i in range(n_batches)]
    return [np.ascontiguousarray(inputs[cut]) for cut in cuts], [logits[cut] for cut in cuts]


def _warm_up(run: Callable[[Array], Array], batches: list[Array], duration_s: float) -> int:
    deadline = time.perf_counter_ns() + int(duration_s * 1e9)
    n_runs = 0
    while n_runs < MIN_WARMUP_RUNS or time.perf_counter_ns() < deadline:
        run(batches[n_runs % len(batches)])
        n_runs += 1
    return n_runs


def _largest_error(kept: dict[int, Array], reference: list[Array]) -> float:
    errors = [np.abs(logits - reference[i % len(reference)]).max() for i, logits in kept.items()]
    worst = float(np.max(errors))  # NaN if any is
    return worst if np.isfinite(worst) else float("inf")
