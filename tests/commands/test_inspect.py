import json

import faults
import pytest
import tiny
from emulated import EXPORTED


def test_inspect_tells_what_the_file_holds(run, tiny_model):
    result = run("inspect", tiny_model, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["opsets"] == {"ai.onnx": tiny.OPSET}
    assert document["n_parameters"] == sum(values.size for values in tiny.weights().values())
    assert document["inputs"] == {"images": ["batch", 1, 8, 8]}
    assert document["ops"]["Conv"] == 1
    assert document["digest_holds"] is True
    assert document["contract"]["class_labels"] == list(tiny.LABELS)
    assert document["contract"]["goldens"] == {
        "n": tiny.N_GOLDENS, "floor": tiny.FLOOR, "tolerance": tiny.TOLERANCE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("", ("Conv: 2", "Ankle Boot", "[✓] digest", "next: ")),
        (".int8", ("standard QDQ, for any runtime",)),
        (".int8-ort", ("for onnxruntime's CPU provider only",)),
    ],
)
def test_inspect_as_text_tells_of_the_network_a_file_stands_for(run, model, parts):
    text = run("inspect", EXPORTED / f"fashion-mnist{model}.onnx").stdout
    for part in ("225,034", "2,215,168", *parts):
        assert part in text


def test_inspect_shows_a_changed_file_as_changed(run, tiny_model):
    tiny_model.write_bytes(faults.change_graph(tiny_model.read_bytes(), faults.nudge_one_weight))
    assert json.loads(run("inspect", tiny_model, "--json").stdout)["digest_holds"] is False
