"""Integers with their proof: on few images and in short rounds, which no check depends on."""

import json
import re
from dataclasses import replace
from pathlib import Path

import faults
import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx import numpy_helper

from convnet_edge.data import dataset
from convnet_edge.data import fashion_mnist as data
from convnet_edge.exporting import graph
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.quantizing import ladder, ort_cpu, portable
from convnet_edge.quantizing import quantize as stage
from convnet_edge.quantizing.nodes import constants
from convnet_edge.quantizing.options import QuantizeOptions
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.measure import race
from convnet_edge.runtime.measure.stats import paired_drop_bound
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import parity, seal
from convnet_edge.sealing.default_model import shipped_model

LAYOUTS = ("portable", "ort-cpu")


@pytest.fixture(scope="module", autouse=True)
def small(few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_test_set", lambda: few)
        for name, value in {"N_CALIBRATION": 200, "N_GATE": 1000, "N_COSTLY": 500}.items():
            patch.setattr(stage, name, value)
        patch.setattr(stage.race, "SLOT_S", 0.01)
        yield


@pytest.fixture(scope="module")
def quantised(exported, tmp_path_factory):
    """The tiny model as integers, by layout; a gate so wide rests on no training's luck."""
    folder, made = tmp_path_factory.mktemp("quantised"), {}
    for layout in LAYOUTS:
        options = QuantizeOptions(exported.model_path, data="sample", layout=layout, max_drop=10.0)
        made[layout] = stage.quantize(replace(options, out=folder / f"{layout}.onnx"))
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_integer_file_is_small_proved_and_all_integer(quantised, few, layout):
    result, report = quantised[layout], quantised[layout].report
    assert report.model_bytes == result.model_path.stat().st_size < 250_000
    assert (report.layers.integer, report.layers.float, report.layers.kept_float) == (4, 0, ())
    assert [check.line() for check in report.checks if not check.passed] == []
    held = {check.name for check in report.checks}
    assert {"accuracy gate", "layout", "golden vectors, batch 1", "digest"} <= held
    assert report.gate.upper_bound > report.gate.drop
    written = json.loads(result.report_path.read_text())
    assert written["passed"] is True
    assert written["test"]["n"] == len(few)
    assert written["test"]["accuracy"] == result.score.accuracy
    raced = {(one["batch_size"], one["name"], one["other"]) for one in written["races"]}
    names = result.model_path.name, Path(report.source).name
    assert raced == {(size, *names) for size in race.BATCH_SIZES}


def test_ort_cpu_layout_uses_the_kernels_it_was_made_for(quantised):
    file = open_model(quantised["ort-cpu"].model_path)
    fast = {"com.microsoft.QLinearConv": 2, "com.microsoft.NhwcMaxPool": 2,
            "com.microsoft.QGemm": 2}  # fmt: skip
    assert file.op_counts() == {"Slice": 1, "Reshape": 2, "Flatten": 1, **fast}
    conv1 = next(node for node in file.nodes if node.op_type == "QLinearConv")
    assert file.weights[conv1.inputs[3]].dims == (128, 4, 3, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contract_says_how_the_integers_came_about(quantised, exported, layout):
    stated = Classifier(quantised[layout].model_path).contract
    file = open_model(exported.model_path)
    assert stated.input_dtype == "uint8"
    assert stated.quantization["layout"] == layout
    assert stated.quantization["weight_bits"] == 7
    assert stated.quantization["source_sha256"] == file.sha256
    assert stated.document["measured"]["n_correct"] == quantised[layout].score.n_correct
    np.testing.assert_array_equal(stated.goldens.images, file.contract.goldens.images)
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
    options = QuantizeOptions(exported.model_path, data="sample")
    source = stage._Source(options, exported.model_path)
    assert len(source.calibration) == stage.N_CALIBRATION
    assert [len(half) for half in source.halves] == [stage.N_GATE // 2] * 2
    known = {image.tobytes() for image in source.calibration}
    for half in source.halves:  # the data itself holds a few images twice
        assert sum(image.tobytes() in known for image in half.images) <= 5
        known |= {image.tobytes() for image in half.images}
    assert sum(image.tobytes() in known for image in test_set.images) <= 5


@pytest.mark.parametrize(("n", "n_gate"), [(20, 0), (60, 28), (300, 250)])
def test_too_few_pictures_say_how_many_are_needed(exported, monkeypatch, tmp_path, n, n_gate):
    load = data.load_training_set
    monkeypatch.setattr(
        data, "load_training_set", lambda *given: dataset.take(load(*given), slice(n))
    )
    options = QuantizeOptions(exported.model_path, data="sample", out=tmp_path / "x.onnx")
    with pytest.raises(InputError) as caught:
        stage.quantize(options)
    allowed = options.max_drop / 100
    needed = 2 * next(n for n in range(1, 9999) if paired_drop_bound(0, 0, n) <= allowed)
    assert caught.value.found == f"{n_gate} {stage.SEEN}"
    assert f"{needed} at least" in caught.value.expected
    _, advised, drop = caught.value.next_step.partition(", or allow --max-drop ")
    assert bool(advised) == (n_gate > 50)
    if advised:
        assert replace(options, max_drop=float(drop)).n_judges <= n_gate
    assert not options.out.exists()


def test_validation_images_judge_where_there_are_enough_of_them():
    train, validation = tiny.image_set(1300), tiny.image_set(600)
    loaded = dataset.Dataset("tiny", tiny.LABELS, None, train, validation, tiny.image_set(9))
    allowed = QuantizeOptions(max_drop=1)
    ranges, gate, data = stage.split_training_images(loaded, allowed, n_multiplications=9)
    assert (len(ranges), gate, data) == (stage.N_CALIBRATION, validation, "validation images")
    few = replace(loaded, validation=tiny.image_set(30))
    for costly, n in ((9, stage.N_GATE), (10**13, 500), (None, 500)):
        _, gate, data = stage.split_training_images(few, allowed, n_multiplications=costly)
        assert (len(gate), data) == (n, f"{stage.SEEN} (30 validation images are too few)")


def test_rungs_are_told_where_the_half_that_confirms_says_otherwise(
    exported, monkeypatch, tmp_path
):
    real, gates, heard = ladder.Half.judge, [], []

    def judge(half, said):
        gates.append(real(half, said))
        return replace(gates[-1], upper_bound=0.0941) if len(gates) == 2 else gates[-1]

    monkeypatch.setattr(ladder.Half, "judge", judge)
    options = QuantizeOptions(
        exported.model_path, data="sample", max_drop=9.0, out=tmp_path / "x.onnx"
    )
    with pytest.raises(CheckFailedError, match="accuracy gate") as caught:
        stage.quantize(options, note=heard.append)
    first, *rungs, last = heard
    assert first.endswith(f" images, {gates[0].n:,} choose the rung, by:")
    assert len(gates) == len(rungs) + 1
    assert [line.split(":")[0] for line in rungs[:2]] == ["  min-max", "  + bias correction"]
    assert all(" points" in line for line in rungs)
    assert last == "the others judged min-max"
    assert "; --max-drop 9.5 would have held, if that" in caught.value.next_step
    assert not options.out.exists()


@pytest.fixture
def spoilt(model_bytes, tmp_path):
    """The tiny model made hard for integers, so that no gate rests on one training's luck."""
    path = tmp_path / "spoilt.onnx"
    path.write_bytes(faults.change_sealed(model_bytes, faults.spoil_for_integers))
    return path


@pytest.fixture
def fail(tmp_path, monkeypatch):
    """Quantise in the fast layout, which must fail; return the report and the failed checks."""
    load, loads = data.load_test_set, []
    monkeypatch.setattr(data, "load_test_set", lambda: loads.append(1) or load())

    def run(model_path):
        out = tmp_path / "out" / "x.onnx"
        with pytest.raises(CheckFailedError, match="was not written"):
            stage.quantize(QuantizeOptions(model_path, data="sample", layout="ort-cpu", out=out))
        assert not out.exists()
        assert len(loads) == 1
        report = json.loads(out.with_suffix(".quantize.failed.json").read_text())
        assert report["passed"] is False
        return report, {row["name"] for row in report["checks"] if not row["passed"]}

    return run


def test_gate_that_does_not_hold_leaves_no_file(fail, spoilt):
    report, failed = fail(spoilt)
    assert failed == {"accuracy gate"}
    assert report["gate"]["upper_bound"] > report["gate"]["max_drop"]


def test_layout_that_computes_something_else_leaves_no_file(fail, exported, monkeypatch):
    real = ort_cpu.to_ort_cpu

    def shift(proto):
        names = [t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT32]
        with faults.weight(proto, names[0]) as bias:
            bias += 500

    monkeypatch.setattr(
        ort_cpu, "to_ort_cpu", lambda graph: faults.change_graph(real(graph), shift)
    )
    assert "layout" in fail(exported.model_path)[1]


def test_layer_that_integers_ruin_goes_back_to_float(spoilt, tmp_path):
    out = tmp_path / "x.onnx"
    report = stage.quantize(QuantizeOptions(spoilt, data="sample", max_drop=10.0, out=out)).report
    assert report.passed
    assert report.rung == "+ 1 noisiest layers float"
    ends = ("node_conv2d", "node_linear_1")
    assert report.layers.kept_float == (*ends, "node_conv2d_1")
    assert (report.layers.integer, report.layers.float) == (1, 3)
    stated = Classifier(out).contract.quantization
    assert (stated["rung"], stated["float_layers"]) == (report.rung, [*ends, "node_conv2d_1"])
    assert [rung.holds for rung in report.rungs] == [False] * 4 + [True]


def test_layouts_are_the_same_to_verify_which_says_how_they_differ(run, quantised):
    mine, other = (quantised[layout].model_path for layout in LAYOUTS)
    result = run("verify", mine, "--against", other, "--out", "x.json")
    assert result.exit_code == 0, result.output
    assert "bit-equal: 300 images" in result.stdout
    assert "29 operations, not 10; the first that differs is number 1: " in result.stdout
    assert "weights in one of them alone: " in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 160


def test_quantize_prints_what_was_proved_and_which_is_faster(run, quantised, monkeypatch):
    result = quantised["portable"]
    monkeypatch.setattr(stage, "quantize", lambda *_: result)  # once is enough
    printed = run("quantize").stdout
    for part in (
        "[✓] accuracy gate",
        " training images, not used for ranges, which the network may have seen",
        "\n  min-max\n",
        "\n  0 of 4 layers run as floats\n",
        "difference not shown (exact McNemar p",
        "times as fast (95 %",
        f"\n  {len(result.report.checks)} checks hold\n  sha256 {result.report.model_sha256}\n",
    ):
        assert part in printed
    assert not re.search(r"\d%", printed)
    test = replace(result.report.test, n_gained=9, mcnemar_p=0.01)
    better = replace(result, report=replace(result.report, test=test))
    monkeypatch.setattr(stage, "quantize", lambda *_: better)
    assert "; shown: int8 better (exact McNemar p = 0.01)" in run("quantize").stdout
    assert "standard QDQ, for any runtime" in run("inspect", result.model_path).stdout
    assert "hardly int8" not in printed
    floats = replace(result.report.layers, integer=1, float=3)
    mostly = replace(result, report=replace(result.report, layers=floats))
    monkeypatch.setattr(stage, "quantize", lambda *_: mostly)
    assert "\nhardly int8: 3 of 4 layers had to stay floats\n" in run("quantize").stdout


def untrained(images, **network):
    """Return an untrained convnet, quantised from `images` (N, H, W) uint8."""
    torch.manual_seed(0)
    model = Convnet(Architecture(**network))
    inputs = images[:, None].astype(np.float32) / np.float32(255)
    exported = graph.to_onnx(model, model.architecture.image_shape)
    return portable.calibrate(exported, inputs).quantised()


def test_float_model_is_not_replaced_by_its_integers(exported):
    before = exported.model_path.read_bytes()
    options = QuantizeOptions(exported.model_path, data="sample", out=exported.model_path)
    with pytest.raises(InputError, match="is the float model"):
        stage.quantize(options)
    assert exported.model_path.read_bytes() == before


@pytest.mark.parametrize(
    ("layout", "name"), [("portable", "convnet.int8.onnx"), ("ort-cpu", "convnet.int8-ort.onnx")]
)
def test_shipped_integers_are_not_replaced_by_default(layout, name):
    for path in (shipped_model(), Path("exported/fashion-mnist.onnx")):
        assert QuantizeOptions(layout=layout).out_path(path) == Path("exported", name)
    assert QuantizeOptions(layout=layout).out_path(Path("own/convnet.onnx")) == Path("own", name)


def test_layout_that_does_not_fit_says_why(few):
    with pytest.raises(InputError, match="10, 1, 3, 3"):
        ort_cpu.to_ort_cpu(untrained(few.images, width=0.3))
    other = tiny.graph(tiny.GREY, "float32").SerializeToString()
    inputs = tiny.images(60)[:, None].astype(np.float32) / np.float32(255)
    with pytest.raises(InputError, match="4, 1, 3, 3"):
        ort_cpu.to_ort_cpu(portable.calibrate(other, inputs).quantised())


@pytest.mark.slow
def test_half_width_has_the_fast_layout_too(few, quantised):
    standard = untrained(few.images, width=0.5)
    document = open_model(quantised["portable"].model_path).contract.document
    first, second = (
        Classifier(seal.seal(made, document)).logits(few.images)
        for made in (standard, ort_cpu.to_ort_cpu(standard))
    )
    assert first.tobytes() == second.tobytes()


def test_grey_values_are_taken_alike_whatever_the_calibration_images_span(graph_bytes, few):
    images = few.images[:50, None].astype(np.float32) / np.float32(510) + np.float32(0.25)
    made = onnx.load_from_string(portable.calibrate(graph_bytes, images).quantised())
    (reader,) = (node for node in made.graph.node if made.graph.input[0].name in node.input)
    if reader.op_type == "Slice":
        (reader,) = (node for node in made.graph.node if reader.output[0] in node.input)
    scale, zero_point = (constants(made)[name] for name in reader.input[1:])
    assert reader.op_type == "DequantizeLinear"
    assert (scale, zero_point) == (pytest.approx(1 / 255), 0)
