"""Time inference on varying real images, and keep what is needed to judge and check the runs.

Measures one run: from a batch in host memory to logits in host memory. Machine, placement and
verdict are told elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..binding import Bound
from ..classifier import Classifier
from . import machine
from .stats import Percentile, percentile
from .verdict import MIN_RUNS, Trace, Verdict, judge

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Array], Array]

PERCENTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
N_IMAGES = 2048
MIN_WARMUP_RUNS = 10
WARMUP_SHARE = 0.1
N_CHECKED_OUTPUTS = 64
TICK_EVERY_S = 0.1


@dataclass(frozen=True)
class Latency:
    """The timed runs at one batch size.

    elapsed_s: of the whole timed loop. cpu_s: that this process spent in it, over all threads.
    n_checked: outputs taken from the timed runs and compared; trace.error: the worst of them.
    """

    batch_size: int
    n_warmup: int
    trace: Trace
    elapsed_s: float
    cpu_s: float
    n_checked: int

    @property
    def samples_ns(self) -> Array:
        """(R,) int64, one wall time a run, in order."""
        return self.trace.samples_ns

    @property
    def images_per_s(self) -> float:
        """Images per second of run time, one caller, runs back to back."""
        return float(self.batch_size * len(self.samples_ns) / (self.samples_ns.sum() / 1e9))

    @property
    def verdict(self) -> Verdict:
        """Whether the numbers may be believed."""
        return judge(self.trace)

    def percentiles_ms(self) -> tuple[Percentile, ...]:
        """Return p50 to p99.9 in milliseconds, each None below its sample floor."""
        return percentiles_ms(self.samples_ns)


@dataclass(frozen=True)
class Feed:
    """What the timed runs are given, and what they must answer.

    batches: contiguous, of differing images, in the type that the model takes. reference: their
    logits, run at another batch size: an error that only this batch size has cannot hide in it.
    """

    batches: tuple[Array, ...]
    reference: tuple[Array, ...]

    def largest_error(self, kept: dict[int, Array]) -> float:
        """Return the worst difference of outputs kept by run number; infinite if any is NaN."""
        n = len(self.batches)
        errors = [np.abs(logits - self.reference[i % n]).max() for i, logits in kept.items()]
        worst = float(np.max(errors, initial=0.0))  # NaN if any is
        return worst if np.isfinite(worst) else float("inf")


class Keeper:
    """Keeps some of the timed outputs, evenly from the first run to the last."""

    def __init__(self) -> None:
        self.kept: dict[int, Array] = {}
        self._every = 1

    def offer(self, index: int, logits: Array) -> None:
        """Take the output of run `index`, or not."""
        if index % self._every == 0:
            self.kept[index] = logits
            if len(self.kept) == N_CHECKED_OUTPUTS:
                self._every *= 2
                self.kept = {i: self.kept[i] for i in self.kept if i % self._every == 0}


def percentiles_ms(samples_ns: Array) -> tuple[Percentile, ...]:
    """Return p50 to p99.9 of `samples_ns` in milliseconds, each None below its sample floor."""
    return tuple(percentile(samples_ns / 1e6, p) for p in PERCENTILES)


def prepare(classifier: Classifier, images: Array, batch_size: int) -> Feed:
    """Convert `images` (N, H, W) uint8 into batches to time, and run them once for reference."""
    n_batches = max(2, min(N_IMAGES, len(images)) // batch_size)
    chosen = np.arange(n_batches * batch_size) % len(images)
    other_size = 32 if batch_size != 32 else 16
    inputs = classifier.to_input(images[chosen])
    logits = classifier.logits(images[chosen], batch_size=other_size)
    cuts = [slice(i * batch_size, (i + 1) * batch_size) for i in range(n_batches)]
    batches = tuple(np.ascontiguousarray(inputs[cut]) for cut in cuts)
    return Feed(batches, tuple(logits[cut] for cut in cuts))


def measure_latency(
    classifier: Classifier,
    images: Array,
    *,
    batch_size: int,
    duration_s: float,
    min_runs: int = MIN_RUNS,
    bound: Bound | None = None,
    tick: Callable[[float], None] = lambda _share: None,
) -> Latency:
    """Time runs of `batch_size` images, drawn in turn from `images` (N, H, W) uint8.

    Warms up for a tenth of `duration_s` (at least 10 runs), then times for `duration_s` and at
    least `min_runs`. bound: what runs in place of the session, through buffers on the device.
    `tick` gets the share done, in [0, 1], between runs and outside the timing.
    """
    feed = prepare(classifier, images, batch_size)
    run: Run = classifier.session.run if bound is None else bound.run
    n_warmup = _warm_up(run, feed.batches, WARMUP_SHARE * duration_s)
    samples: list[int] = []
    starts: list[int] = []
    keeper, batches, n_switched = Keeper(), feed.batches, 0
    clock, switches = time.perf_counter_ns, machine.involuntary_switches
    cpu_started, waited_before, switched_before = (
        time.process_time_ns(), machine.waited_ns(), switches()
    )  # fmt: skip
    started = last_tick = clock()
    deadline = started + int(duration_s * 1e9)
    while clock() < deadline or len(samples) < min_runs:
        index = len(samples)
        batch = batches[index % len(batches)]
        before = clock()
        logits = run(batch)
        after = clock()
        samples.append(after - before)
        starts.append(before)
        switched = switches()
        n_switched += switched != switched_before
        switched_before = switched
        keeper.offer(index, logits)
        if after - last_tick > TICK_EVERY_S * 1e9:
            last_tick = after
            by_time = (after - started) / max(1, deadline - started)
            tick(min(1.0, by_time, (index + 1) / min_runs))
    elapsed_s, cpu_s = (clock() - started) / 1e9, (time.process_time_ns() - cpu_started) / 1e9
    trace = Trace(
        np.array(samples, np.int64),
        np.array(starts, np.int64),
        n_switched if switched_before is not None else None,
        timer_step_ns(),
        _share(waited_before, machine.waited_ns(), elapsed_s),
        feed.largest_error(keeper.kept),
        classifier.tolerance,
        classifier.session.provider_error(),
    )
    return Latency(batch_size, n_warmup, trace, elapsed_s, cpu_s, len(keeper.kept))


def timer_step_ns(n_looks: int = 2000) -> float:
    """Return the smallest step that the clock is seen to make, in nanoseconds."""
    looks = np.array([time.perf_counter_ns() for _ in range(n_looks)], np.int64)
    steps = np.diff(looks)
    return float(steps[steps > 0].min(initial=np.iinfo(np.int64).max))


def _share(before_ns: int | None, after_ns: int | None, elapsed_s: float) -> float | None:
    if before_ns is None or after_ns is None:
        return None
    return max(0, after_ns - before_ns) / 1e9 / elapsed_s  # threads that ended take theirs along


def _warm_up(run: Run, batches: tuple[Array, ...], duration_s: float) -> int:
    deadline = time.perf_counter_ns() + int(duration_s * 1e9)
    n_runs = 0
    while n_runs < MIN_WARMUP_RUNS or time.perf_counter_ns() < deadline:
        run(batches[n_runs % len(batches)])
        n_runs += 1
    return n_runs
