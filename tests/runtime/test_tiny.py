"""The hand-made models: real enough for every test of the device side."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny

from convnet_edge.runtime import Classifier, selftest
from convnet_edge.runtime.errors import InputError


@pytest.mark.parametrize("make", [tiny.grey, tiny.grey_uint8, tiny.rgb])
def test_tiny_model_is_whole_and_as_export_writes_it(make):
    proto = onnx.load_from_string(make())
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 18)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_tiny_logits_are_clear_and_of_every_class_and_three_of_four_labels_right():
    logits = tiny.logits(tiny.images(60))
    top_two = np.sort(logits, axis=1)[:, -2:]
    assert (top_two[:, 1] - top_two[:, 0]).min() > 2 * tiny.TOLERANCE
    assert set(logits.argmax(axis=1)) == {0, 1, 2}
    said = Classifier(tiny.grey())(tiny.images(60)).labels
    assert (said == tiny.labels(60)).mean() == 0.75


def test_colour_answers_as_slow_numpy_does():
    images, model = tiny.images(7, tiny.RGB), Classifier(tiny.rgb(), threads=1)
    assert images.shape == (7, *model.contract.image_shape) == (7, 12, 10, 3)
    expected = tiny.logits(images, tiny.RGB)
    for found in (model(images), model(list(images))):
        assert np.abs(found.logits - expected).max() <= tiny.TOLERANCE
        assert found.labels.tolist() == expected.argmax(axis=1).tolist()
    assert repr(model) == "Classifier(tiny: 3 classes, 12 x 10 RGB, cpu, 1 threads)"
    checks = {check.name: check.passed for check in selftest.run_selftest(model)}
    assert checks["digest"] and checks["golden vectors, batch 1"]
    with pytest.raises(InputError, match=r"\(N, 12, 10, 3\) uint8"):
        model.logits(tiny.images(1))


def test_commands_take_the_tiny_model(run, tiny_model, tmp_path):
    picture = tmp_path / "wide.png"
    picture.write_bytes(tiny.pictures()[0].encoded)
    for arguments in (["verify", tiny_model], ["inspect", tiny_model],
                      ["predict", picture, "--model", tiny_model]):  # fmt: skip
        result = run(*arguments)
        assert result.exit_code == 0, result.output


def test_tiny_models_need_no_torch():
    code = "import tiny; tiny.grey(); import sys; sys.exit('torch' in sys.modules)"
    helpers = Path(__file__).resolve().parents[1] / "helpers"
    assert subprocess.run([sys.executable, "-c", code], cwd=helpers).returncode == 0
