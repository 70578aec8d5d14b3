import json

import faults
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from convnet_edge import integer, parity
from convnet_edge import quantize as quantize_module
from convnet_edge.config import QuantizeConfig
from convnet_edge.runtime import Classifier, contract, onnxfile
from convnet_edge.runtime.errors import InputError

LAYOUTS = ("portable", "ort-cpu")


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr(quantize_module, "ROUND_S", 0.01)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_integer_file_is_small_proved_and_all_integer(quantised, layout):
    result = quantised[layout]
    assert result.n_bytes == result.model_path.stat().st_size < 250_000
    assert (result.n_integer, result.n_float, result.float_layers) == (4, 0, ())
    assert all(check.passed for check in result.checks), result.checks
    names = {check.name for check in result.checks}
    assert {"accuracy gate", "layout", "golden vectors, batch 1", "graph digest"} <= names
    assert result.gate.passed
    assert result.gate.upper_bound > result.gate.drop
    report = json.loads(result.report_path.read_text())
    assert report["passed"] is True
    assert report["test"]["n"] == 10_000
    assert {speed["what"] for speed in report["speed"]}
    assert len(report["speed"][0]["ratios"]) == quantize_module.N_ROUNDS


def test_both_layouts_give_identical_logits(quantised, test_set):
    logits = [
        Classifier(quantised[layout].model_path).logits(test_set.images) for layout in LAYOUTS
    ]
    assert logits[0].tobytes() == logits[1].tobytes()


