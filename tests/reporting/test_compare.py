import json
from pathlib import Path

import numpy as np
import pytest
from results import document, write

from convnet_edge.reporting import compare as compare_module
from convnet_edge.reporting.options import CompareOptions
from convnet_edge.runtime.measure import cold_start


def processes(medians_ms):
    """Return fresh processes with these medians at batch size 1."""
    base = document()["cold_start"]["processes"][0]
    rows = [{**base, "p50_ms": {"1": median}} for median in medians_ms]
    return {"n_processes": len(rows), "processes": rows}


BASE_MS = (1.00, 1.01, 0.99, 1.02, 0.98)
SLOWER_MS = (1.30, 1.31, 1.29, 1.32, 1.28)
UNSURE_MS = (0.90, 1.01, 1.20, 1.02, 1.08)


@pytest.fixture
def stored(tmp_path):
    """Write results by name, with these medians and other changes."""

    def write_result(name, medians_ms, **changes):
        write(tmp_path, name, cold_start=processes(medians_ms), **changes)
        return name

    return write_result


def fake_processes(monkeypatch, medians):
    """Answer for fresh processes: medians by model name, in turn; return the order of calls."""
    order = []

    def answer(task):
        name = task.model_path.name
        order.append(name)
        median = medians[name][order.count(name) - 1]
        return cold_start.ColdStart(
            1, 1, 1, 1, 1, 1, 6, {}, {"1": median}, [int(median * 1e6)] * 100, 0.0, None
        )

    monkeypatch.setattr(compare_module.cold_start, "start_process", answer)
    return order


@pytest.mark.parametrize(
    ("new_ms", "exit_code", "mark"), [(BASE_MS, 0, "✓"), (SLOWER_MS, 1, "x"), (UNSURE_MS, 3, "?")]
)
def test_stored_results_hold_fail_or_cannot_tell(run, stored, new_ms, exit_code, mark):
    base, new = stored("base.json", BASE_MS), stored("new.json", new_ms)
    result = run("compare", base, new)
    assert result.exit_code == exit_code, result.output
    assert f"[{mark}] slowdown" in result.stdout


@pytest.mark.parametrize("n_processes", [1, 4])
def test_few_processes_cannot_tell(run, stored, n_processes):
    base, new = stored("base.json", BASE_MS), stored("new.json", SLOWER_MS[:n_processes])
    result = run("compare", base, new)
    assert result.exit_code == 3
    assert f"{n_processes} fresh processes of one at batch size 1, 5 are needed" in result.stderr


def test_another_machine_cannot_tell_and_is_labelled(run, stored):
    other = {**document()["machine"], "id": "fedcba9876543210", "cpu": "Cortex-A72"}
    base, new = stored("base.json", BASE_MS), stored("new.json", SLOWER_MS, machine=other)
    result = run("compare", base, new)
    assert result.exit_code == 3
    assert "different machines" in result.stderr
    assert "they differ in machine cpu: " in result.stdout
    assert "Cortex-A72" in result.stdout


def test_another_onnxruntime_is_labelled_and_compared(run, stored):
    machine = document()["machine"]
    other = {**machine, "versions": {**machine["versions"], "onnxruntime": "9.9"}}
    base, new = stored("base.json", BASE_MS), stored("new.json", SLOWER_MS, machine=other)
    result = run("compare", base, new)
    assert result.exit_code == 1
    assert "they differ in onnxruntime: " in result.stdout


def test_an_invalid_result_cannot_tell(run, stored):
    invalid = {"status": "INVALID", "reasons": []}
    base, new = stored("base.json", BASE_MS), stored("new.json", BASE_MS, verdict=invalid)
    result = run("compare", base, new)
    assert result.exit_code == 3
    assert "is INVALID" in result.stderr


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [
        (["--min-accuracy", "90%"], 0),
        (["--min-accuracy", "99.9%"], 1),
        (["--max-p99-ms", "1000"], 0),
        (["--max-p99-ms", "0.000001"], 1),
    ],
)
def test_stored_gates_decide(run, stored, options, exit_code):
    base, new = stored("base.json", BASE_MS), stored("new.json", BASE_MS)
    assert run("compare", base, new, *options).exit_code == exit_code


