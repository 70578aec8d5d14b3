"""Intervals and percentiles that say no more than their samples carry.

Plain functions of numbers; where the samples come from is latency's and accuracy's business.
"""

import functools
import itertools
import math
from typing import Any

import numpy as np

from .result import Interval, Percentile

Array = np.ndarray[Any, np.dtype[Any]]

Z_95 = 1.959963984540054
Z_95_ONE_SIDED = 1.6448536269514722
MAX_UNSEEN_TAIL = 0.01
PERCENTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


def wilson_interval(n_hits: int, n: int) -> Interval:
    """Return the 95 % interval of a proportion from `n_hits` among `n` independent trials.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927) 209-212.
    """
    if not 0 <= n_hits <= n or n == 0:
        raise ValueError(f"{n_hits} hits among {n} trials")
    rate = n_hits / n
    spread = Z_95 * math.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n * n))
    centre, scale = rate + Z_95**2 / (2 * n), 1 + Z_95**2 / n
    return Interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def paired_drop_bound(n_lost: int, n_gained: int, n: int) -> float:
    """Return the one-sided 95 % upper bound of an accuracy drop seen on the same `n` images.

    n_lost: images that only the first model gets right; n_gained: only the second. The share that
    was lost less the share that was gained, plus what chance may hide. Source: D. G. Bonett and
    R. M. Price, "Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data", J. Educ. Behav. Stat. 37 (2012) 479-488.
    """
    if n <= 0 or min(n_lost, n_gained) < 0 or n_lost + n_gained > n:
        raise ValueError(f"{n_lost} lost and {n_gained} gained of {n}")
    lost, gained = (n_lost + 1) / (n + 2), (n_gained + 1) / (n + 2)
    drop = lost - gained
    return drop + Z_95_ONE_SIDED * math.sqrt((lost + gained - drop**2) / (n + 2))


def fewest_for_drop(max_drop: float) -> int:
    """Return of how many images, none lost or gained, `max_drop` (a share) can be shown to hold."""
    return next(n for n in itertools.count(1) if paired_drop_bound(0, 0, n) <= max_drop)


def mcnemar(n_lost: int, n_gained: int) -> float:
    """Return the exact two-sided p-value that two models are right equally often.

    Of the images on which one model alone is right, each is as likely either's: a binomial test.
    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, in its exact form.
    """
    n = n_lost + n_gained
    tail = sum(math.comb(n, k) for k in range(min(n_lost, n_gained) + 1))
    return min(1.0, float(2 * tail / 2**n))


def median_interval(values: Array) -> Interval:
    """Return the 95 % order-statistic interval of the median of `values`, any number of them.

    With fewer than 6 values even their whole range holds the median less often than that; the
    interval is then unbounded.
    """
    ordered = np.sort(values)
    if 2 * 0.5 ** len(ordered) > 0.05:
        return Interval(-math.inf, math.inf)
    return Interval(*_order_interval(ordered, 0.5))


@functools.cache
def percentile_floor(p: float) -> int:
    """Return the fewest samples from which percentile `p` may be stated.

    The smallest n with P(Bin(n, 1 - p) <= 1) <= 0.01: with fewer, the chance that at most one
    sample fell beyond the percentile exceeds 1 %, and the estimate rests on next to nothing.
    Assumes independent samples; 11, 64, 130, 662, 6,636 for p50, p90, p95, p99, p99.9.
    """
    tail = 1 - p
    unseen = ((n, p**n + n * tail * p ** (n - 1)) for n in itertools.count(1))
    return next(n for n, chance in unseen if chance <= MAX_UNSEEN_TAIL)


def percentile(samples: Array, p: float) -> Percentile:
    """Return percentile `p` of `samples` by nearest rank, None below its floor."""
    n, floor = len(samples), percentile_floor(p)
    if n < floor:
        return Percentile(p, floor, None, None, None)
    ordered = np.sort(samples)
    value = float(ordered[math.ceil(p * n - 1e-9) - 1])
    return Percentile(p, floor, value, *_order_interval(ordered, p))


def percentiles_ms(samples_ns: Array) -> tuple[Percentile, ...]:
    """Return p50 to p99.9 of `samples_ns` in milliseconds, each None below its sample floor."""
    return tuple(percentile(samples_ns / 1e6, p) for p in PERCENTILES)


def _order_interval(ordered: Array, p: float) -> tuple[float, float]:
    """Return the order statistics whose ranks enclose the binomial's middle 95 %.

    No distribution is assumed, independence is (W. J. Conover, "Practical Nonparametric
    Statistics", section 3.2): P(Bin < low rank) <= 2.5 %, P(Bin >= high rank) <= 2.5 %.
    """
    n = len(ordered)
    reach = 9 * math.sqrt(n * p * (1 - p)) + 9  # beyond it there is next to nothing
    k = np.arange(max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach)) + 1)
    log_ratios = np.log((n - k[:-1]) / (k[:-1] + 1) * p / (1 - p))  # of neighbouring probabilities
    logs = np.concatenate([[0.0], np.cumsum(log_ratios)])
    cumulative = np.cumsum(np.exp(logs - logs.max()))
    low, high = np.searchsorted(cumulative / cumulative[-1], (0.025, 0.975))
    return float(ordered[max(1, k[low]) - 1]), float(ordered[min(n - 1, k[high])])
