import json
import time
from dataclasses import replace

import numpy as np
import pytest
import tiny
from results import read as read_result

from convnet_edge.runtime import Classifier, selftest
from convnet_edge.runtime.errors import CheckFailedError, InputError, InterruptedRunError
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure import bench, cold_start, cost, machine, result, tables, timing
from convnet_edge.runtime.measure.check import Check
from convnet_edge.runtime.measure.options import BenchOptions
from convnet_edge.runtime.session import Session, Settings

N = 400
TEST = tiny.image_set(N)
SHORT = {"N_PROCESSES": 1, "STEADY_S": 0.02, "THROUGHPUT_S": 0.2, "QUICK_DURATION_S": 0.05,
         "MAX_RAW_SAMPLES": 1_000_000}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def short():
    """Stages whose length is of no interest here take moments."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SHORT.items():
            patch.setattr(bench, name, value)
        patch.setattr(cost, "SIDE", 128)
        patch.setattr(cost, "N_PROFILED", 10)
        yield


def measure(path, *, test=TEST, settings=None, checks=None, first=None, heard=None, **options):
    """Bench the model; `heard` gets each stage, its shares, and each result handed out."""
    classifier = Classifier(path, settings=settings or Settings(threads=1))
    heard = heard or (lambda _: None)
    return bench.bench_model(
        classifier,
        BenchOptions(**{"batch_sizes": (1, 8), "duration_s": 0.1, "min_runs": 11, **options}),
        name=path.name,
        version="0",
        test=test,
        checks=checks or selftest.run_selftest(classifier),
        start=cold_start.Task(path),
        listener=bench.Listener(stage=heard, keep=heard, share=heard),
        first=first,
    )


@pytest.fixture(scope="module")
def heard():
    """All that was heard of the one long run."""
    return []


@pytest.fixture(scope="module")
def measured(tmp_path_factory, heard):
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny.grey())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "N_PROCESSES", 2)
        patch.setattr(bench, "MINUTE_S", 0.2)
        patch.setattr(machine, "clock_mhz", lambda: 1500.0)
        patch.setattr(machine, "temperature_c", lambda: None)
        patch.setattr(machine, "mapped_gpu_libraries", lambda: ["libcudart.so.13"])  # as by torch
        patch.setattr(bench, "N_SCORED_AT_ONCE", 256)
        return measure(path, sustain_s=0.5, heard=heard.append)


@pytest.fixture(scope="module")
def found(measured):
    return measured.result


def test_result_says_what_was_measured_on_what(found):
    ran = found.provider
    assert (ran.asked, ran.obtained, ran.tested, ran.threads) == ("cpu", "cpu", True, 1)
    assert (set(ran.n_nodes_run), ran.n_copies) == ({"CPU"}, 0)
    assert ran.gpu_libraries is None  # another package's are not those of a result on the CPU
    assert found.machine.versions["onnxruntime"]
    assert found.settings["batch_sizes"] == (1, 8)
    assert not {"models", "out", "provider"} & set(found.settings)
    assert found.peak_memory_bytes > 10 << 20
    assert all(check.passed for check in found.checks)
    assert (found.interrupted, found.failed) == (False, None)


def test_result_is_read_whole(found, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(as_json(found)))
    assert as_json(read_result(path)) == json.loads(path.read_text())


def test_every_long_stage_says_how_much_of_it_is_done(found, heard):
    shares = {}
    for what in heard:
        if isinstance(what, str):
            stage = what.partition(" ")[0]
        elif isinstance(what, float):
            shares.setdefault(stage, []).append(what)
    assert shares["accuracy"] == [0.64, 1.0]
    for stage in ("cold", "throughput", "one"):  # rows of latency last for less than a word here
        assert shares[stage] == sorted(shares[stage])
        assert 0 < shares[stage][0] <= shares[stage][-1] <= 1


def test_accuracy_is_that_of_the_labels(found):
    assert found.accuracy.n_correct == N * 3 // 4
    assert np.array(found.accuracy.confusion).sum() == N
    assert sum(row.n for row in found.accuracy.calibration.bins) == N
    assert found.accuracy.test_sha256 == TEST.sha256


def test_latency_holds_samples_only_the_percentiles_they_carry_and_verdicts(found):
    assert [row.batch_size for row in found.latency] == [1, 8]
    for row in found.latency:
        assert row.n_runs == len(row.samples_ns)
        assert row.n_outputs_checked >= 1
        for percentile in row.percentiles_ms:
            assert (percentile.value is None) == (row.n_runs < percentile.floor)
        p50 = row.percentile(0.5).value
        assert row.share_of_bound == pytest.approx(found.cost.bound_ms * row.batch_size / p50)
    rows = [row.verdict.status for row in found.latency]
    assert found.verdict.status == max(rows, key=["VALID", "NOISY", "INVALID"].index)
    texts = [reason.text for row in found.latency for reason in row.verdict.reasons]
    assert [reason.text for reason in found.verdict.reasons] == texts


def test_models_of_different_test_images_are_not_paired(measured, tiny_model):
    other = replace(TEST, sha256="ee" * 32)
    with pytest.raises(InputError, match="and the same test images for both"):
        measure(tiny_model, test=other, first=measured, quick=True)


def test_peak_of_a_busy_moment_is_no_bound(tiny_model, monkeypatch):
    peaks = iter([1e6, 1e12, 1e5])
    monkeypatch.setattr(cost, "measure_peak", lambda *_, **__: next(peaks))
    found = measure(tiny_model, quick=True).result
    assert found.cost.peak_multiplications_per_s == 1e12
    assert all(0 < row.share_of_bound < 1 for row in found.latency)
    low = replace(found.latency[0], share_of_bound=1.12)
    latency = {table.name: table for table in tables.tables_of(replace(found, latency=(low,)))}
    assert ("of the bound", "no bound") in latency["latency"].rows


def test_cold_start_and_throughput_are_of_each_batch_size(found):
    assert found.cold_start.n_processes == len(found.cold_start.processes) == 2
    assert all(set(process.p50_ms) == {"1", "8"} for process in found.cold_start.processes)
    rows = {(row.batch_size, row.n_callers) for row in found.throughput}
    assert {(1, 1), (8, 1)} <= rows
    assert all(row.images_per_s > 0 for row in found.throughput)


def test_paced_run_tells_each_minute_apart(found):
    paced = found.paced
    assert [minute.minute for minute in paced.minutes] == [0, 1, 2]
    assert all(minute.n_runs > 10 and minute.p50_ms > 0 for minute in paced.minutes)
    assert (paced.minutes[0].clock_mhz, paced.minutes[0].temperature_c) == (1500.0, None)
    assert paced.penalty > 0
    assert (paced.n_late, paced.n_dropped) == (0, 0)


def test_quick_run_without_test_images_keeps_a_histogram_of_many_samples(tiny_model, monkeypatch):
    monkeypatch.setattr(bench, "MAX_RAW_SAMPLES", 2 * timing.MIN_RUNS - 2)
    found = measure(tiny_model, test=None, quick=True)
    assert (found.logits, found.result.accuracy, found.result.throughput) == (None, None, ())
    for row in found.result.latency:
        assert row.samples_ns is None
        assert sum(count for _, count in row.histogram_ns) == row.n_runs
        assert row.n_outputs_checked >= 1


def test_histogram_stays_small_and_true_however_many_runs_there_are():
    samples = np.random.default_rng(0).lognormal(11, 1, 200_000).astype(np.int64)
    counts = np.array(bench.histogram(samples))
    assert len(json.dumps([counts.tolist()] * 4, indent=2)) < 200_000
    assert counts[:, 1].sum() == len(samples)
    middle = np.searchsorted(counts[:, 1].cumsum(), len(samples) / 2)
    assert counts[middle, 0] == pytest.approx(np.median(samples), rel=0.02)


def test_checks_that_failed_are_listed_and_nothing_is_timed(tiny_model):
    golden, held = Check("golden vectors", False, "0.4 > 1e-5"), Check("digest", True, "x")
    checks, heard = (held, golden, Check("pictures", False, "9 > 0")), []
    with pytest.raises(CheckFailedError, match=r"not timed: golden .* \(and 1 more\)") as caught:
        measure(tiny_model, checks=checks, heard=heard.append)
    assert caught.value.details == ("[x] golden vectors: 0.4 > 1e-5", "[x] pictures: 9 > 0")
    (kept,) = heard
    assert kept.failed == caught.value.line
    assert (kept.interrupted, kept.latency) == (False, ())


def test_interrupted_run_hands_out_what_was_measured(tiny_model):
    heard = []

    def interrupt(what):
        heard.append(what)
        if what == "latency, batch 1":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        measure(tiny_model, heard=interrupt, batch_sizes=(1,))
    assert heard[-1].interrupted
    assert heard[-1].accuracy is not None
    assert heard[-1].verdict is None


def test_wrong_output_in_the_timed_loop_makes_the_result_invalid(tiny_model, monkeypatch):
    real = timing.time_runs

    def spoilt(run, feed, **options):
        return real(lambda batch: run(batch) + 1, feed, **options)

    monkeypatch.setattr(timing, "time_runs", spoilt)
    found = measure(tiny_model, quick=True).result
    assert found.settings["batch_sizes"] == bench.QUICK_BATCH_SIZES == (1, 64)
    assert found.verdict.reasons[0].name == "wrong outputs"
    with pytest.raises(CheckFailedError, match="INVALID"):
        bench.require_believable([found], strict=False)


@pytest.mark.parametrize("allowed", [False, True])
def test_nodes_that_strayed_are_invalid_unless_allowed(tiny_model, monkeypatch, allowed):
    ran = (("Conv", "CUDA"), ("MemcpyToHost", "CPU"), ("MemcpyFromHost", "CPU"))
    nodes = tuple(result.NodeTime("n", op_type, provider, 1, 0.3) for op_type, provider in ran)
    monkeypatch.setattr(cost, "profile", lambda *_: nodes)
    settings = Settings(threads=1, allow_cpu_nodes=allowed)
    found = measure(tiny_model, quick=True, settings=settings).result
    assert (found.provider.n_nodes_run, found.provider.n_copies) == ({"CPU": 2, "CUDA": 1}, 2)
    names = {reason.name for reason in found.verdict.reasons if reason.status == "INVALID"}
    assert names == (set() if allowed else {"wrong provider"})


def test_second_model_is_compared_on_the_same_images(measured, tmp_path):
    path = tmp_path / "second.onnx"
    path.write_bytes(tiny.grey_uint8())
    (pair,) = measure(path, first=measured, quick=True).result.pairs
    assert (pair.name, pair.n, pair.n_differing, pair.mcnemar_p) == ("tiny.onnx", N, 0, 1.0)
    assert pair.model_sha256 == measured.result.model.model_sha256
    assert len(pair.shown) == bench.GALLERY_SIZE
    with pytest.raises(InputError, match="test images"):
        measure(path, first=measured, test=None, quick=True)


def test_bound_runs_are_timed_with_their_copies_apart(tiny_model, monkeypatch):
    monkeypatch.setattr(bench, "N_SPLIT_RUNS", 5)
    found = measure(tiny_model, quick=True, io_binding=True).result
    assert found.provider.io_binding
    for row in found.latency:
        assert min(row.split.compute_ms, row.split.device_to_host_ms) > 0
        assert row.largest_output_error < 1e-5


def test_wrong_output_during_a_long_run_is_caught(tiny_model, monkeypatch):
    real, wrong_from = Session.run, [float("inf")]

    def begin(what):
        if str(what).startswith("one image a run"):
            wrong_from[0] = time.perf_counter() + 0.15

    monkeypatch.setattr(
        Session, "run", lambda s, b: real(s, b) + float(time.perf_counter() > wrong_from[0])
    )
    monkeypatch.setattr(bench, "MINUTE_S", 0.1)
    with pytest.raises(CheckFailedError, match="minute"):
        measure(tiny_model, quick=True, sustain_s=0.5, heard=begin)
