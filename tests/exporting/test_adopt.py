import json
from dataclasses import replace

import faults
import foreign
import numpy as np
import onnx
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

import convnet_edge as ce
from convnet_edge.exporting import adopt, evaluator
from convnet_edge.exporting.evaluator import Evaluated
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.elsewhere import unproved
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.options import UnprovedOptions
from convnet_edge.runtime.selftest import largest_error, run_selftest


@pytest.fixture
def seal(tmp_path, monkeypatch):
    """Adopt a graph for (3, 12, 10), with pictures, classes and preprocessing given."""
    monkeypatch.chdir(tmp_path)
    photos = foreign.pictures(tmp_path)
    how = {"mean": foreign.MEAN, "std": foreign.STD, "fit": "stretch"}

    def run(graph, note=lambda _: None, **said):
        (tmp_path / "theirs.onnx").write_bytes(graph)
        said.setdefault("preprocessing", foreign.say(tmp_path, **(said.pop("how", how))))
        given = {"classes": foreign.name_classes(tmp_path), "data": str(photos)} | said
        return ce.adopt(ce.AdoptOptions("theirs.onnx", **given), note=note)

    return run


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory):
    """What PyTorch's older exporter makes of a small network: opset 11, a softmax at its end."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(),
              nn.Linear(80, 3), nn.Softmax(1))  # fmt: skip
    path = tmp_path_factory.mktemp("torchscript") / "net.onnx"
    axes = {"input": {0: "N"}, "output": {0: "N"}}
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(
            nn.Sequential(*layers).eval(), (torch.zeros(1, 3, 12, 10),), path, dynamo=False,
            opset_version=11, input_names=["input"], output_names=["output"], dynamic_axes=axes,
        )  # fmt: skip
    return path.read_bytes()


def outcomes(report):
    return {one.name: "skipped" if one.skipped else one.passed for one in report.checks}


def test_model_of_another_exporter_is_adopted_and_opens_by_itself(seal, torchscript, tmp_path):
    found = seal(torchscript)
    report = found.report
    assert outcomes(report)["float64 PyTorch"] == "skipped"
    assert outcomes(report)["reference evaluator"] is True
    assert outcomes(report)["outputs as the source's"] is True
    assert report.n_evaluated == report.n_goldens > 0
    assert (tmp_path / "theirs.onnx").read_bytes() == torchscript
    classifier = Classifier(found.model_path)
    assert classifier.contract.proof == "adopted"
    assert all(check.passed for check in run_selftest(classifier))
    proto = onnx.load(found.model_path)
    assert (proto.opset_import[0].version, proto.ir_version) == (18, 8)
    assert [node.op_type for node in proto.graph.node][:3] == ["Mul", "Add", "Conv"]
    assert "Softmax" not in [node.op_type for node in proto.graph.node]
    written = json.loads(found.report_path.read_text())
    assert written["proof"].startswith("no PyTorch network was there")
    assert written["source_sha256"] != written["model_sha256"]


def test_adopted_file_gives_what_the_source_gave_with_its_mean_and_deviation(seal, tmp_path):
    graph = foreign.rgb()
    found = seal(graph)
    images = tiny.images(20, tiny.RGB)
    how = UnprovedOptions(preprocessing=foreign.say(tmp_path, mean=foreign.MEAN, std=foreign.STD))
    theirs = Classifier(unproved.open_any(tmp_path / "theirs.onnx", how)).logits(images)
    mine = Classifier(found.model_path).logits(images)
    assert largest_error(mine, theirs) < found.report.tolerance


def test_what_is_given_no_mean_and_deviation_is_sealed_with_a_word(seal):
    said = []
    assert seal(foreign.rgb(), said.append, how={"fit": "stretch"}).report.passed
    assert said == ["no mean and std in --preprocessing: its first layer gets pixels from 0 to 1"]
    seal(foreign.rgb(), said.append)
    assert len(said) == 1


def test_reference_outputs_are_those_of_slow_arithmetic(seal):
    found = seal(foreign.rgb(), how={"fit": "stretch"})
    goldens = open_model(found.model_path).contract.goldens
    assert largest_error(goldens.logits, tiny.logits(goldens.images, tiny.RGB)) < 1e-6
    assert goldens.tolerance < 1e-4


@pytest.mark.parametrize("change", [foreign.as_older_exporters_do, foreign.fix_batch(1)])
def test_habits_of_other_exporters_are_sealed(seal, change):
    found = seal(foreign.rgb(change))
    file = open_model(found.model_path)
    assert file.takes_one is ("batch 2" not in outcomes(found.report))
    assert list(file.inputs) == ["images_"]
    assert all(check.passed for check in run_selftest(Classifier(file)))
    assert not {*file.weights} & {value.name for value in onnx.load(found.model_path).graph.input}


def test_paddings_given_by_a_word_become_numbers(seal):
    """A MaxPool of SAME_LOWER, of which the evaluator would find too few places."""
    words = """<ir_version: 9, opset_import: ["": 20]>
    theirs (float[N, 3, 12, 10] images) => (float[N, 3] logits) {
        first = Conv <strides = [2, 3], auto_pad = "SAME_UPPER"> (images, weights)
        bent = Gelu <approximate = "tanh"> (first)
        large = MaxPool <kernel_shape = [3, 3], strides = [3, 3], auto_pad = "SAME_LOWER"> (bent)
        all = Flatten (large)
        logits = Gemm (all, linear)
    }"""
    proto, rng = onnx.parser.parse_model(words), np.random.default_rng(0)
    for name, shape in (("weights", (4, 3, 5, 3)), ("linear", (4 * 2 * 2, 3))):
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    found = seal(proto.SerializeToString())
    assert "paddings are numbers" in found.report.changes
    outcome = outcomes(found.report)
    assert outcome["reference evaluator"] and outcome["outputs as the source's"]
    conv, pool = (node for node in open_model(found.model_path).nodes if "pads" in node.integers)
    # 12 x 10 by 5 x 3 in steps of 2 x 3 gives 6 x 4; that by 3 x 3 in steps of 3 gives 2 x 2
    assert (conv.integers["pads"], pool.integers["pads"]) == ((1, 1, 2, 1), (0, 1, 0, 1))


def test_padding_of_unknown_sides_stays_a_word():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18]>
    theirs (float[N, 3, 12, 10] images, int64[4] size) => (float[N, 3, H, W] large) {
        other = Reshape (images, size)
        large = MaxPool <kernel_shape = [3, 3], auto_pad = "SAME_LOWER"> (other)
    }""")
    before = proto.SerializeToString()
    assert not adopt._pad_by_numbers(onnx.shape_inference.infer_shapes(proto).graph)
    assert not adopt._pad_by_numbers(proto.graph)
    assert proto.SerializeToString() == before


