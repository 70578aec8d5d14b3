import numpy as np
import pytest

from convnet_edge.runtime.measure import verdict
from convnet_edge.runtime.measure.result import Latency, Verdict

STEADY = np.full(1000, 2.0)


def judge(samples_ms, *, tolerance=0.0, **seen):
    """Return status, names of the reasons, and the reasons, of runs back to back."""
    samples = np.asarray(np.asarray(samples_ms) * 1e6, np.int64)
    starts = np.concatenate([[0], np.cumsum(samples)[:-1]]) + 123
    row = Latency(1, len(samples), **{"n_switched": 0, "timer_step_ns": 30.0, **seen})
    found = verdict.judge(row, samples, starts, tolerance=tolerance)
    return found.status, {reason.name for reason in found.reasons}, found.reasons


def quiet(rng, n, middle_ms=1.0):
    """Return times as a quiet machine gives: skewed, correlated from run to run, rare outliers."""
    drift = np.cumsum(rng.normal(0, 0.0002, n))
    samples = middle_ms * (1 + drift + rng.gamma(2, 0.01, n))
    samples[rng.random(n) < 0.002] *= 5
    return samples


def drifting(factor):
    return np.linspace(1, factor + (factor - 1) * 0.5, 3000)


def switching(distance):
    """Return times that change between two levels each half second."""
    levels = np.tile(np.repeat([1.0, distance], 500), 12)
    return levels * np.random.default_rng(2).normal(1, 0.01, levels.size)


@pytest.mark.parametrize("n", [60, 200, 2000, 20_000])
def test_quiet_runs_are_valid_nearly_always(n):
    rng = np.random.default_rng(0)
    assert [judge(quiet(rng, n))[0] for _ in range(40)].count("VALID") >= 38


@pytest.mark.parametrize(
    ("samples_ms", "seen", "status", "names"),
    [
        (STEADY, {}, "VALID", set()),
        (STEADY, {"largest_output_error": 0.2, "tolerance": 0.1}, "INVALID", {"wrong outputs"}),
        (STEADY, {"largest_output_error": np.nan, "tolerance": 1}, "INVALID", {"wrong outputs"}),
        (STEADY, {"largest_output_error": np.inf, "tolerance": 1}, "INVALID", {"wrong outputs"}),
        (STEADY, {"largest_output_error": None, "n_outputs_checked": 1}, "INVALID",
         {"wrong outputs"}),
        (STEADY[:11], {}, "VALID", set()),
        (STEADY[:10], {}, "INVALID", {"too few runs"}),
        (STEADY[:0], {}, "INVALID", {"too few runs"}),
        (STEADY, {"timer_step_ns": 0.04 * 2e6}, "VALID", set()),
        (STEADY, {"timer_step_ns": 0.06 * 2e6}, "INVALID", {"coarse timer"}),
        (np.random.default_rng(1).uniform(1, 3, 40), {}, "NOISY", {"wide interval"}),
        (drifting(1.05), {}, "VALID", set()),
        (drifting(1.2), {}, "NOISY", {"drift"}),
        (drifting(0.8), {}, "NOISY", {"drift"}),
        (switching(1.1), {}, "VALID", set()),
        (switching(1.3), {}, "NOISY", {"two modes"}),
        (STEADY, {"n_switched": None}, "VALID", set()),
        (STEADY, {"n_switched": 10}, "VALID", set()),
        (STEADY, {"n_switched": 11}, "NOISY", {"interrupted runs"}),
        (STEADY, {"n_switched": 300, "waited_share": 0.04}, "VALID", set()),
        (STEADY, {"n_switched": 300, "waited_share": 0.06}, "NOISY", {"interrupted runs"}),
        (STEADY, {"n_switched": 500, "largest_output_error": 1.0}, "INVALID",
         {"wrong outputs", "interrupted runs"}),
    ],
)  # fmt: skip
def test_each_rule_holds_up_to_its_threshold(samples_ms, seen, status, names):
    found, reasons, _ = judge(samples_ms, **seen)
    assert found == status
    assert names <= reasons
    assert bool(names) == bool(reasons)


def test_each_doubt_states_value_threshold_and_advice():
    samples = np.sort(np.random.default_rng(4).uniform(1, 3, 300))
    _, names, reasons = judge(samples, n_switched=300)
    assert {"drift", "interrupted runs"} <= names
    for reason in reasons:
        assert reason.value > reason.threshold
        assert f"(at most {100 * reason.threshold:.0f} %); " in reason.text
    assert "slower" in next(reason.text for reason in reasons if reason.name == "drift")


def test_waiting_of_several_threads_is_called_a_sum_beside_its_own_limit():
    _, _, (reason,) = judge(STEADY, n_switched=300, waited_share=1.01)
    waited, took = reason.text.split(", and ")
    assert waited == (
        "our threads waited for a core, their waits summed, 101.0 % of the time (at most 5 %)"
    )
    assert took.startswith("the kernel took a core away in 30.0 % of the runs (at most 1 %); ")


def test_what_forbids_the_numbers_is_named_before_what_disturbs_them():
    rows = []
    for batch_size, error in ((1, 0.0), (8, 1.0)):
        status, _, reasons = judge(STEADY, n_switched=500, largest_output_error=error)
        rows.append(Latency(batch_size, 1000, verdict=Verdict(status, reasons)))
    found = verdict.combine(rows)
    names = [(one.name, one.batch_size) for one in found.reasons]
    assert names == [("wrong outputs", 8), ("interrupted runs", 1), ("interrupted runs", 8)]


def test_one_broad_hump_is_not_two_modes():
    rng = np.random.default_rng(3)
    for draw in (rng.normal(1, 0.2, (200, 50)), rng.uniform(0.5, 1.5, (200, 50)),
                 1 + rng.gamma(2, 0.1, (200, 50))):  # fmt: skip
        assert np.mean([verdict.mode_distance(row) is not None for row in draw]) <= 0.02


def test_modes_need_three_blocks_each():
    assert verdict.mode_distance(np.array([1.0, 1.0, 1.0, 2.0, 2.0])) is None
    assert verdict.mode_distance(np.array([1.0, 1.0, 1.01, 2.0, 2.0, 2.01])) == pytest.approx(1.0)


def test_block_medians_are_those_of_each_tenth_of_a_second():
    starts = np.array([0, 40_000_000, 99_999_999, 100_000_000, 350_000_000], np.int64) + 5
    medians = verdict.block_medians(np.array([1, 3, 2, 7, 9]), starts)
    assert medians.tolist() == [2, 7, 9]
