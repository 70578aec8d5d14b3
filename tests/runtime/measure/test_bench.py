import json
import time
from dataclasses import replace

import numpy as np
import pytest
import tiny

from convnet_edge.runtime import Classifier, selftest
from convnet_edge.runtime.errors import CheckFailedError, InputError, InterruptedRunError
from convnet_edge.runtime.measure import bench, cold_start, machine, result, timing
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.runtime.measure.options import BenchOptions
from convnet_edge.runtime.measure.verdict import Trace
from convnet_edge.runtime.session import Session, Settings

N = 400
TEST = ImageSet(tiny.images(N), tiny.labels(N).astype(np.uint8), "i" * 64, "l" * 64, "tiny")


@pytest.fixture(autouse=True, scope="module")
def short():
    """Stages whose length is of no interest here take moments."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("N_PROCESSES", 2), ("STEADY_S", 0.02), ("THROUGHPUT_S", 0.2)):
            patch.setattr(bench, name, value)
        yield


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny.grey())
    return path


def measure(path, *, test=TEST, checks=None, settings=None, first=None, kept=None, **options):
    classifier = Classifier(path, settings=settings or Settings(threads=1))
    kept = [] if kept is None else kept
    return bench.bench_model(
        classifier,
        BenchOptions(**{"batch_sizes": (1, 8), "duration_s": 0.1, "min_runs": 11, **options}),
        name=path.name,
        version="0",
        test=test,
        checks=selftest.run_selftest(classifier) if checks is None else checks,
        start=cold_start.Task(path),
        listener=bench.Listener(keep=kept.append),
        first=first,
    )


@pytest.fixture(scope="module")
def measured(model_path):
    return measure(model_path)


@pytest.fixture(scope="module")
def found(measured):
    return measured.result


def test_result_says_what_was_measured_on_what(found):
    assert found.schema == result.SCHEMA
    assert (found.provider.asked, found.provider.obtained, found.provider.tested) == (
        "cpu", "cpu", True,
    )  # fmt: skip
    assert (found.provider.threads, found.provider.n_copies) == (1, 0)
    assert set(found.provider.n_nodes_run) == {"CPU"}
    assert found.machine.versions["onnxruntime"]
    assert found.settings["batch_sizes"] == (1, 8)
    assert found.peak_memory_bytes > 10 << 20
    assert all(check.passed for check in found.checks)
    assert not found.interrupted
    assert found.failed is None


def test_accuracy_is_that_of_the_labels(found):
    assert found.accuracy.n_correct == N * 3 // 4
    assert found.accuracy.interval.low < found.accuracy.accuracy < found.accuracy.interval.high
    assert np.array(found.accuracy.confusion).sum() == N
    assert sum(row.n for row in found.accuracy.calibration.bins) == N
    assert found.accuracy.images_sha256 == TEST.images_sha256


def test_latency_holds_samples_and_only_the_percentiles_they_carry(found):
    assert [row.batch_size for row in found.latency] == [1, 8]
    for row in found.latency:
        kept = row.samples_ns or [count for _, count in row.histogram_ns]
        assert row.n_runs == (len(kept) if row.samples_ns else sum(kept))
        assert row.n_outputs_checked >= 1
        for percentile in row.percentiles_ms:
            assert (percentile.value is None) == (row.n_runs < percentile.floor)
        p50 = row.percentile(0.5).value
        assert row.share_of_bound == pytest.approx(found.cost.bound_ms * row.batch_size / p50)


def test_verdict_is_that_of_its_rows(found):
    rows = [row.verdict.status for row in found.latency]
    assert found.verdict.status == max(rows, key=["VALID", "NOISY", "INVALID"].index)
    texts = [reason.text for row in found.latency for reason in row.verdict.reasons]
    assert [reason.text for reason in found.verdict.reasons] == texts


def test_cold_start_and_throughput_are_of_each_batch_size(found):
    assert found.cold_start.n_processes == len(found.cold_start.processes) == 2
    for process in found.cold_start.processes:
        assert set(process.p50_ms) == {"1", "8"}
        assert process.batch_first_run_ms["8"] > 0
    rows = {(row.batch_size, row.n_callers) for row in found.throughput}
    assert {(1, 1), (8, 1)} <= rows
    assert all(row.images_per_s > 0 for row in found.throughput)


def test_without_test_images_there_is_no_accuracy(model_path):
    found = measure(model_path, test=None, quick=True)
    assert found.result.accuracy is None
    assert found.logits is None
    assert found.result.latency[0].n_outputs_checked >= 1
    assert found.result.throughput == ()


def test_failed_selftest_is_handed_out_and_nothing_is_timed(model_path):
    kept = []
    wrong = result.Check("golden vectors", False, "off by 1")
    with pytest.raises(CheckFailedError, match="golden vectors"):
        measure(model_path, checks=(wrong,), kept=kept)
    assert "golden vectors" in kept[-1].failed
    assert kept[-1].latency == ()
    assert kept[-1].checks == (wrong,)


def test_interrupted_run_hands_out_what_was_measured(model_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    kept = []
    monkeypatch.setattr(timing, "time_runs", interrupt)
    with pytest.raises(InterruptedRunError):
        measure(model_path, kept=kept)
    assert kept[-1].interrupted
    assert kept[-1].accuracy is not None
    assert kept[-1].verdict is None


def test_wrong_output_in_the_timed_loop_makes_the_result_invalid(model_path, monkeypatch):
    real = timing.time_runs

    def spoilt(run, feed, **options):
        return real(lambda batch: run(batch) + 1, feed, **options)

    monkeypatch.setattr(timing, "time_runs", spoilt)
    found = measure(model_path, quick=True)
    assert found.result.verdict.status == "INVALID"
    assert found.result.verdict.reasons[0].name == "wrong outputs"
    with pytest.raises(CheckFailedError, match="INVALID"):
        bench.require_believable([found.result], strict=False)


def test_noisy_is_a_failure_only_where_strict(found):
    noisy = replace(
        found, verdict=result.Verdict("NOISY", (result.Reason("drift", "NOISY", 1, 0.1, "it is"),))
    )
    bench.require_believable([noisy], strict=False)
    with pytest.raises(CheckFailedError, match="NOISY: it is"):
        bench.require_believable([noisy], strict=True)


def test_second_model_is_compared_on_the_same_images(measured, tmp_path):
    path = tmp_path / "second.onnx"
    path.write_bytes(tiny.grey_uint8())
    (pair,) = measure(path, first=measured, quick=True).result.pairs
    assert (pair.name, pair.n, pair.n_differing, pair.mcnemar_p) == ("tiny.onnx", N, 0, 1.0)
    assert len(pair.shown) == bench.GALLERY_SIZE
    with pytest.raises(InputError, match="test images"):
        measure(path, first=measured, test=None, quick=True)


def test_bound_runs_are_timed_with_their_copies_apart(model_path, monkeypatch):
    monkeypatch.setattr(bench, "N_SPLIT_RUNS", 5)
    found = measure(model_path, quick=True, io_binding=True).result
    assert found.provider.io_binding
    for row in found.latency:
        assert min(row.split.compute_ms, row.split.device_to_host_ms) > 0
        assert row.largest_output_error < 1e-5


def test_paced_run_tells_each_minute_apart(model_path, monkeypatch):
    monkeypatch.setattr(bench, "MINUTE_S", 0.2)
    monkeypatch.setattr(machine, "clock_mhz", lambda: 1500.0)
    monkeypatch.setattr(machine, "temperature_c", lambda: None)
    paced = measure(model_path, quick=True, sustain_s=0.5).result.paced
    assert [minute.minute for minute in paced.minutes] == [0, 1, 2]
    assert all(minute.n_runs > 10 and minute.p50_ms > 0 for minute in paced.minutes)
    assert (paced.minutes[0].clock_mhz, paced.minutes[0].temperature_c) == (1500.0, None)
    assert paced.penalty > 0
    assert (paced.n_late, paced.n_dropped) == (0, 0)


def test_wrong_output_during_a_long_run_is_caught(model_path, monkeypatch):
    real = Session.run

    def slow_then_wrong(self, batch):
        logits = real(self, batch)
        return logits + (len(batch) == 1 and time.perf_counter() > wrong_from[0])

    wrong_from = [float("inf")]
    monkeypatch.setattr(Session, "run", slow_then_wrong)
    monkeypatch.setattr(bench, "MINUTE_S", 0.1)
    real_sustain = bench._sustain

    def sustain(run):
        wrong_from[0] = time.perf_counter() + 0.15
        real_sustain(run)

    monkeypatch.setattr(bench, "_sustain", sustain)
    with pytest.raises(CheckFailedError, match="minute"):
        measure(model_path, quick=True, sustain_s=0.5)


def test_result_stays_small_however_many_runs_there_are():
    samples = np.random.default_rng(0).lognormal(11, 1, 200_000).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(samples)[:-1]])
    timed = timing.Timing(Trace(samples, starts, 0, 30.0), 10, 20.0, 20.0, 64, 0, 0)
    rows = [bench.latency_row(timed, 1, n_rows=4) for _ in range(4)]
    assert len(json.dumps(result.as_json(rows), indent=2)) < 200_000
    counts = np.array(rows[0].histogram_ns)
    assert counts[:, 1].sum() == len(samples)
    middle = np.searchsorted(counts[:, 1].cumsum(), len(samples) / 2)
    assert counts[middle, 0] == pytest.approx(np.median(samples), rel=0.02)