def test_free_sides_are_fixed(seal):
    found = seal(foreign.rgb(foreign.free_sides), image_size=(12, 10))
    assert open_model(found.model_path).inputs == {"images_": ("batch", 3, 12, 10)}


def test_changed_adopted_file_is_red(seal):
    model = seal(foreign.rgb()).model_path.read_bytes()
    with pytest.raises(InputError, match="was altered"):
        Classifier(faults.change_graph(model, faults.nudge_one_weight))
    changed = faults.change_sealed(model, faults.nudge_one_weight)
    assert not all(check.passed for check in run_selftest(Classifier(changed)))


@pytest.mark.parametrize(
    ("exact", "rounded", "red"),
    [(1e-3, 1e-3, "reference evaluator: float64"), (0.1, 0.0, "float32 noise")],
)
def test_runtimes_that_disagree_leave_no_file(seal, monkeypatch, tmp_path, exact, rounded, red):
    def other(proto, inputs):
        right = evaluator.evaluate(proto, inputs)
        return replace(right, exact=right.exact + exact, rounded=right.rounded + rounded)

    monkeypatch.setattr(adopt, "evaluate", other)
    with pytest.raises(CheckFailedError, match=red) as caught:
        seal(foreign.rgb())
    assert "theirs.adopt.failed.json" in caught.value.next_step
    assert not list((tmp_path / "exported").glob("*.onnx"))


