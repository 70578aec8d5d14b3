"""Judge timed runs: may their numbers be believed, and if not, why and what helps.

Plain functions of what was seen; timing the runs is timing's business. All thresholds stand here.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..files import percent
from .result import Latency, Reason, Status, Verdict
from .stats import Array, median_interval, percentile_floor

MIN_RUNS = percentile_floor(0.5)
MAX_TIMER_STEP_SHARE = 0.05  # of p50
MAX_HALF_WIDTH_SHARE = 0.05  # of p50: half of its 95 % interval
MAX_DRIFT_SHARE = 0.10  # median of the last third against the first
MAX_MODE_DISTANCE_SHARE = 0.15  # of p50, between two groups of block medians
MAX_SWITCHED_SHARE = 0.01  # of runs in which the kernel took a core away
# Housekeeping takes a core some 30 times a second, each time for microseconds: in 1 % of runs of
# 0.3 ms, in 30 % of runs of 10 ms, which it does not slow. So both shares must be exceeded.
# The waits of all threads are summed, as any of them holds up the run; so they can exceed the time.
MAX_WAITED_SHARE = 0.05  # of the time, that threads waited for a core
BLOCK_NS = 100_000_000
# two groups are modes if they lie further apart than the halves of one broad hump ever do: Ashman's
# D is 2.7 for a normal distribution cut in the middle, 3.5 for a uniform one
MIN_ASHMAN_D = 5.0
MIN_MODE_BLOCKS = 3
MIN_MODE_SHARE = 0.1


def judge(row: Latency, samples_ns: Array, starts_ns: Array, *, tolerance: float) -> Verdict:
    """Return the verdict on the timed runs of which `row` holds what disturbed them.

    samples_ns, starts_ns: (R,) int64, each run's wall time and when it began, in order. tolerance:
    of the outputs checked.
    """
    reasons = list(_faults(row, samples_ns, tolerance))
    if len(samples_ns) >= MIN_RUNS:
        reasons += [
            Reason(name, "NOISY", value, most, f"{found} (at most {percent(most, 0)}); {advice}")
            for name, value, most, found, advice in _doubts(row, samples_ns, starts_ns)
            if value > most
        ]
    return _verdict(reasons)


def combine(rows: Iterable[Latency], others: Sequence[Reason] = ()) -> Verdict:
    """Return the verdict on all batch sizes together, each reason with its own, and `others`."""
    found = [
        replace(reason, batch_size=row.batch_size)
        for row in rows
        for reason in (row.verdict.reasons if row.verdict else ())
    ]
    return _verdict((*others, *found))


def _verdict(reasons: Sequence[Reason]) -> Verdict:
    """Return the verdict of all reasons, those that weigh most before the others."""
    found = {reason.status for reason in reasons}
    status: Status = "INVALID" if "INVALID" in found else "NOISY" if found else "VALID"
    return Verdict(status, tuple(sorted(reasons, key=lambda reason: reason.status != "INVALID")))


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


def _faults(row: Latency, samples_ns: Array, tolerance: float) -> Iterator[Reason]:
    n, step_ns, error = len(samples_ns), row.timer_step_ns or 0.0, row.largest_output_error
    if error is None:  # as JSON has no NaN
        error = math.inf if row.n_outputs_checked else 0.0
    if not error <= tolerance:  # NaN too
        text = f"a timed run gave logits off by {error:.2g}, at most {tolerance:.2g} is allowed"
        text += "; check this machine with `convnet-edge verify`"
        yield Reason("wrong outputs", "INVALID", error, tolerance, text)
    if n < MIN_RUNS:
        text = f"{n} runs, p50 needs {MIN_RUNS}; time for longer with --duration"
        yield Reason("too few runs", "INVALID", n, MIN_RUNS, text)
    elif step_ns > MAX_TIMER_STEP_SHARE * (middle := float(np.median(samples_ns))):
        share = step_ns / max(middle, 1e-9)
        text = f"the clock steps by {step_ns / 1e3:.3g} µs, {percent(share, 0)} of p50"
        text += f" (at most {percent(MAX_TIMER_STEP_SHARE, 0)}); measure larger batches"
        yield Reason("coarse timer", "INVALID", share, MAX_TIMER_STEP_SHARE, text)


def _doubts(
    row: Latency, samples_ns: Array, starts_ns: Array
) -> Iterator[tuple[str, float, float, str, str]]:
    """Yield what may be doubted: name, value, threshold, what was found, what to do."""
    middle, interval = float(np.median(samples_ns)), median_interval(samples_ns)
    if middle <= 0:
        return
    share = (interval.high - interval.low) / 2 / middle
    found = f"p50's 95 % interval is ±{percent(share)} of it"
    yield "wide interval", share, MAX_HALF_WIDTH_SHARE, found, "time for longer with --duration"
    third = len(samples_ns) // 3
    first, last = float(np.median(samples_ns[:third])), float(np.median(samples_ns[-third:]))
    share, word = abs(last / max(first, 1.0) - 1), "slower" if last > first else "faster"
    found = f"the last third of the runs is {percent(share)} {word} than the first"
    advice = "let the machine warm up or cool down, and fix its clock if you can"
    yield "drift", share, MAX_DRIFT_SHARE, found, advice
    distance = mode_distance(block_medians(samples_ns, starts_ns))
    if distance is not None:
        share = distance / middle
        found = f"the medians of 100 ms blocks fall into two groups {percent(share)} apart"
        advice = "look for what switches: clock, cores of two kinds, another program"
        yield "two modes", share, MAX_MODE_DISTANCE_SHARE, found, advice
    waited = row.waited_share
    if row.n_switched is not None and (waited is None or waited > MAX_WAITED_SHARE):
        share = row.n_switched / len(samples_ns)
        found = f"the kernel took a core away in {percent(share)} of the runs"
        if waited is not None:
            found = (
                f"our threads waited for a core, their waits summed, {percent(waited)} of the time "
                f"(at most {percent(MAX_WAITED_SHARE, 0)}), and {found}"
            )
        advice = "close other programs, or leave a core free with --threads"
        yield "interrupted runs", share, MAX_SWITCHED_SHARE, found, advice
