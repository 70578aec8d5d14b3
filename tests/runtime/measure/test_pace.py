import time

import numpy as np
import pytest

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import CheckFailedError
from convnet_edge.runtime.measure import machine, pace
from convnet_edge.runtime.session import Session


@pytest.fixture
def classifier(model_bytes):
    return Classifier(model_bytes, threads=1)


def slow_down(monkeypatch, seconds, batch_size=1):
    real = Session.run

    def slow(self, batch):
        if len(batch) == batch_size:
            time.sleep(seconds)
        return real(self, batch)

    monkeypatch.setattr(Session, "run", slow)


def test_paced_runs_come_at_their_pace(classifier, test_set):
    started = time.perf_counter()
    (minute,) = pace.sustain(classifier, test_set.images, duration_s=0.5, pace_hz=40)
    assert 0.4 < time.perf_counter() - started < 2
    assert len(minute.samples_ns) + minute.n_dropped == pytest.approx(20, abs=1)
    assert np.median(minute.samples_ns) < 20e6  # the pause between runs is not timed


def test_frames_that_come_during_a_run_are_dropped(classifier, test_set, monkeypatch):
    slow_down(monkeypatch, 0.025)
    (minute,) = pace.sustain(classifier, test_set.images, duration_s=0.6, pace_hz=100)
    assert 12 <= len(minute.samples_ns) <= 22
    assert minute.n_dropped >= 30


def test_each_minute_is_yielded_when_it_ends(classifier, test_set, monkeypatch):
    monkeypatch.setattr(pace, "MINUTE_S", 0.2)
    minutes = list(pace.sustain(classifier, test_set.images, duration_s=0.5, pace_hz=None))
    assert [minute.number for minute in minutes] == [0, 1, 2]
    assert all(len(minute.samples_ns) > 10 for minute in minutes)
    assert minutes[0].p50_ms.value > 0


def test_few_runs_have_no_p90(classifier, test_set):
    (minute,) = pace.sustain(classifier, test_set.images, duration_s=0.4, pace_hz=40)
    assert minute.p50_ms.value is not None
    assert minute.p90_ms.value is None


def test_clock_and_temperature_are_read_where_they_can_be(classifier, test_set, monkeypatch):
    monkeypatch.setattr(machine, "clock_mhz", lambda: 1500.0)
    monkeypatch.setattr(machine, "temperature_c", lambda: None)
    (minute,) = pace.sustain(classifier, test_set.images, duration_s=0.1, pace_hz=None)
    assert (minute.clock_mhz, minute.temperature_c) == (1500.0, None)


def test_wrong_output_during_a_long_run_is_caught(classifier, test_set, monkeypatch):
    real, calls = Session.run, []

    def spoil_late(self, batch):
        calls.append(None)
        return real(self, batch) + (len(batch) == 1 and len(calls) > 100)

    monkeypatch.setattr(Session, "run", spoil_late)
    with pytest.raises(CheckFailedError, match="minute 1"):
        list(pace.sustain(classifier, test_set.images, duration_s=0.3, pace_hz=None))
