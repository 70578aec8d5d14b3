"""Judge a timed run: may its numbers be believed, and if not, why and what helps.

Plain functions of a trace; taking it is timing's business. All thresholds stand here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .result import Latency, Reason, Status, Verdict
from .stats import percentile, percentile_floor

Array = np.ndarray[Any, np.dtype[Any]]

MIN_RUNS = percentile_floor(0.5)
MAX_TIMER_STEP_SHARE = 0.05  # of p50
MAX_HALF_WIDTH_SHARE = 0.05  # of p50: half of its 95 % interval
MAX_DRIFT_SHARE = 0.10  # median of the last third against the first
MAX_MODE_DISTANCE_SHARE = 0.15  # of p50, between two groups of block medians
MAX_SWITCHED_SHARE = 0.01  # of runs in which the kernel took a core away
# Housekeeping takes a core some 30 times a second, each time for microseconds: in 1 % of runs of
# 0.3 ms, in 30 % of runs of 10 ms, which it does not slow. So both shares must be exceeded.
MAX_WAITED_SHARE = 0.05  # of the time, that threads waited for a core
BLOCK_NS = 100_000_000
# two groups are modes if they lie further apart than the halves of one broad hump ever do: Ashman's
# D is 2.7 for a normal distribution cut in the middle, 3.5 for a uniform one
MIN_ASHMAN_D = 5.0
MIN_MODE_BLOCKS = 3
MIN_MODE_SHARE = 0.1

LONGER = "time for longer with --duration"
STEADY = "let the machine warm up or cool down, and fix its clock if you can"
SWITCHES = "look for what switches: clock, cores of two kinds, another program"
QUIET = "close other programs, or leave a core free with --threads"


@dataclass(frozen=True)
class Trace:
    """What was seen while timing.

    samples_ns: (R,) int64, one wall time a run, in order. starts_ns: (R,) int64, when each began.
    n_switched: runs in which the kernel took a core from one of our threads, None if it does not
    say. timer_step_ns: smallest step of the clock. waited_share: of the time, in which our threads
    waited for a core (above 1 if several did), None if unknown. error, tolerance: of the outputs
    checked. provider_error: what is wrong with the provider, None if it is the one asked for.
    """

    samples_ns: Array
    starts_ns: Array
    n_switched: int | None
    timer_step_ns: float
    waited_share: float | None = None
    error: float = 0.0
    tolerance: float = 0.0
    provider_error: str | None = None


def judge(trace: Trace) -> Verdict:
    """Return the verdict on one trace."""
    invalid = tuple(_forbidding(trace))
    if len(trace.samples_ns) < MIN_RUNS:
        return Verdict("INVALID", invalid)
    return _verdict((*invalid, *_doubts(trace)))


def combine(rows: Iterable[Latency], others: tuple[Reason, ...] = ()) -> Verdict:
    """Return the verdict on all batch sizes together, each reason with its own, and `others`."""
    found = [
        replace(reason, batch_size=row.batch_size)
        for row in rows
        for reason in (row.verdict.reasons if row.verdict else ())
    ]
    return _verdict((*others, *found))


def _verdict(reasons: tuple[Reason, ...]) -> Verdict:
    found = {reason.status for reason in reasons}
    status: Status = "INVALID" if "INVALID" in found else "NOISY" if found else "VALID"
    return Verdict(status, reasons)


def block_medians(samples_ns: Array, starts_ns: Array) -> Array:
    """Return the median of the runs that began in each 100 ms, (B,) float64, in order."""
    blocks = (starts_ns - starts_ns[0]) // BLOCK_NS
    edges = np.flatnonzero(np.diff(blocks)) + 1
    return np.array([np.median(part) for part in np.split(samples_ns, edges)])


def mode_distance(medians: Array) -> float | None:
    """Return how far two groups of block medians lie apart, None if they are one group.

    The cut that leaves the least spread within both groups; they count as modes if each holds a
    tenth of the blocks (3 at least) and Ashman's D exceeds 5. Source: K. M. Ashman, C. M. Bird and
    S. E. Zepf, "Detecting bimodality in astronomical datasets", AJ 108 (1994) 2348, equation 6.
    """
    ordered = np.sort(medians)
    n = len(ordered)
    smallest = max(MIN_MODE_BLOCKS, math.ceil(MIN_MODE_SHARE * n))
    if n < 2 * smallest:
        return None
    cuts = range(smallest, n - smallest + 1)
    spreads = [ordered[:cut].var() * cut + ordered[cut:].var() * (n - cut) for cut in cuts]
    cut = cuts[int(np.argmin(spreads))]
    low, high = ordered[:cut], ordered[cut:]
    distance = float(high.mean() - low.mean())
    spread = math.sqrt((low.var(ddof=1) + high.var(ddof=1)) / 2)
    return distance if distance > MIN_ASHMAN_D * spread else None


def _forbidding(trace: Trace) -> Iterator[Reason]:
    n = len(trace.samples_ns)
    if not trace.error <= trace.tolerance:  # NaN too
        error = trace.error if math.isfinite(trace.error) else None
        yield Reason(
            "wrong outputs", "INVALID", error, trace.tolerance,
            f"a timed run gave logits off by {trace.error:.2g}, at most {trace.tolerance:.2g} is "
            "allowed; check this machine with `convnet-edge verify`",
        )  # fmt: skip
    if trace.provider_error is not None:
        yield Reason("wrong provider", "INVALID", None, None, trace.provider_error)
    if n < MIN_RUNS:
        yield Reason(
            "too few runs", "INVALID", n, MIN_RUNS,
            f"{n} runs, p50 needs {MIN_RUNS}; time for longer with --duration",
        )  # fmt: skip
    elif trace.timer_step_ns > MAX_TIMER_STEP_SHARE * (
        middle := float(np.median(trace.samples_ns))
    ):
        share = trace.timer_step_ns / max(middle, 1e-9)
        yield Reason(
            "coarse timer", "INVALID", share, MAX_TIMER_STEP_SHARE,
            f"the clock steps by {trace.timer_step_ns / 1e3:.3g} µs, {share:.0%} of p50 (at most "
            f"{MAX_TIMER_STEP_SHARE:.0%}); measure larger batches",
        )  # fmt: skip


def _doubts(trace: Trace) -> Iterator[Reason]:
    for name, value, threshold, found, advice in _looks(trace):
        if value is not None and value > threshold:
            text = f"{found.format(value)} (at most {threshold:.0%}); {advice}"
            yield Reason(name, "NOISY", value, threshold, text)


def _looks(trace: Trace) -> Iterator[tuple[str, float | None, float, str, str]]:
    """Yield what may be doubted: name, value, threshold, what was found, what to do."""
    samples = trace.samples_ns
    p50 = percentile(samples, 0.5)
    if p50.value is None or p50.low is None or p50.high is None or p50.value <= 0:
        return
    half_width = (p50.high - p50.low) / 2 / p50.value
    found = "p50's 95 % interval is ±{:.1%} of it"
    yield "wide interval", half_width, MAX_HALF_WIDTH_SHARE, found, LONGER
    third = len(samples) // 3
    first, last = float(np.median(samples[:third])), float(np.median(samples[-third:]))
    word = "slower" if last > first else "faster"
    found = f"the last third of the runs is {{:.1%}} {word} than the first"
    yield "drift", abs(last / max(first, 1.0) - 1), MAX_DRIFT_SHARE, found, STEADY
    distance = mode_distance(block_medians(samples, trace.starts_ns))
    apart = None if distance is None else distance / p50.value
    found = "the medians of 100 ms blocks fall into two groups {:.1%} apart"
    yield "two modes", apart, MAX_MODE_DISTANCE_SHARE, found, SWITCHES
    switched = None if trace.n_switched is None else trace.n_switched / len(samples)
    found = "the kernel took a core away in {:.1%} of the runs"
    if trace.waited_share is not None:
        switched = switched if trace.waited_share > MAX_WAITED_SHARE else None
        found += f", and our threads waited for one {trace.waited_share:.1%} of the time"
    yield "interrupted runs", switched, MAX_SWITCHED_SHARE, found, QUIET
