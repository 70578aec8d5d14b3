import time

import numpy as np
import pytest
import tiny

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.measure import timing
from convnet_edge.runtime.measure.timing import Load
from convnet_edge.runtime.session import Session

IMAGES = tiny.images(600)


@pytest.fixture
def classifier():
    return Classifier(tiny.grey(), threads=1)


def timed(classifier, batch_size=1, **options):
    feed = timing.prepare(classifier, IMAGES, batch_size)
    return timing.time_runs(classifier.session.run, feed, **{"duration_s": 1e-9, **options})


def slow_down(monkeypatch, seconds):
    real = Session.run

    def slow(self, batch):
        if len(batch) == 1:
            time.sleep(seconds)
        return real(self, batch)

    monkeypatch.setattr(Session, "run", slow)


def spoil(monkeypatch, wrong, *, batch_size, after=0):
    """Add `wrong` to logits of one batch size, once so many runs have been."""
    real, calls = Session.run, []

    def spoilt(self, batch):
        calls.append(None)
        logits = real(self, batch).copy()
        if len(batch) == batch_size and len(calls) > after:
            logits[0, 0] += wrong
        return logits

    monkeypatch.setattr(Session, "run", spoilt)


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_a_sample_is_kept_for_every_run(classifier, batch_size):
    shares = []
    found = timed(classifier, batch_size, duration_s=0.3, tick=shares.append)
    samples = found.trace.samples_ns
    assert len(samples) >= timing.MIN_RUNS
    assert samples.min() > 0
    assert samples.sum() / 1e9 <= found.elapsed_s
    assert found.elapsed_s >= 0.3
    assert found.n_warmup >= timing.MIN_WARMUP_RUNS
    assert 1 <= found.n_checked < timing.N_CHECKED_OUTPUTS
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize("least", [timing.MIN_RUNS, 70])
def test_runs_go_on_until_their_least_number(classifier, least):
    assert len(timed(classifier, min_runs=least).trace.samples_ns) == least


def test_trace_holds_what_the_verdict_needs(classifier):
    found = timed(classifier, 8, duration_s=0.2)
    trace = found.trace
    assert (np.diff(trace.starts_ns) >= trace.samples_ns[:-1]).all()
    assert trace.n_switched is None or 0 <= trace.n_switched <= len(trace.samples_ns)
    assert trace.waited_share is None or trace.waited_share >= 0
    assert 0 < trace.timer_step_ns < 1e6
    assert trace.error <= classifier.tolerance
    assert 0 < found.cpu_s < 10


def test_timed_images_vary(classifier, monkeypatch):
    seen, real = set(), Session.run
    monkeypatch.setattr(
        Session, "run", lambda s, batch: seen.add(batch.tobytes()) or real(s, batch)
    )
    timed(classifier)
    assert len(seen) >= timing.MIN_RUNS


@pytest.mark.parametrize("wrong", [1e-2, np.nan])
def test_wrong_output_within_the_timed_loop_is_caught(classifier, monkeypatch, wrong):
    # after the reference, at another batch size (19 runs), and warm-up (10)
    spoil(monkeypatch, wrong, batch_size=1, after=35)
    assert not timed(classifier).trace.error <= classifier.tolerance


def test_checked_outputs_cover_the_whole_loop(classifier):
    recorder = timing.Recorder()
    for index in range(1000):
        recorder.add(index, index + 1, index)
    assert min(recorder.kept) == 0
    assert max(recorder.kept) >= 900
    assert len(recorder.kept) < timing.N_CHECKED_OUTPUTS
    assert all(index == output for index, output in recorder.kept.items())


def test_paced_runs_come_at_their_pace(classifier):
    started = time.perf_counter()
    found = timed(classifier, duration_s=0.5, min_runs=1, pace_hz=40)
    assert 0.4 < time.perf_counter() - started < 2
    assert len(found.trace.samples_ns) + found.n_dropped == pytest.approx(20, abs=1)
    assert np.median(found.trace.samples_ns) < 20e6  # the pause between runs is not timed


def test_frames_that_come_during_a_run_are_dropped(classifier, monkeypatch):
    slow_down(monkeypatch, 0.025)
    found = timed(classifier, duration_s=0.6, min_runs=1, pace_hz=100)
    assert 12 <= len(found.trace.samples_ns) <= 22
    assert found.n_dropped >= 30


def test_each_load_is_measured_in_each_round_in_turn(classifier, monkeypatch):
    order = []
    monkeypatch.setattr(timing, "_rate", lambda load, _f, _s: order.append(load) or len(order))
    loads = (Load(classifier, 1), Load(classifier, 4, 2))
    assert timing.take_turns(loads, IMAGES, n_rounds=3, slot_s=1) == ((1, 3, 5), (2, 4, 6))
    assert order == [*loads, *loads, *loads]


@pytest.mark.parametrize("n_callers", [1, 3])
def test_rate_counts_the_images_that_were_run(classifier, monkeypatch, n_callers):
    slow_down(monkeypatch, 0.02)
    ((found,),) = timing.take_turns(
        [Load(classifier, 1, n_callers)], IMAGES, n_rounds=1, slot_s=0.4
    )
    assert found == pytest.approx(n_callers / 0.02, rel=0.3)


def test_slot_shorter_than_a_run_still_counts_one(classifier, monkeypatch):
    slow_down(monkeypatch, 0.05)
    ((found,),) = timing.take_turns([Load(classifier, 1)], IMAGES, n_rounds=1, slot_s=0.001)
    assert found == pytest.approx(1 / 0.05, rel=0.3)


def test_wrong_output_of_any_caller_is_caught(classifier, monkeypatch):
    spoil(monkeypatch, 1.0, batch_size=3)
    with pytest.raises(CheckFailedError, match="batch size 3 with 2 callers"):
        timing.take_turns([Load(classifier, 3, 2)], IMAGES, n_rounds=1, slot_s=0.1)


def test_failure_of_a_caller_reaches_the_one_who_asked(classifier, monkeypatch):
    real = Session.run

    def fail(self, batch):
        if len(batch) == 3:
            raise InputError("no", expected="yes", next_step="-")
        return real(self, batch)

    monkeypatch.setattr(Session, "run", fail)
    with pytest.raises(InputError):
        timing.take_turns([Load(classifier, 3, 2)], IMAGES, n_rounds=1, slot_s=0.1)
