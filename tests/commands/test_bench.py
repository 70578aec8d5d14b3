import json
import subprocess
import sys
import time
from dataclasses import replace

import faults
import numpy as np
import pytest
from convnet_edge.runtime.measure.latency import Latency

from convnet_edge.commands import bench as bench_module
from convnet_edge.reporting import results
from convnet_edge.runtime.measure import document, machine, throughput, tuning
from convnet_edge.runtime.measure.options import BenchOptions
from convnet_edge.runtime.measure.verdict import Trace
from convnet_edge.runtime.session import Session


@pytest.fixture(scope="module", autouse=True)
def short():
    """Stages whose length is of no interest here take moments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_module, "N_PROCESSES", 2)
        patch.setattr(bench_module, "STEADY_S", 0.02)
        patch.setattr(bench_module, "THROUGHPUT_S", 0.4)
        patch.setattr(bench_module, "QUICK_DURATION_S", 0.02)
        patch.setattr(throughput, "TUNE_S", 0.4)
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures, which take a second a run, are not made."""
    monkeypatch.setattr(bench_module, "_draw", lambda *_: ())


@pytest.fixture(scope="module")
def measured(exported, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "result.json"
    config = BenchOptions(
        models=(exported.model_path,), threads=1, batch_sizes=(1, 8), duration_s=0.3, out=out
    )
    (result,) = bench_module.bench(config)
    return result


@pytest.fixture(scope="module")
def stored(measured):
    return json.loads(measured.result_path.read_text())


def test_result_says_what_was_measured_on_what(stored, exported):
    assert stored["schema"] == "convnet-edge/bench/2"
    assert stored["model"]["model_sha256"] == exported.report.model_sha256
    assert stored["model"]["n_multiplications"] == 2_215_168
    provider = stored["provider"]
    assert (provider["asked"], provider["obtained"], provider["tested"]) == ("cpu", "cpu", True)
    assert provider["threads"] == 1
    assert provider["n_copies"] == 0
    assert set(provider["n_nodes_run"]) == {"CPU"}
    assert provider["placement"] is None or len(provider["placement"]["CPUExecutionProvider"]) >= 10
    assert stored["machine"]["versions"]["onnxruntime"]
    assert len(stored["machine"]["id"]) == 16
    assert stored["settings"]["batch_sizes"] == [1, 8]
    assert stored["peak_memory_bytes"] > 10 << 20
    assert all(check["passed"] for check in stored["checks"])


def test_stored_result_reads_back_as_it_was_written(measured):
    found = results.read_result(measured.result_path).document
    assert (
        found["latency"][0]["percentiles_ms"] == measured.document["latency"][0]["percentiles_ms"]
    )
    assert found["verdict"]["status"] == measured.verdict.status
    assert found["cold_start"]["processes"][0]["total_ms"] > 0


def test_accuracy_has_interval_classes_confusion_and_calibration(stored, exported):
    found = stored["accuracy"]
    assert found["n_correct"] == exported.score.n_correct
    assert found["interval"]["low"] < found["accuracy"] < found["interval"]["high"]
    assert found["classes"][0]["label"] == "T-Shirt"
    assert np.array(found["confusion"]).sum() == 10_000
    assert 0 < found["calibration"]["error"] < 0.5
    assert sum(row["n"] for row in found["calibration"]["bins"]) == 10_000


def test_latency_holds_samples_and_only_the_percentiles_they_carry(stored):
    for row in stored["latency"]:
        n = row["n_runs"]
        assert n >= BenchOptions.min_runs
        kept = row.get("samples_ns") or row["histogram_ns"]
        assert n == (len(kept) if "samples_ns" in row else sum(c for _, c in kept))
        assert row["n_outputs_checked"] >= 1
        for percentile in row["percentiles_ms"]:
            assert (percentile["value"] is None) == (n < percentile["floor"])


def test_verdict_of_the_result_is_that_of_its_rows(stored):
    rows = [row["verdict"]["status"] for row in stored["latency"]]
    assert stored["verdict"]["status"] == max(rows, key=["VALID", "NOISY", "INVALID"].index)
    reasons = [reason for row in stored["latency"] for reason in row["verdict"]["reasons"]]
    assert [r["text"] for r in stored["verdict"]["reasons"]] == [r["text"] for r in reasons]


def test_cost_is_stated_with_the_bound_and_each_share_of_it(stored):
    assert stored["cost"]["bound_ms"] > 0
    for row in stored["latency"]:
        p50 = row["percentiles_ms"][0]["value"]
        share = stored["cost"]["bound_ms"] * row["batch_size"] / p50
        assert row["share_of_bound"] == pytest.approx(share)


def test_cold_start_is_of_fresh_processes_at_each_batch_size(stored):
    assert stored["cold_start"]["n_processes"] == len(stored["cold_start"]["processes"]) == 2
    for row in stored["cold_start"]["processes"]:
        assert set(row["p50_ms"]) == {"1", "8"}
        assert row["batch_first_run_ms"]["8"] > 0


def test_throughput_is_measured_by_batch_and_callers(stored):
    rows = {(row["batch_size"], row["n_callers"]) for row in stored["throughput"]}
    assert {(1, 1), (8, 1)} <= rows
    assert all(row["images_per_s"] > 0 for row in stored["throughput"])


def test_pictures_are_drawn(measured):
    names = {picture.path.name.split(".")[1] for picture in measured.pictures}
    assert names == {"latency", "confusion", "reliability", "predictions"}
    for picture in measured.pictures:
        assert picture.path.read_bytes().startswith(b"\x89PNG")


def latency_of(samples):
    starts = np.concatenate([[0], np.cumsum(samples)[:-1]])
    return Latency(1, 10, Trace(samples, starts, 0, 30.0), 20.0, 20.0, 64)


def test_result_stays_small_however_many_runs_there_are():
    samples = np.random.default_rng(0).lognormal(11, 1, 200_000).astype(np.int64)
    rows = [document.latency_json(latency_of(samples), n_rows=4) for _ in range(4)]
    assert len(json.dumps(rows, indent=2)) < 200_000
    histogram = np.array(rows[0]["histogram_ns"])
    assert histogram[:, 1].sum() == len(samples)
    middle = np.searchsorted(histogram[:, 1].cumsum(), len(samples) / 2)
    assert histogram[middle, 0] == pytest.approx(np.median(samples), rel=0.02)


def test_raw_samples_stay_small_too():
    samples = np.full(document.MAX_RAW_SAMPLES, 12_345_678, np.int64)
    row = document.latency_json(latency_of(samples), n_rows=1)
    assert row["samples_ns"] == samples.tolist()
    assert len(json.dumps({"latency": [row]}, indent=2)) < 190_000


SHORT = ("--duration", "0.05", "--min-runs", "11", "--threads", "1", "--out", "r.json")


def test_json_is_one_document_on_stdout(undrawn, run, exported):
    result = run("bench", exported.model_path, *SHORT, "--batch-sizes", "4", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["batch_size"] for row in found["latency"]] == [4]


def test_text_shows_provider_accuracy_and_what_is_missing(undrawn, run, exported):
    result = run("bench", exported.model_path, *SHORT, "--batch-sizes", "64", "--profile")
    assert result.exit_code == 0, result.output
    assert "on cpu" in result.stdout
    assert "95 % interval" in result.stdout
    assert "n/a (needs 6,636)" in result.stdout
    assert "2,215,168 multiplications an image" in result.stdout
    assert result.stdout.index("cost: ") < result.stdout.index("Latency in ms")
    assert "Profile of one image" in result.stdout
    assert "verdict: " in result.stdout
    assert result.stdout.rstrip().endswith("next: convnet-edge report r.json")


@pytest.mark.skipif(bool(machine.gpu_names()), reason="a GPU is here")
def test_cuda_where_there_is_none_is_exit_2_with_the_reason(run, exported, tmp_path):
    result = run("bench", exported.model_path, "--provider", "cuda")
    assert result.exit_code == 2
    assert "asked for cuda, which cannot be opened here: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_altered_golden_is_not_timed_and_the_result_says_why(run, model_bytes, tmp_path):
    def alter(document):
        document["goldens"]["logits"][0][0] += 0.01

    path = tmp_path / "altered.onnx"
    path.write_bytes(faults.change_document(model_bytes, alter))
    result = run("bench", path, "--out", "r.json")
    assert result.exit_code == 1
    document = json.loads((tmp_path / "r.json").read_text())
    assert "golden vectors" in document["failed"]
    assert "latency" not in document
    assert "accuracy" not in document


def test_wrong_outputs_while_timing_are_invalid_exit_1_and_recorded(
    undrawn, run, exported, tmp_path, monkeypatch
):
    real = Session.run
    calls = []

    def spoil_late(self, batch):
        calls.append(len(batch))
        logits = real(self, batch).copy()
        if len(batch) == 5 and calls.count(5) > 12:
            logits += 1.0
        return logits

    monkeypatch.setattr(Session, "run", spoil_late)
    monkeypatch.setattr(bench_module, "_measure_throughput", lambda run: None)
    result = run("bench", exported.model_path, *SHORT, "--batch-sizes", "5")
    assert result.exit_code == 1
    assert "is INVALID: a timed run gave logits off by" in result.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["verdict"]["status"] == "INVALID"
    assert found["verdict"]["reasons"][0]["name"] == "wrong outputs"
    assert found["verdict"]["reasons"][0]["batch_size"] == 5


def noisy(monkeypatch):
    monkeypatch.setattr(machine, "involuntary_switches", iter(range(10**9)).__next__)
    monkeypatch.setattr(machine, "waited_ns", lambda: None)


def test_noisy_is_exit_0_unless_strict(undrawn, run, exported, monkeypatch):
    noisy(monkeypatch)
    command = ("bench", exported.model_path, *SHORT, "--batch-sizes", "1", "--quick")
    relaxed = run(*command)
    assert relaxed.exit_code == 0, relaxed.output
    assert "verdict: NOISY" in relaxed.stdout
    assert "the kernel took a core away in 100.0% of the runs" in relaxed.stdout
    strict = run(*command, "--strict")
    assert strict.exit_code == 1
    assert "is NOISY" in strict.stderr


def test_a_stray_node_is_invalid_unless_allowed(undrawn, run, exported, monkeypatch):
    real = bench_module.profile.profile

    def stray(*arguments):
        first, *others = real(*arguments)
        return (replace(first, provider="Other"), *others)

    monkeypatch.setattr(bench_module.profile, "profile", stray)
    command = ("bench", exported.model_path, *SHORT, "--batch-sizes", "1", "--quick")
    result = run(*command)
    assert result.exit_code == 1
    assert "nodes that did not run on cpu: 1 (" in result.stderr
    assert run(*command, "--allow-cpu-nodes").exit_code == 0


@pytest.mark.slow
def test_two_busy_processes_turn_the_verdict_to_noisy(run, exported, tmp_path):
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
            for _ in range(2 * machine.usable_cores())]  # fmt: skip
    try:
        command = ("bench", exported.model_path, "--quick", "--duration", "2", "--out", "r.json")
        assert run(*command).exit_code == 0
        assert run(*command, "--strict").exit_code == 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["verdict"]["status"] == "NOISY"
    assert "interrupted runs" in {reason["name"] for reason in found["verdict"]["reasons"]}


