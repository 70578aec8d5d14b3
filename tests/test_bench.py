import json

import faults
import numpy as np
import pytest

from convnet_edge import bench as bench_module
from convnet_edge.config import BenchConfig
from convnet_edge.runtime import machine
from convnet_edge.runtime.latency import Latency
from convnet_edge.runtime.session import Session


@pytest.fixture(scope="module")
def measured(exported, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "result.json"
    config = BenchConfig(
        model=exported.model_path, threads=1, batch_sizes=(1, 8), duration_s=0.3, out=out
    )
    return bench_module.bench(config)


def test_result_says_what_was_measured_on_what(measured, exported):
    document = json.loads(measured.result_path.read_text())
    assert document["model"]["model_sha256"] == exported.sha256
    assert document["provider"]["obtained"] == "cpu"
    assert document["provider"]["threads"] == 1
    placement = document["provider"]["placement"]
    assert placement is None or len(placement["CPUExecutionProvider"]) >= 10
    assert document["machine"]["versions"]["onnxruntime"]
    assert document["session"]["create_ms"] > 0
    assert document["session"]["first_run_ms"] > 0
    assert document["peak_memory_bytes"] > 10 << 20
    assert all(check["passed"] for check in document["checks"])


def test_accuracy_has_interval_classes_and_confusion(measured, exported):
    found = json.loads(measured.result_path.read_text())["accuracy"]
    assert found["n_correct"] == exported.score.n_correct
    assert found["interval"]["low"] < found["accuracy"] < found["interval"]["high"]
    assert found["classes"][0]["label"] == "T-Shirt"
    assert np.array(found["confusion"]).sum() == 10_000


def test_latency_holds_samples_and_only_the_percentiles_they_carry(measured):
    for row in json.loads(measured.result_path.read_text())["latency"]:
        n = row["n_runs"]
        kept = row.get("samples_ns") or row["histogram_ns"]
        assert n == (len(kept) if "samples_ns" in row else sum(c for _, c in kept))
        assert row["n_outputs_checked"] >= 1
        for percentile in row["percentiles_ms"]:
            assert (percentile["value"] is None) == (n < percentile["floor"])


def test_pictures_are_drawn(measured):
    assert len(measured.pictures) == 3
    for picture in measured.pictures:
        assert picture.path.read_bytes().startswith(b"\x89PNG")


def test_result_stays_small_however_many_runs_there_are():
    samples = np.random.default_rng(0).lognormal(11, 1, 200_000).astype(np.int64)
    rows = [
        bench_module.latency_json(
            Latency(size, 10, samples, 20.0, 64, 0.0),
            max_raw_samples=bench_module.MAX_RAW_SAMPLES // 4,
        )
        for size in (1, 8, 64, 256)
    ]
    assert len(json.dumps(rows, indent=2)) < 200_000
    histogram = np.array(rows[0]["histogram_ns"])
    assert histogram[:, 1].sum() == len(samples)
    middle = np.searchsorted(histogram[:, 1].cumsum(), len(samples) / 2)
    assert histogram[middle, 0] == pytest.approx(np.median(samples), rel=0.02)


def test_raw_samples_stay_small_too():
    samples = np.full(bench_module.MAX_RAW_SAMPLES, 12_345_678, np.int64)
    row = bench_module.latency_json(
        Latency(1, 10, samples, 20.0, 64, 0.0), max_raw_samples=len(samples)
    )
    assert row["samples_ns"] == samples.tolist()
    assert len(json.dumps({"latency": [row]}, indent=2)) < 190_000


def test_json_is_one_document_on_stdout(run, exported):
    result = run("bench", exported.model_path, "--duration", "0.05", "--batch-sizes", "4",
                 "--threads", "1", "--out", "r.json", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [row["batch_size"] for row in document["latency"]] == [4]


def test_text_shows_provider_accuracy_and_what_is_missing(run, exported):
    result = run("bench", exported.model_path, "--duration", "0.05", "--batch-sizes", "64",
                 "--out", "r.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "on cpu" in result.stdout
    assert "95 % interval" in result.stdout
    assert "n/a (needs 6,636)" in result.stdout


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


def test_wrong_outputs_while_timing_are_exit_1_and_recorded(run, exported, tmp_path, monkeypatch):
    real = Session.run
    calls = []

    def spoil_late(self, batch):
        calls.append(len(batch))
        logits = real(self, batch).copy()
        if len(batch) == 5 and calls.count(5) > 12:
            logits += 1.0
        return logits

    monkeypatch.setattr(Session, "run", spoil_late)
    result = run("bench", exported.model_path, "--batch-sizes", "5", "--duration", "0.05",
                 "--out", "r.json")  # fmt: skip
    assert result.exit_code == 1
    assert "timed run at batch size 5" in result.stderr
    assert "timed run" in json.loads((tmp_path / "r.json").read_text())["failed"]


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
    ],
)
def test_nonsense_options_are_exit_2(run, exported, arguments):
    assert run("bench", exported.model_path, *arguments).exit_code == 2
