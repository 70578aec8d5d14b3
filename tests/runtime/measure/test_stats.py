import math

import numpy as np
import pytest

from convnet_edge.runtime.measure import stats


@pytest.mark.parametrize(
    ("p", "floor"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)]
)
def test_percentile_floor_is_the_smallest_that_its_formula_allows(p, floor):
    assert stats.percentile_floor(p) == floor

    def at_most_one_beyond(n):
        return sum(math.comb(n, k) * (1 - p) ** k * p ** (n - k) for k in (0, 1))

    assert at_most_one_beyond(floor) <= 0.01 < at_most_one_beyond(floor - 1)


def test_percentile_below_its_floor_is_none():
    assert stats.percentile(np.arange(661.0), 0.99).value is None
    assert stats.percentile(np.arange(662.0), 0.99).value == 655.0


@pytest.mark.parametrize(("n", "p"), [(11, 0.5), (40, 0.5), (64, 0.9), (900, 0.9), (900, 0.99)])
def test_percentile_interval_has_the_ranks_of_the_exact_binomial(n, p):
    found = stats.percentile(np.arange(1.0, n + 1), p)
    low, high = int(found.low), int(found.high)
    assert low <= found.value <= high

    def cdf(k):
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))

    assert cdf(low - 1) <= 0.025 < cdf(low)
    assert cdf(high - 2) < 0.975 <= cdf(high - 1)


def test_wilson_interval_matches_the_quadratic_it_solves():
    interval = stats.wilson_interval(9096, 10_000)
    for bound in (interval.low, interval.high):
        distance = abs(0.9096 - bound) / math.sqrt(bound * (1 - bound) / 10_000)
        assert distance == pytest.approx(stats.Z_95, rel=1e-9)


@pytest.mark.parametrize("n_hits", [0, 10])
def test_wilson_interval_at_the_edges_stays_in_range(n_hits):
    interval = stats.wilson_interval(n_hits, 10)
    assert 0 <= interval.low < interval.high <= 1


@pytest.mark.parametrize(
    ("interval", "counts"),
    [(stats.wilson_interval, counts) for counts in ((1, 0), (-1, 5), (6, 5))]
    + [(stats.paired_drop_bound, counts) for counts in ((6, 5, 10), (0, 0, 0), (-1, 1, 9))],
)
def test_impossible_counts_are_an_error(interval, counts):
    with pytest.raises(ValueError, match=r"trials|lost"):
        interval(*counts)


def test_drop_bound_covers_the_true_drop_19_times_in_20():
    rng = np.random.default_rng(3)
    n, lost, gained = 5000, 0.004, 0.002
    draws = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=2000)
    covered = [stats.paired_drop_bound(a, b, n) >= lost - gained for a, b, _ in draws]
    assert 0.93 < np.mean(covered) < 0.975


def test_drop_bound_of_equal_models_is_small_and_grows_with_disagreement():
    assert 0 < stats.paired_drop_bound(0, 0, 5000) < 0.001
    assert stats.paired_drop_bound(50, 50, 5000) > stats.paired_drop_bound(5, 5, 5000)


def test_median_interval_needs_six_values():
    assert stats.median_interval(np.arange(5.0)).high == math.inf
    assert stats.median_interval(np.arange(6.0)) == stats.Interval(0, 5)
    assert stats.median_interval(np.arange(11.0)) == stats.Interval(1, 9)


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(0, 0, 1.0), (5, 5, 1.0), (5, 0, 0.0625), (9, 1, 22 / 1024)]
)
def test_mcnemar_is_the_exact_binomial_test(lost, gained, p):
    assert stats.mcnemar(lost, gained) == pytest.approx(p)
    assert stats.mcnemar(gained, lost) == pytest.approx(p)