def test_interrupted_bench_keeps_what_it_measured(run, exported, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_module, "_start_cold", interrupt)
    result = run("bench", exported.model_path, *SHORT)
    assert result.exit_code == 130
    assert "what was measured until then is in r.json" in result.stderr
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["interrupted"] is True
    assert found["accuracy"]["n"] == 10_000
    assert results.read_result(tmp_path / "r.json").document["interrupted"] is True


def test_killed_bench_leaves_what_it_measured(exported, tmp_path):
    command = [
        sys.executable,
        "-m",
        "convnet_edge",
        "bench",
        str(exported.model_path),
        "--out",
        "r.json",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    path, deadline = tmp_path / "r.json", time.monotonic() + 60
    while not (path.exists() and "cold_start" in path.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    found = results.read_result(path).document
    assert found["interrupted"] is True
    assert found["accuracy"]["n"] == 10_000
    assert found["verdict"] is None


def test_unwritable_result_is_exit_2_before_anything_is_measured(run, exported, monkeypatch):
    monkeypatch.setattr(bench_module, "_score", lambda _: pytest.fail("measured"))
    result = run("bench", exported.model_path, "--out", "/proc/absent/r.json")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_several_models_are_paired_with_the_first(run, exported, quantised, tmp_path):
    other = quantised["ort-cpu"].model_path
    result = run("bench", exported.model_path, other, "--quick", "--threads", "1")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "benchmarks" / "results"
    assert (folder / f"{other.stem}-cpu.differences.png").stat().st_size > 5_000
    found = json.loads((folder / f"{other.stem}-cpu.json").read_text())
    (pair,) = found["pairs"]
    assert pair["name"] == exported.model_path.name
    assert pair["n_differing"] == len(pair["differing"]) > 0
    shown = pair["shown"]
    assert len(shown) == bench_module.GALLERY_SIZE
    assert set(shown) <= set(pair["differing"]) or set(pair["differing"]) <= set(shown)
    scores = [json.loads((folder / f"{stem}-cpu.json").read_text())["accuracy"]["n_correct"]
              for stem in (exported.model_path.stem, other.stem)]  # fmt: skip
    assert pair["n_gained"] - pair["n_lost"] == scores[1] - scores[0]
    assert f"against {exported.model_path.name}: " in result.stdout
    assert "pairs" not in json.loads((folder / f"{exported.model_path.stem}-cpu.json").read_text())


def test_gallery_shows_equal_models_nearest_to_flipping():
    logits = np.array([[3.0, 1.0, 0.0], [1.0, 0.9, 0.0], [0.0, 5.0, 4.0]] * 8)
    shown = bench_module._most_differing(logits, logits)
    assert shown[:8].tolist() == [1, 4, 7, 10, 13, 16, 19, 22]


def test_paced_run_is_told_by_minute_with_its_penalty(run, exported, tmp_path):
    result = run("bench", exported.model_path, *SHORT, "--batch-sizes", "1", "--quick",
                 "--pace", "50hz", "--sustain", "0.5s")  # fmt: skip
    assert result.exit_code == 0, result.output
    paced = json.loads((tmp_path / "r.json").read_text())["paced"]
    assert (paced["pace_hz"], paced["duration_s"]) == (50, 0.5)
    (minute,) = paced["minutes"]
    assert minute["n_runs"] + paced["n_dropped"] == pytest.approx(25, abs=2)
    assert minute["p50_ms"] > 0
    assert paced["penalty"] > 0
    assert "frames dropped" in result.stdout
    assert (tmp_path / "r.minutes.png").exists()


def test_tuning_is_kept_beside_the_model_and_used(undrawn, run, exported, model_bytes, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_bytes)
    result = run("bench", path, "--quick", "--tune", "--out", "r.json")
    assert result.exit_code == 0, result.output
    kept = tuning.read(path, model_bytes, "cpu")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["tuning"]["threads"] == kept.threads == found["provider"]["threads"]
    assert len(found["tuning"]["searched"]) == len(throughput.tuning_loads())
    assert "kept for this machine" in result.stdout


def test_io_binding_times_copies_apart(undrawn, run, exported, tmp_path):
    result = run("bench", exported.model_path, *SHORT, "--batch-sizes", "8", "--io-binding")
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "r.json").read_text())["latency"]
    assert set(row["split"]) == {"host_to_device_ms", "compute_ms", "device_to_host_ms"}
    assert row["split"]["compute_ms"] > row["split"]["host_to_device_ms"] > 0
    assert "through bound buffers: host to device" in result.stdout


