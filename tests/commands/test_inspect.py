import json

import faults
import pytest

from convnet_edge.commands import inspect as inspect_module


def test_inspect_tells_what_the_export_knew(run, exported):
    result = run("inspect", exported.model_path, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["opsets"] == {"ai.onnx": 18}
    assert document["ir_version"] == 8
    assert document["n_parameters"] == 225_034
    assert document["n_multiplications"] == 2_215_168
    assert document["model_sha256"] == exported.report.model_sha256
    assert document["digests_hold"] is True
    assert document["contract"]["class_labels"][9] == "Ankle Boot"


def test_inspect_as_text_shows_the_same(run, exported):
    text = run("inspect", exported.model_path).stdout
    for part in ("225,034", "2,215,168", "Ankle Boot", "sample", "2 Conv", "[✓] graph digest"):
        assert part in text


@pytest.mark.parametrize("layout", ["portable", "ort-cpu"])
def test_inspect_of_integers_tells_of_the_network_they_stand_for(run, quantised, layout):
    document = json.loads(run("inspect", quantised[layout].model_path, "--json").stdout)
    assert (document["n_parameters"], document["n_multiplications"]) == (225_034, 2_215_168)
    text = run("inspect", quantised[layout].model_path).stdout
    assert ("for onnxruntime's CPU provider only" in text) == (layout == "ort-cpu")


@pytest.mark.parametrize("fault", [faults.nudge_one_weight, faults.put_nan])
def test_inspect_shows_a_changed_file_as_changed(exported, model_bytes, tmp_path, fault):
    path = tmp_path / "x.onnx"
    path.write_bytes(faults.change_graph(model_bytes, fault))
    assert inspect_module.inspect(path).as_json()["digests_hold"] is False
