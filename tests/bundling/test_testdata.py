"""ONNX's own test layout: read and run by the onnx package and by onnxruntime."""

import faults
import numpy as np
import onnx.version_converter
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

from convnet_edge.bundling.testdata import write_testdata
from convnet_edge.runtime import Classifier, contract
from convnet_edge.runtime.errors import InputError


@pytest.fixture(params=["float", "portable"])
def model(request):
    if request.param == "float":
        return request.getfixturevalue("model_bytes")
    return request.getfixturevalue("quantised")["portable"].model_path.read_bytes()


def test_layout_is_the_one_of_onnx_with_the_same_model(model, tmp_path):
    written = write_testdata(model, tmp_path / "out")
    names = [path.relative_to(tmp_path / "out").as_posix() for path in written]
    data_set = ["test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb"]
    assert names == ["model.onnx", "data.json", *data_set]
    assert {p for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(written)
    assert written[0].read_bytes() == model


def test_tensors_are_read_back_exactly(model, tmp_path):
    *_, input_path, output_path = write_testdata(model, tmp_path)
    stated = contract.read_contract(model)
    taken, given = (onnx.load_tensor(path) for path in (input_path, output_path))
    assert (taken.name, given.name) == (stated.input_name, stated.output_name)
    images = numpy_helper.to_array(taken)
    assert images.dtype.name == stated.input_dtype
    np.testing.assert_array_equal(images, Classifier(model).to_input(stated.goldens.images))
    logits = numpy_helper.to_array(given)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, stated.goldens.logits.astype(np.float32))


def test_two_writes_give_the_same_bytes(model, tmp_path):
    first, second = (write_testdata(model, tmp_path / name) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def reference_run(model_path, images):
    # onnx's evaluator knows DequantizeLinear from opset 19 on, where it means the same
    proto = onnx.version_converter.convert_version(onnx.load(model_path), 19)
    return ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: images})[0]


def onnxruntime_run(model_path, images):
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize("run", [reference_run, onnxruntime_run])
def test_other_runners_give_the_output_within_the_tolerance(model, tmp_path, run):
    model_path, _, input_path, output_path = write_testdata(model, tmp_path)
    images, expected = (
        numpy_helper.to_array(onnx.load_tensor(path)) for path in (input_path, output_path)
    )
    tolerance = contract.read_contract(model).goldens.tolerance
    assert np.abs(run(model_path, images) - expected).max() <= tolerance
    assert np.abs(run(model_path, images[::-1].copy()) - expected).max() > tolerance


def test_onnx_loader_takes_model_and_tolerance_and_its_judge_agrees(model, tmp_path):
    *_, input_path, output_path = write_testdata(model, tmp_path / "real" / "test_tiny")
    (case,) = load_model_tests(str(tmp_path), kind="real")
    assert case.name == "test_tiny"
    assert case.model_dir == str(tmp_path / "real" / "test_tiny")
    assert (case.atol, case.rtol) == (contract.read_contract(model).goldens.tolerance, 0)
    images, expected = (
        numpy_helper.to_array(onnx.load_tensor(path)) for path in (input_path, output_path)
    )
    found = onnxruntime_run(f"{case.model_dir}/model.onnx", images)
    Runner.assert_similar_outputs([expected], [found], case.rtol, case.atol)
    with pytest.raises(AssertionError):
        shifted = found + np.float32(2 * case.atol)
        Runner.assert_similar_outputs([expected], [shifted], case.rtol, case.atol)


def test_altered_model_is_refused_and_nothing_written(model_bytes, tmp_path):
    altered = bytearray(model_bytes)
    altered[model_bytes.index(b"layer_stack.9.weight") + 60] ^= 1
    with pytest.raises(InputError, match="altered after its export"):
        write_testdata(bytes(altered), tmp_path / "out")
    with pytest.raises(InputError, match="no contracts in the file"):
        write_testdata(faults.unsealed(model_bytes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