def test_ort_cpu_layout_uses_the_kernels_it_was_made_for(quantised):
    file = onnxfile.parse(quantised["ort-cpu"].model_path.read_bytes())
    microsoft = "com.microsoft"
    assert file.op_counts() == {
        "Slice": 1,
        "Reshape": 2,
        "Flatten": 1,
        f"{microsoft}.QLinearConv": 2,
        f"{microsoft}.NhwcMaxPool": 2,
        f"{microsoft}.QGemm": 2,
    }
    conv1 = next(node for node in file.nodes if node.op_type == "QLinearConv")
    dims = {weight.name: weight.dims for weight in file.weights}[conv1.inputs[3]]
    assert dims == (128, 4, 3, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contract_says_how_the_integers_came_about(quantised, exported, layout):
    stated = Classifier(quantised[layout].model_path).contract
    source = contract.read_contract(exported.model_path.read_bytes())
    assert stated.input_dtype == "uint8"
    assert stated.quantization["layout"] == layout
    assert stated.quantization["weight_bits"] == 7
    assert stated.quantization["source_graph_sha256"] == source.graph_sha256
    assert stated.document["measured"]["n_correct"] == quantised[layout].score.n_correct
    np.testing.assert_array_equal(stated.goldens.images, source.goldens.images)
    assert stated.goldens.tolerance == parity.TOLERANCE_FACTOR * stated.goldens.floor


def test_weights_have_7_bits_and_scales_per_channel(quantised):
    proto = onnx.load(quantised["portable"].model_path)
    weights = [numpy_helper.to_array(t) for t in proto.graph.initializer]
    integers = [w for w in weights if w.dtype == np.int8 and w.ndim > 1]
    assert len(integers) == 4
    for weight in integers:
        largest = np.abs(weight.astype(int)).reshape(len(weight), -1).max(axis=1)
        assert largest.max() <= 64
        assert (largest >= 63).all()  # each channel fills its own scale


def test_ranges_gate_and_test_images_do_not_overlap(exported, test_set):
    config = QuantizeConfig(model=exported.model_path, data="sample")
    source = quantize_module._open(config, lambda _: None)
    calibration = (source.calibration[:, 0] * 255).round().astype(np.uint8)
    assert (len(calibration), len(source.gate)) == (1000, 5000)
    known = {image.tobytes() for image in calibration}
    # the data itself holds a few images twice
    assert sum(image.tobytes() in known for image in source.gate.images) <= 5
    known |= {image.tobytes() for image in source.gate.images}
    assert sum(image.tobytes() in known for image in test_set.images) <= 5


@pytest.fixture
def spoilt(model_bytes, tmp_path):
    """The tiny model made hard for integers, so that no gate rests on one training's luck."""
    path = tmp_path / "spoilt.onnx"
    path.write_bytes(faults.change_sealed(model_bytes, faults.spoil_for_integers))
    return path


def test_gate_that_does_not_hold_is_exit_1_and_no_file(run, spoilt, tmp_path):
    result = run("quantize", spoilt, "--data", "sample", "--layout", "ort-cpu",
                 "--out", "out/x.onnx")  # fmt: skip
    assert result.exit_code == 1
    assert "[x] accuracy gate: 5,000 training images" in result.stderr
    assert list(tmp_path.rglob("*.onnx")) == [spoilt]
    report = json.loads((tmp_path / "out" / "x.quantize.json").read_text())
    assert report["passed"] is False
    failed = [check["name"] for check in report["checks"] if not check["passed"]]
    assert failed == ["accuracy gate"]
    assert report["gate"]["upper_bound"] > report["gate"]["max_drop"]


@pytest.mark.slow
def test_layer_that_integers_ruin_goes_back_to_float(spoilt, tmp_path):
    out = tmp_path / "x.onnx"
    result = quantize_module.quantize(QuantizeConfig(model=spoilt, data="sample", out=out))
    assert result.float_layers == ("node_conv2d_1",)
    assert (result.n_integer, result.n_float) == (3, 1)
    assert result.gate.passed
    assert Classifier(out).contract.quantization["float_layers"] == ["node_conv2d_1"]


def test_layouts_are_the_same_to_verify_which_says_how_they_differ(run, quantised):
    mine, other = (quantised[layout].model_path for layout in ("portable", "ort-cpu"))
    result = run("verify", mine, "--against", other, "--out", "x.json")
    assert result.exit_code == 0, result.output
    assert "bit-equal: 10,000 images" in result.stdout
    assert "29 operations, not 10; the first that differs is number 1: " in result.stdout
    assert "weights in one of them alone: " in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 160


def test_layout_that_computes_something_else_is_exit_1(run, exported, tmp_path, monkeypatch):
    real = integer.to_ort_cpu

    def wrong(proto):
        made = real(proto)
        bias = next(t for t in made.graph.initializer if t.name.startswith("b"))
        values = numpy_helper.to_array(bias) + 500
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        return made

    monkeypatch.setattr(integer, "to_ort_cpu", wrong)
    result = run("quantize", exported.model_path, "--data", "sample", "--layout", "ort-cpu",
                 "--out", "x.onnx")  # fmt: skip
    assert result.exit_code == 1
    assert "[x] layout: 10,000 test images, logits differ" in result.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_quantize_prints_what_was_proved_and_which_is_faster(run, exported, tmp_path):
    result = run("quantize", exported.model_path, "--data", "sample", "--out", "x.onnx")
    assert result.exit_code == 0, result.output
    for part in ("[✓] accuracy gate", "4 integer, 0 float", "exact McNemar p", "int8 is"):
        assert part in result.stdout
    assert "convnet-edge bench x.onnx" in result.output
    shown = run("inspect", "x.onnx").stdout
    assert "standard QDQ, for any runtime" in shown
    assert run("verify", "x.onnx").exit_code == 0


def test_integer_model_is_no_source(run, quantised):
    result = run("quantize", quantised["portable"].model_path, "--data", "sample")
    assert result.exit_code == 2
    assert "takes uint8" in result.stderr


@pytest.mark.parametrize(
    ("change", "named"), [({"max_drop": 0.0}, "--max-drop"), ({"layout": "gpu"}, "--layout")]
)
def test_config_outside_its_range_names_the_option(change, named):
    with pytest.raises(InputError, match=named):
        QuantizeConfig(**change)


@pytest.mark.parametrize(
    ("network", "reason"),
    [({"kernel_size": 5}, "not 3 x 3"), ({"width": 0.3}, "channels are not multiples")],
)
def test_layout_that_does_not_fit_says_why(network, reason, test_set):
    import torch

    from convnet_edge import export
    from convnet_edge.model import build_convnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_convnet((1, 28, 28), **network)
    images = test_set.images[:100, None].astype(np.float32) / np.float32(255)
    quantised = integer.quantize_graph(export.to_onnx(model, (1, 28, 28)), images)
    with pytest.raises(ValueError, match=reason):
        integer.to_ort_cpu(quantised)


def test_half_width_has_the_fast_layout_too(test_set):
    import torch

    from convnet_edge import export
    from convnet_edge.model import build_convnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_convnet((1, 28, 28), width=0.5)
    images = test_set.images[:200, None].astype(np.float32) / np.float32(255)
    quantised = integer.quantize_graph(export.to_onnx(model, (1, 28, 28)), images)
    made = integer.to_ort_cpu(quantised)
    first, second = (
        quantize_module._run(proto, test_set.images[:200]) for proto in (quantised, made)
    )
    assert first.tobytes() == second.tobytes()


def test_images_that_do_not_span_black_to_white_are_refused(graph_bytes, test_set):
    images = test_set.images[:50, None].astype(np.float32) / np.float32(510)
    with pytest.raises(ValueError, match="black to white"):
        integer.quantize_graph(graph_bytes, images)