def test_gate_on_a_percentile_that_is_missing_cannot_tell(run, stored):
    rows = document()["latency"]
    for percentile in rows[0]["percentiles_ms"]:
        if percentile["p"] == 0.99:
            percentile.update(value=None, low=None, high=None)
    base, new = stored("base.json", BASE_MS), stored("new.json", BASE_MS, latency=rows)
    result = run("compare", base, new, "--max-p99-ms", "1000")
    assert result.exit_code == 3
    assert "n/a (needs 662 runs)" in result.stdout


def test_failed_gate_outweighs_one_that_cannot_tell(run, stored):
    base, new = stored("base.json", BASE_MS), stored("new.json", BASE_MS[:1])
    assert run("compare", base, new, "--min-accuracy", "99.9%").exit_code == 1


def test_models_take_turns_in_fresh_processes(run, exported, monkeypatch, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(exported.model_path.read_bytes())
    medians = {"a.onnx": [1.0] * 11, "b.onnx": [1.2] * 11}
    order = fake_processes(monkeypatch, medians)
    result = run("compare", "a.onnx", "b.onnx", "--max-slowdown", "10%", "--json")
    assert result.exit_code == 1
    assert order[:4] == ["a.onnx", "b.onnx", "b.onnx", "a.onnx"]
    assert len(order) == 22
    found = json.loads(result.stdout)
    assert found["ratio"] == pytest.approx(1.2)
    assert found["ratio_interval_95"]["low"] == pytest.approx(1.2)
    assert found["gates"][0]["outcome"] == "fails"


def test_drift_of_the_machine_cancels_within_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 2, 11)
    noise = rng.normal(1, 0.01, (2, 11))
    medians = {"a.onnx": list(drift * noise[0]), "b.onnx": list(drift * noise[1])}
    fake_processes(monkeypatch, medians)
    found = compare_module.compare(CompareOptions(*map(Path, medians)))
    assert found.gates[0].outcome == "holds"
    assert found.interval.high - found.interval.low < 0.05


def test_p99_of_models_is_of_all_processes_runs(run, exported, monkeypatch, tmp_path):
    (tmp_path / "a.onnx").write_bytes(exported.model_path.read_bytes())
    fake_processes(monkeypatch, {"a.onnx": [1.0] * 22})
    arguments = ("compare", "a.onnx", "a.onnx", "--max-p99-ms")
    assert run(*arguments, "1.1").exit_code == 0
    fake_processes(monkeypatch, {"a.onnx": [1.0] * 22})
    assert run(*arguments, "0.9").exit_code == 1
    fake_processes(monkeypatch, {"a.onnx": [1.0] * 22})
    assert run(*arguments, "1.1", "--pairs", "6").exit_code == 3


@pytest.mark.slow
def test_real_processes_of_one_model_are_equally_fast(run, exported, monkeypatch):
    monkeypatch.setattr(compare_module, "STEADY_S", 0.02)
    model = exported.model_path
    result = run("compare", model, model, "--pairs", "6", "--max-slowdown", "900%",
                 "--min-accuracy", "1%", "--threads", "1")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "p50 of 6 fresh processes" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["absent.json", "absent.json"],
        ["absent.onnx", "absent.onnx"],
        ["a.onnx", "b.json"],
        ["a.json", "b.json", "--max-slowdown", "much"],
        ["a.onnx", "b.onnx", "--pairs", "5"],
        ["a.onnx", "b.onnx", "--min-accuracy", "101%"],
    ],
)
def test_nonsense_is_exit_2(run, arguments):
    result = run("compare", *arguments)
    assert result.exit_code == 2, result.output
    assert "; expected " in result.stderr
