import numpy as np
import pytest

from convnet_edge.runtime.measure import verdict
from convnet_edge.runtime.measure.verdict import Trace, judge


def trace(samples_ms, *, n_switched=0, timer_step_ns=30.0, **others):
    """Return the trace of runs back to back."""
    samples = np.asarray(np.asarray(samples_ms) * 1e6, np.int64)
    starts = np.concatenate([[0], np.cumsum(samples)[:-1]]) + 123
    return Trace(samples, starts, n_switched, timer_step_ns, **others)


def quiet(rng, n=2000, middle_ms=1.0):
    """Return times as a quiet machine gives: skewed, correlated from run to run, rare outliers."""
    drift = np.cumsum(rng.normal(0, 0.0002, n))
    samples = middle_ms * (1 + drift + rng.gamma(2, 0.01, n))
    samples[rng.random(n) < 0.002] *= 5
    return samples


def names(found):
    return {reason.name for reason in found.reasons}


def test_quiet_traces_are_valid_nearly_always():
    rng = np.random.default_rng(0)
    sizes = (60, 200, 2000, 20_000)
    for n in sizes:
        found = [judge(trace(quiet(rng, n), n_switched=0)).status for _ in range(100)]
        assert found.count("VALID") >= 95, n


def test_verdict_without_any_reason_is_valid():
    assert judge(trace(np.full(500, 2.0))) == verdict.Verdict("VALID", ())


@pytest.mark.parametrize("wrong", [0.2, float("nan"), float("inf")])
def test_wrong_outputs_are_invalid(wrong):
    found = judge(trace(np.full(500, 2.0), error=wrong, tolerance=0.1))
    assert found.status == "INVALID"
    assert names(found) == {"wrong outputs"}
    assert "convnet-edge verify" in found.reasons[0].text


def test_wrong_provider_is_invalid():
    found = judge(trace(np.full(500, 2.0), provider_error="asked for cuda, ran on cpu"))
    assert (found.status, names(found)) == ("INVALID", {"wrong provider"})


def test_fewer_runs_than_p50s_floor_are_invalid():
    assert judge(trace(np.full(11, 2.0))).status == "VALID"
    found = judge(trace(np.full(10, 2.0)))
    assert (found.status, names(found)) == ("INVALID", {"too few runs"})
    assert "p50 needs 11" in found.reasons[0].text
    assert judge(trace(np.array([]))).status == "INVALID"


def test_coarse_timer_is_invalid():
    assert judge(trace(np.full(500, 2.0), timer_step_ns=0.04 * 2e6)).status == "VALID"
    found = judge(trace(np.full(500, 2.0), timer_step_ns=0.06 * 2e6))
    assert (found.status, names(found)) == ("INVALID", {"coarse timer"})


def test_wide_interval_is_noisy():
    rng = np.random.default_rng(1)
    found = judge(trace(rng.uniform(1, 3, 40)))
    assert found.status == "NOISY"
    assert "wide interval" in names(found)


@pytest.mark.parametrize(("factor", "status"), [(1.05, "VALID"), (1.2, "NOISY"), (0.8, "NOISY")])
def test_drift_beyond_a_tenth_is_noisy(factor, status):
    samples = np.linspace(1, factor + (factor - 1) * 0.5, 3000)
    found = judge(trace(samples))
    assert found.status == status
    if status == "NOISY":
        assert "drift" in names(found)
        word = "slower" if factor > 1 else "faster"
        assert word in next(r.text for r in found.reasons if r.name == "drift")


@pytest.mark.parametrize(("distance", "status"), [(1.10, "VALID"), (1.30, "NOISY")])
def test_two_modes_beyond_their_threshold_are_noisy(distance, status):
    rng = np.random.default_rng(2)
    switching = np.tile(np.repeat([1.0, distance], 500), 12)  # half a second each
    found = judge(trace(switching * rng.normal(1, 0.01, switching.size)))
    assert found.status == status
    assert ("two modes" in names(found)) == (status == "NOISY")


@pytest.mark.parametrize("draw", ["normal", "uniform", "gamma"])
def test_one_broad_hump_is_not_two_modes(draw):
    rng = np.random.default_rng(3)
    makers = {
        "normal": lambda: rng.normal(1, 0.2, 50),
        "uniform": lambda: rng.uniform(0.5, 1.5, 50),
        "gamma": lambda: 1 + rng.gamma(2, 0.1, 50),
    }
    found = [verdict.mode_distance(makers[draw]()) is not None for _ in range(300)]
    assert np.mean(found) <= 0.02


def test_modes_need_three_blocks_each():
    assert verdict.mode_distance(np.array([1.0, 1.0, 1.0, 2.0, 2.0])) is None
    assert verdict.mode_distance(np.array([1.0, 1.0, 1.01, 2.0, 2.0, 2.01])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("n_switched", "status"), [(None, "VALID"), (10, "VALID"), (11, "NOISY"), (900, "NOISY")]
)
def test_interrupted_runs_beyond_a_hundredth_are_noisy(n_switched, status):
    found = judge(trace(np.full(1000, 2.0), n_switched=n_switched))
    assert found.status == status
    assert names(found) == (set() if status == "VALID" else {"interrupted runs"})


@pytest.mark.parametrize(("waited_share", "status"), [(0.04, "VALID"), (0.06, "NOISY")])
def test_interruptions_that_cost_no_time_are_no_doubt(waited_share, status):
    found = judge(trace(np.full(1000, 10.0), n_switched=300, waited_share=waited_share))
    assert found.status == status


def test_each_doubt_states_value_threshold_and_advice():
    rng = np.random.default_rng(4)
    found = judge(trace(np.sort(rng.uniform(1, 3, 300)), n_switched=300))
    assert {"drift", "interrupted runs"} <= names(found)
    for reason in found.reasons:
        assert reason.value > reason.threshold
        assert f"(at most {reason.threshold:.0%}); " in reason.text


def test_block_medians_are_those_of_each_tenth_of_a_second():
    starts = np.array([0, 40_000_000, 99_999_999, 100_000_000, 350_000_000], np.int64) + 5
    medians = verdict.block_medians(np.array([1, 3, 2, 7, 9]), starts)
    assert medians.tolist() == [2, 7, 9]


def test_invalid_outweighs_noisy():
    found = judge(trace(np.full(1000, 2.0), n_switched=500, error=1.0))
    assert found.status == "INVALID"
    assert names(found) == {"wrong outputs", "interrupted runs"}
