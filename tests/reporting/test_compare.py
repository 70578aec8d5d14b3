import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from convnet_edge.data import dataset
from convnet_edge.reporting import compare as stage
from convnet_edge.reporting.options import CompareOptions
from convnet_edge.runtime.errors import CheckFailedError, InputError, UndecidedError
from convnet_edge.runtime.measure.result import FreshProcess
from convnet_edge.sealing import seal

N_PAIRS = 11
BASE_MS = (1.00, 1.01, 0.99, 1.02, 0.98, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
UNSURE = (0.90, 1.01, 1.20, 1.02, 1.08, 1.0, 1.2, 0.9, 1.2, 1.1, 1.0)


@pytest.fixture
def processes(monkeypatch, tmp_path):
    """Answer for fresh processes: medians by model name, in turn; return the order of calls."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        Path(name).write_bytes(tiny.grey())

    def fake(base_ms, new_ms):
        medians, order = {"a.onnx": base_ms, "b.onnx": new_ms}, []

        def answer(task):
            name = task.model_path.name
            order.append(name)
            median = medians[name][order.count(name) - 1]
            found = FreshProcess(1, 1, 1, 1, 1, 1, 6, {}, {str(task.batch_sizes[0]): median})
            return found, [int(median * 1e6)] * 100

        monkeypatch.setattr(stage, "start_process", answer)
        return order

    return fake


def compare(**options):
    return stage.compare(CompareOptions(Path("a.onnx"), Path("b.onnx"), **options))


@pytest.mark.parametrize(
    ("factors", "outcome", "error"),
    [
        ((1.0,) * N_PAIRS, "holds", None),
        ((1.3,) * N_PAIRS, "fails", CheckFailedError),
        (UNSURE, "cannot tell", UndecidedError),
    ],
)
def test_models_hold_fail_or_cannot_be_told_apart(processes, factors, outcome, error):
    processes(BASE_MS, [base * factor for base, factor in zip(BASE_MS, factors, strict=True)])
    found = compare()
    assert [gate.outcome for gate in found.gates] == [outcome]
    if error is None:
        stage.require_gates(found)
    else:
        with pytest.raises(error, match="slowdown"):
            stage.require_gates(found)


def test_models_take_turns_and_the_record_holds_every_median_and_option(processes):
    order = processes(BASE_MS, [1.2 * ms for ms in BASE_MS])
    found = compare(max_slowdown=0.1, batch_size=8, cache=Path("cache"))
    assert order[:4] == ["a.onnx", "b.onnx", "b.onnx", "a.onnx"]
    assert len(order) == 2 * N_PAIRS
    record = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert record["ratio"] == record["ratio_interval_95"]["low"] == pytest.approx(1.2)
    assert record["base_p50_ms"] == list(BASE_MS)
    assert record["new"] == "b.onnx"
    assert record["max_slowdown"] == 0.1
    assert not {"cache", "data", "data_dir", "split"} & set(record)  # paths of this machine
    assert record["gates"][0]["outcome"] == "fails"


def test_ratio_keeps_the_digits_of_its_interval(processes):
    processes(BASE_MS, [ms * (1.00012 + 1e-5 * (i % 3)) for i, ms in enumerate(BASE_MS)])
    assert "1.00013 times BASE's time (95 % 1.00012–1.00014), " in compare().gates[0].detail


def test_drift_of_the_machine_cancels_within_pairs(processes):
    noise = np.random.default_rng(0).normal(1, 0.01, (2, N_PAIRS))
    processes(*(np.linspace(1, 2, N_PAIRS) * noise).tolist())
    found = compare()
    assert found.gates[0].outcome == "holds"
    assert found.ratio_interval_95.high - found.ratio_interval_95.low < 0.05


@pytest.mark.parametrize(
    ("limit", "n_pairs", "outcome"),
    [(1.1, 11, "holds"), (0.9, 11, "fails"), (1.1, 6, "cannot tell")],
)
def test_p99_is_of_all_runs_of_new(processes, limit, n_pairs, outcome):
    processes(BASE_MS, (1.0,) * N_PAIRS)
    assert compare(max_p99_ms=limit, n_pairs=n_pairs).gates[1].outcome == outcome


def test_a_gate_that_fails_outweighs_one_that_cannot_tell(processes):
    processes(BASE_MS, UNSURE)
    found = compare(max_p99_ms=1.1)
    assert [gate.outcome for gate in found.gates] == ["cannot tell", "fails"]
    with pytest.raises(CheckFailedError, match="p99"):
        stage.require_gates(found)


def test_time_that_fails_is_not_rounded_to_its_limit(processes):
    processes(BASE_MS, (1.0004,) * N_PAIRS)
    gate = compare(max_p99_ms=1.0).gates[1]
    assert (gate.outcome, gate.detail) == ("fails", "1.0004 ms, at most 1")


@pytest.mark.parametrize(("least", "outcome"), [(0.75, "holds"), (0.75004, "fails")])
def test_accuracy_of_new_decides(processes, tmp_path, monkeypatch, least, outcome):
    monkeypatch.setattr(dataset, "find_test_set", lambda *_: tiny.image_set(60))
    (tmp_path / "b.onnx").write_bytes(tiny.grey())
    monkeypatch.chdir(tmp_path)
    processes(BASE_MS, BASE_MS)
    found = compare(min_accuracy=least)
    assert [gate.outcome for gate in found.gates] == ["holds", outcome]
    assert found.gates[1].detail == f"75.00 % of 60 images, at least {100 * least:g} %"


@pytest.mark.parametrize(
    ("n_lost", "n_gained", "outcome"),
    [(0, 0, "holds"), (40, 20, "cannot tell"), (60, 20, "fails")],
)
def test_drop_against_base_is_held_to_its_bound(processes, monkeypatch, n_lost, n_gained, outcome):
    test = tiny.image_set(400)
    labels = {name: test.labels.copy() for name in ("a.onnx", "b.onnx")}
    wrong = (test.labels + 1) % len(tiny.LABELS)
    labels["b.onnx"][:n_lost] = wrong[:n_lost]
    some = slice(n_lost, n_lost + n_gained)
    labels["a.onnx"][some] = wrong[some]
    monkeypatch.setattr(stage, "_label", lambda file, _: (labels[file.path.name], test))
    processes(BASE_MS, BASE_MS)
    found = compare(max_drop=5)
    gate = found.gates[1]
    assert (gate.name, gate.outcome) == ("drop", outcome)
    drop = f"drop {(n_lost - n_gained) / 4:+.2f} points, at most "
    assert gate.detail.startswith(f"400 images: {n_lost} lost, {n_gained} gained, {drop}")
    if outcome == "cannot tell":
        with pytest.raises(
            UndecidedError, match="name more test pictures with data, or allow more with max_drop"
        ):
            stage.require_gates(found)


def test_drop_of_models_of_other_classes_is_refused(processes, monkeypatch):
    monkeypatch.setattr(dataset, "find_test_set", lambda *_: tiny.image_set(60))
    document = tiny.document(tiny.GREY, "float32")
    turned = document | {"class_labels": document["class_labels"][::-1]}
    graph = tiny.graph(tiny.GREY, "float32").SerializeToString()
    order = processes(BASE_MS, BASE_MS)
    Path("b.onnx").write_bytes(seal.seal(graph, turned))
    with pytest.raises(InputError, match=r"other classes; .*max.drop"):
        compare(max_drop=0.5)
    assert order == []


def test_accuracy_on_pictures_that_are_not_here_is_refused_before_anything_is_measured(
    processes, tmp_path, monkeypatch
):
    (tmp_path / "b.onnx").write_bytes(tiny.grey())
    monkeypatch.chdir(tmp_path)
    order = processes(BASE_MS, BASE_MS)
    with pytest.raises(InputError, match=r"tested on .* are not here; .*name it with data"):
        compare(min_accuracy=0.5)
    assert order == []