def test_mean_over_thousands_of_pixels_is_adopted(seal, tmp_path):
    """Whose sums onnxruntime's fast kernels add up one after the other, far less exactly."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))  # fmt: skip
    path = tmp_path / "mean.onnx"
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(
            nn.Sequential(*layers).eval(), (torch.zeros(1, 3, 64, 64),), path, dynamo=False,
            opset_version=13, input_names=["input"], dynamic_axes={"input": {0: "N"}},
        )  # fmt: skip
    noise = np.random.default_rng(0)
    for n in range(60):
        place = tmp_path / "large" / tiny.LABELS[n % 3] / f"{n}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8)).save(place)
    assert seal(path.read_bytes(), data=str(tmp_path / "large")).report.passed


def test_copy_that_computes_something_else_leaves_no_file(seal, monkeypatch, tmp_path):
    rewrite = adopt.take_pixels

    def spoil(file):
        good = rewrite(file)
        return replace(good, data=faults.change_graph(good.data, faults.nudge_one_weight))

    monkeypatch.setattr(adopt, "take_pixels", spoil)
    with pytest.raises(CheckFailedError, match="outputs as the source's"):
        seal(foreign.rgb())
    assert not list((tmp_path / "exported").glob("*.onnx"))


def test_without_the_evaluator_onnxruntime_alone_is_the_reference(seal, monkeypatch):
    nothing = np.zeros((0, 0))
    monkeypatch.setattr(adopt, "evaluate", lambda *_: Evaluated(nothing, nothing, "no such op"))
    report = seal(foreign.rgb()).report
    assert outcomes(report)["reference evaluator"] == "skipped"
    assert "no such op" in next(c.detail for c in report.checks if c.name == "reference evaluator")
    assert report.n_evaluated == 0 < report.tolerance


def test_evaluator_stops_when_its_time_is_over(monkeypatch):
    monkeypatch.setattr(evaluator, "BUDGET_S", 0.0)
    inputs = tiny.images(5)[:, None].astype(np.float32) / 255
    found = evaluator.evaluate(onnx.load_from_string(foreign.grey()), inputs)
    assert len(found.exact) in (0, 1)
    assert "images took 0 s" in found.why


def test_evaluator_is_exact_in_float64_and_says_what_it_cannot():
    proto, images = onnx.load_from_string(foreign.grey()), tiny.images(5)
    inputs = images[:, None].astype(np.float32) / np.float32(255)
    found = evaluator.evaluate(proto, inputs)
    assert found.exact.dtype == np.float64
    assert 0 < largest_error(found.rounded, found.exact) < tiny.TOLERANCE
    assert largest_error(found.exact, tiny.logits(images)) < 1e-6  # of float32 pixels
    proto.graph.node[1].op_type = "Unheard"
    unable = evaluator.evaluate(proto, inputs)
    assert len(unable.exact) == 0
    assert "Unheard" in unable.why


def test_sealed_file_or_its_own_name_is_not_adopted(seal, tmp_path):
    with pytest.raises(InputError, match="which holds a contract"):
        seal(tiny.rgb())
    with pytest.raises(InputError, match=r"theirs\.onnx is the file to adopt"):
        seal(foreign.rgb(), out=tmp_path / "theirs.onnx")


def test_pictures_of_other_classes_are_refused(seal, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("bar\ncross\nsquare")
    with pytest.raises(InputError, match="classes that the model does not know: ring"):
        seal(foreign.rgb(), classes=names)


def test_without_test_pictures_nothing_is_adopted(seal, tmp_path):
    for picture in (tmp_path / "photos/test").rglob("*.png"):
        picture.unlink()
    with pytest.raises(InputError, match="test pictures"):
        seal(foreign.rgb())


def test_two_adoptions_give_the_same_bytes(seal, torchscript, tmp_path):
    first = seal(torchscript).model_path.read_bytes()
    assert seal(torchscript, out=tmp_path / "exported/theirs.onnx").model_path.read_bytes() == first
    assert b"site-packages" not in first
    assert str(tmp_path).encode() not in first
