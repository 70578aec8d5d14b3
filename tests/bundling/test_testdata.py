"""ONNX's own test layout: read and run by the onnx package and by onnxruntime."""

from pathlib import Path

import numpy as np
import onnx.version_converter
import onnxruntime
import pytest
from emulated import EXPORTED
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.runtime import Classifier

MODELS = [EXPORTED / f"fashion-mnist{kind}.onnx" for kind in ("", ".int8")]


@pytest.fixture(params=MODELS, ids=["float", "portable"])
def model(request):
    return request.param


def lay_out(model, out):
    """Return the files: model, tolerance, input, output."""
    made = bundle(BundleOptions((model,), target="testdata", out=out))
    return [Path(path) for path in made.document["files"]]


def test_tensors_are_read_back_exactly_and_two_writes_are_the_same(model, tmp_path):
    first, second = lay_out(model, tmp_path / "a"), lay_out(model, tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert {p for p in (tmp_path / "a").rglob("*") if p.is_file()} == set(first)
    assert first[0].read_bytes() == model.read_bytes()
    classifier = Classifier(model)
    stated = classifier.contract
    taken, given = (onnx.load_tensor(path) for path in first[2:])
    assert (taken.name, given.name) == (stated.input_name, stated.output_name)
    images = numpy_helper.to_array(taken)
    assert images.dtype.name == stated.input_dtype
    np.testing.assert_array_equal(images, classifier.to_input(stated.goldens.images))
    logits = numpy_helper.to_array(given)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, stated.goldens.logits.astype(np.float32))


def reference_run(model_path, images):
    # onnx's evaluator knows DequantizeLinear from opset 19 on, where it means the same
    proto = onnx.version_converter.convert_version(onnx.load(model_path), 19)
    return ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: images})[0]


def onnxruntime_run(model_path, images):
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize("run", [reference_run, onnxruntime_run])
def test_onnx_loads_the_case_and_judges_other_runners_by_the_tolerance(model, tmp_path, run):
    model_path, _, *data_set = lay_out(model, tmp_path / "real" / "test_tiny")
    (case,) = load_model_tests(str(tmp_path), kind="real")
    assert (case.name, case.model_dir) == ("test_tiny", str(model_path.parent))
    assert (case.atol, case.rtol) == (Classifier(model).tolerance, 0)
    images, expected = (numpy_helper.to_array(onnx.load_tensor(path)) for path in data_set)
    found = run(model_path, images)
    Runner.assert_similar_outputs([expected], [found], case.rtol, case.atol)
    for wrong in (found + np.float32(2 * case.atol), found[::-1]):
        with pytest.raises(AssertionError):
            Runner.assert_similar_outputs([expected], [wrong], case.rtol, case.atol)
