import json

import faults
import pytest
import tiny

from convnet_edge.commands.inspect import InspectOptions, inspect


def test_inspect_tells_what_the_file_holds(run, tiny_model):
    result = run("inspect", tiny_model, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["opsets"] == {"ai.onnx": tiny.OPSET}
    assert document["ir_version"] == tiny.IR_VERSION
    assert document["n_parameters"] == sum(values.size for values in tiny.weights().values())
    assert document["inputs"] == {"images": ["batch", 1, 8, 8]}
    assert document["ops"]["Conv"] == 1
    assert document["digests_hold"] is True
    assert document["contract"]["class_labels"] == list(tiny.LABELS)
    assert document["contract"]["goldens"] == {
        "n": tiny.N_GOLDENS, "floor": tiny.FLOOR, "tolerance": tiny.TOLERANCE,
    }  # fmt: skip


def test_inspect_as_text_shows_the_shipped_model(run):
    text = run("inspect").stdout
    for part in ("225,034", "2,215,168", "Ankle Boot", "2 Conv", "[✓] graph digest", "next: "):
        assert part in text


@pytest.mark.parametrize(("model", "is_for_one"), [(".int8", False), (".int8-ort", True)])
def test_inspect_of_integers_tells_of_the_network_they_stand_for(run, shipped, model, is_for_one):
    path = shipped.with_name(f"fashion-mnist{model}.onnx")
    document = json.loads(run("inspect", path, "--json").stdout)
    assert (document["n_parameters"], document["n_multiplications"]) == (225_034, 2_215_168)
    text = run("inspect", path).stdout
    assert ("for onnxruntime's CPU provider only" in text) == is_for_one


def test_inspect_shows_a_changed_file_as_changed(tiny_model):
    def nudge(proto):
        tensor = proto.graph.initializer[0]
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    tiny_model.write_bytes(faults.change_graph(tiny_model.read_bytes(), nudge))
    assert inspect(InspectOptions(tiny_model)).as_json()["digests_hold"] is False


@pytest.fixture
def shipped():
    from convnet_edge.sealing.default_model import shipped_model

    path = shipped_model()
    if not path.with_name("fashion-mnist.int8.onnx").exists():
        pytest.skip("the integer models are in the checkout only")
    return path