@pytest.mark.slow
def test_loadgen_is_shown_with_its_logs(undrawn, run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_module, "LOADGEN_S", 0.3)
    result = run("bench", exported.model_path, *SHORT, "--quick", "--loadgen")
    assert result.exit_code == 0, result.output
    runs = json.loads((tmp_path / "r.json").read_text())["loadgen"]
    assert {(row["scenario"], row["mode"]) for row in runs} == {
        (scenario, mode)
        for scenario in ("single-stream", "offline")
        for mode in ("accuracy", "performance")
    }
    assert "LoadGen single-stream performance: " in result.stdout
    assert (tmp_path / "r.loadgen" / "offline-accuracy" / "mlperf_log_accuracy.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch-sizes", "0"],
        ["--batch-sizes", "a,b"],
        ["--batch-sizes", ""],
        ["--batch-sizes", "5000"],
        ["--duration", "0"],
        ["--duration", "nan"],
        ["--threads", "0"],
        ["--provider", "tpu"],
        ["--min-runs", "10"],
        ["--pace", "fast"],
        ["--pace", "0hz"],
        ["--sustain", "10 parsecs"],
        ["--cuda-graph"],
        ["--tf32"],
    ],
)
def test_nonsense_options_are_exit_2(run, exported, arguments):
    assert run("bench", exported.model_path, *arguments).exit_code == 2
