import json

import pytest

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import machine, tuning

FOUND = tuning.Tuning(threads=1, throughput_threads=1, n_callers=2, batch_size=64)


@pytest.fixture
def model_path(model_bytes, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_bytes)
    return path


def test_classifier_takes_the_tuned_threads_unless_told(model_path, model_bytes, monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    assert Classifier(model_path).session.threads == 2
    written = tuning.write(model_path, model_bytes, "cpu", FOUND)
    assert written.name == "m.tune.json"
    assert Classifier(model_path).session.threads == 1
    assert Classifier(model_path, threads=2).session.threads == 2
    assert Classifier(model_bytes).session.threads == 2


def test_tuning_holds_for_that_file_provider_and_machine_only(model_path, model_bytes, monkeypatch):
    tuning.write(model_path, model_bytes, "cpu", FOUND)
    assert tuning.read(model_path, model_bytes, "cpu") == FOUND
    assert tuning.read(model_path, model_bytes + b"x", "cpu") is None
    assert tuning.read(model_path, model_bytes, "cuda") is None
    monkeypatch.setattr(machine, "passport", lambda: {"id": "another"})
    assert tuning.read(model_path, model_bytes, "cpu") is None


def test_without_a_tuning_there_is_none(model_path, model_bytes):
    assert tuning.read(model_path, model_bytes, "cpu") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "threads": 0}),
        lambda text: json.dumps({**json.loads(text), "threads": "2"}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "n_callers"}),
    ],
)
def test_damaged_tuning_is_an_error_not_ignored(model_path, model_bytes, damage):
    path = tuning.write(model_path, model_bytes, "cpu", FOUND)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match="is damaged") as caught:
        Classifier(model_path)
    assert "bench --tune" in caught.value.next_step
