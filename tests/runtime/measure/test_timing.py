import itertools
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


@pytest.fixture
def change_runs(monkeypatch):
    """Let `change(sizes, logits)` act on each run; sizes: of all batches, this one the last."""

    def change_runs(change):
        sizes, real = [], Session.run

        def run(self, batch):
            sizes.append(len(batch))
            logits = real(self, batch).copy()
            change(sizes, logits)
            return logits

        monkeypatch.setattr(Session, "run", run)

    return change_runs


def slow_down(seconds):
    return lambda sizes, _: time.sleep(seconds if sizes[-1] == 1 else 0)


def spoil(wrong, *, batch_size, after=0):
    """Add `wrong` to logits of one batch size, once so many runs have been."""

    def change(sizes, logits):
        if sizes[-1] == batch_size and len(sizes) > after:
            logits[0, 0] += wrong

    return change


def test_core_taken_away_before_the_first_run_is_no_runs(classifier, monkeypatch):
    count = itertools.count()
    monkeypatch.setattr(timing.machine, "involuntary_switches", lambda: next(count))
    row = timed(classifier, min_runs=11).row
    assert row.n_switched == row.n_runs == 11


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_a_sample_is_kept_for_every_run(classifier, batch_size):
    shares = []
    found = timed(classifier, batch_size, duration_s=0.3, tick=shares.append)
    samples, row = found.samples_ns, found.row
    assert row.batch_size == batch_size
    assert row.n_runs == len(samples) >= timing.MIN_RUNS
    assert samples.min() > 0
    assert 0.3 <= row.elapsed_s >= samples.sum() / 1e9
    assert row.images_per_s == pytest.approx(batch_size * row.n_runs / (samples.sum() / 1e9))
    assert row.n_warmup >= timing.MIN_WARMUP_RUNS
    assert 1 <= row.n_outputs_checked < timing.N_CHECKED_OUTPUTS
    assert row.largest_output_error <= classifier.tolerance
    assert (np.diff(found.starts_ns) >= samples[:-1]).all()
    assert 0 < row.timer_step_ns < 1e6
    assert 0 < row.cpu_ms_per_run < 1e4
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize("least", [timing.MIN_RUNS, 70])
def test_runs_go_on_until_their_least_number(classifier, least):
    assert timed(classifier, min_runs=least).row.n_runs == least


@pytest.mark.parametrize(
    ("n_images", "batch_size"), [(600, 1), (600, 32), (16, 1), (16, 64), (600, 600), (1, 2)]
)
def test_batches_vary_and_are_those_of_their_reference(classifier, n_images, batch_size):
    feed = timing.prepare(classifier, IMAGES[:n_images], batch_size)
    assert len(feed.batches) >= 2
    assert n_images == 1 or (feed.batches[0] != feed.batches[1]).any()
    assert {batch.shape for batch in feed.batches} == {(batch_size, *feed.batches[0].shape[1:])}
    assert all(batch.flags.c_contiguous for batch in feed.batches)
    outputs = {i: classifier.session.run(batch) for i, batch in enumerate(feed.batches)}
    assert feed.largest_error(outputs) <= classifier.tolerance
    unlike = {0: outputs[1], 1: outputs[0]}
    assert n_images == 1 or feed.largest_error(unlike) > classifier.tolerance


@pytest.mark.parametrize("wrong", [1e-2, np.nan])
def test_wrong_output_within_the_timed_loop_is_caught(classifier, change_runs, wrong):
    # after the reference, at another batch size (19 runs), and warm-up (10)
    change_runs(spoil(wrong, batch_size=1, after=35))
    assert not timed(classifier).row.largest_output_error <= classifier.tolerance


def test_checked_outputs_cover_the_whole_loop():
    recorder = timing.Recorder()
    timing.loop(lambda batch: batch, range(10), recorder, lambda _, n: n < 1000)
    assert min(recorder.kept) == 0
    assert max(recorder.kept) >= 900
    assert len(recorder.kept) < timing.N_CHECKED_OUTPUTS
    assert all(index % 10 == output for index, output in recorder.kept.items())


def test_paced_runs_come_at_their_pace(classifier):
    started = time.perf_counter()
    found = timed(classifier, duration_s=0.5, min_runs=1, pace_hz=40)
    assert 0.4 < time.perf_counter() - started < 2
    assert found.row.n_runs + found.n_dropped == pytest.approx(20, abs=1)
    assert np.median(found.samples_ns) < 20e6  # the pause between runs is not timed


def test_frames_that_come_during_a_run_are_dropped(classifier, change_runs):
    change_runs(slow_down(0.025))
    found = timed(classifier, duration_s=0.6, min_runs=1, pace_hz=100)
    assert 12 <= found.row.n_runs <= 22
    assert found.n_dropped >= 30


def test_each_load_is_measured_in_each_round_in_turn(classifier, change_runs):
    turns = [0]

    def note(sizes, _):  # without the runs for reference
        turns.extend({3, 5} & {sizes[-1]} - {turns[-1]})

    change_runs(note)
    loads = (Load(classifier, 3), Load(classifier, 5, 2))
    found = timing.take_turns(loads, IMAGES, n_rounds=3, slot_s=0.02)
    assert turns[1:] == [3, 5, 3, 5, 3, 5]
    assert [len(rates) for rates in found] == [3, 3]


@pytest.mark.parametrize(("n_callers", "slot_s"), [(1, 0.4), (3, 0.4), (1, 0.001)])
def test_rate_counts_the_images_that_were_run_one_at_least(
    classifier, change_runs, n_callers, slot_s
):
    change_runs(slow_down(0.02))
    loads = [Load(classifier, 1, n_callers)]
    ((found,),) = timing.take_turns(loads, IMAGES, n_rounds=1, slot_s=slot_s)
    assert found == pytest.approx(n_callers / 0.02, rel=0.3)


def test_wrong_output_of_any_caller_is_caught(classifier, change_runs):
    change_runs(spoil(1.0, batch_size=3))
    with pytest.raises(CheckFailedError, match="batch size 3 with 2 callers"):
        timing.take_turns([Load(classifier, 3, 2)], IMAGES, n_rounds=1, slot_s=0.1)


def test_failure_of_a_caller_reaches_the_one_who_asked(classifier, change_runs):
    def fail(sizes, _):
        if sizes[-1] == 3:
            raise InputError("no", expected="yes", next_step="-")

    change_runs(fail)
    with pytest.raises(InputError):
        timing.take_turns([Load(classifier, 3, 2)], IMAGES, n_rounds=1, slot_s=0.1)
