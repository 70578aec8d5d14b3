import numpy as np
import pytest

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.measure import machine, throughput
from convnet_edge.runtime.measure.throughput import Load, Throughput
from convnet_edge.runtime.session import Session, Settings


@pytest.fixture
def opened(model_bytes):
    return {1: Classifier(model_bytes, threads=1)}


def test_each_load_is_measured_in_each_round_in_turn(opened, test_set, monkeypatch):
    order = []
    monkeypatch.setattr(
        throughput, "_measure", lambda _c, _f, load, _s: order.append(load) or len(order)
    )
    loads = (Load(1, 1, 1), Load(4, 1, 2))
    rows = throughput.measure_throughput(opened, test_set.images, loads, duration_s=1, n_rounds=3)
    assert order == [*loads, *loads, *loads]
    assert rows[0].rounds_images_per_s == (1, 3, 5)
    assert rows[1].images_per_s == 4


@pytest.mark.parametrize("n_callers", [1, 3])
def test_throughput_counts_the_images_that_were_run(opened, test_set, monkeypatch, n_callers):
    real, sizes = Session.run, []
    monkeypatch.setattr(Session, "run", lambda s, batch: sizes.append(len(batch)) or real(s, batch))
    (row,) = throughput.measure_throughput(
        opened, test_set.images, [Load(4, 1, n_callers)], duration_s=0.6, n_rounds=2
    )
    n_images = sum(size for size in sizes if size == 4)
    assert row.images_per_s == pytest.approx(n_images / 0.6, rel=0.5)


def test_wrong_output_of_any_caller_is_caught(opened, test_set, monkeypatch):
    real = Session.run

    def spoil(self, batch):
        logits = real(self, batch).copy()
        return logits + (len(batch) == 3)

    monkeypatch.setattr(Session, "run", spoil)
    with pytest.raises(CheckFailedError, match="batch size 3 with 2 callers"):
        throughput.measure_throughput(opened, test_set.images, [Load(3, 1, 2)], duration_s=0.2)


def test_failure_of_a_caller_reaches_the_one_who_asked(opened, test_set, monkeypatch):
    real = Session.run

    def fail(self, batch):
        if len(batch) == 3:
            raise InputError("no", expected="yes", next_step="-")
        return real(self, batch)

    monkeypatch.setattr(Session, "run", fail)
    with pytest.raises(InputError):
        throughput.measure_throughput(opened, test_set.images, [Load(3, 1, 2)], duration_s=0.2)


def test_tuning_searches_no_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 6)
    loads = throughput.tuning_loads()
    assert all(load.threads * load.n_callers <= 6 for load in loads)
    assert Load(64, 6, 1) in loads
    assert Load(64, 1, 6) in loads
    assert len(set(loads)) == len(loads)


def rows_of(speeds):
    return tuple(Throughput(load, tuple(rounds)) for load, rounds in speeds.items())


def test_tuning_keeps_the_default_unless_another_wins_every_round(
    model_bytes, test_set, monkeypatch
):
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    speeds = {
        Load(1, 2, 1): (10, 10, 10),
        Load(1, 1, 1): (30, 30, 9),
        Load(64, 2, 1): (50, 50, 50),
        Load(64, 1, 2): (60, 70, 80),
    }
    monkeypatch.setattr(throughput, "measure_throughput", lambda *_, **__: rows_of(speeds))
    tuning, _ = throughput.tune(model_bytes, Settings(), "cpu", test_set.images)
    assert tuning.threads == 2
    assert (tuning.batch_size, tuning.throughput_threads, tuning.n_callers) == (64, 1, 2)
    speeds[Load(1, 1, 1)] = (30, 30, 11)
    speeds[Load(64, 1, 2)] = (60, 49, 80)
    tuning, _ = throughput.tune(model_bytes, Settings(), "cpu", test_set.images)
    assert tuning.threads == 1
    assert (tuning.throughput_threads, tuning.n_callers) == (2, 1)


def test_tuning_opens_the_model_once_for_each_thread_count(model_bytes, test_set, monkeypatch):
    monkeypatch.setattr(throughput, "TUNE_S", 0.5)
    tuning, rows = throughput.tune(model_bytes, Settings(), "cpu", test_set.images)
    assert {row.load for row in rows} == set(throughput.tuning_loads())
    assert all(np.all(np.array(row.rounds_images_per_s) > 0) for row in rows)
    assert 1 <= tuning.threads <= machine.usable_cores()
