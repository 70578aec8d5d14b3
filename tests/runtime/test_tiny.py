"""The hand-made models: real enough for every test of the device side."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny

from convnet_edge.runtime import Classifier, selftest
from convnet_edge.runtime.errors import InputError

TESTS = Path(__file__).resolve().parent
MODELS = [tiny.grey, tiny.grey_uint8]


@pytest.mark.parametrize("make", MODELS)
def test_tiny_model_opens_and_passes_its_selftest(make):
    classifier = Classifier(make())
    checks = selftest.run_selftest(classifier)
    assert [check.line() for check in checks if not check.passed or check.skipped] == []
    assert {"graph digest", "preprocessing samples"} < {check.name for check in checks}


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_tiny_model_computes_what_slow_numpy_does_at_any_batch_size(make, batch_size):
    images = tiny.images(60)
    found = Classifier(make()).logits(images, batch_size=batch_size)
    assert np.abs(found - tiny.logits(images)).max() <= tiny.TOLERANCE


def test_tiny_logits_are_clear_and_of_every_class():
    top_two = np.sort(tiny.logits(tiny.images(60)), axis=1)[:, -2:]
    assert (top_two[:, 1] - top_two[:, 0]).min() > 2 * tiny.TOLERANCE
    counts = Counter(tiny.logits(tiny.images(60)).argmax(axis=1).tolist())
    assert set(counts) == {0, 1, 2}


def test_tiny_model_gets_three_of_four_labels_right():
    said = Classifier(tiny.grey())(tiny.images(60)).labels
    assert (said == tiny.labels(60)).mean() == 0.75


@pytest.mark.parametrize("make", [*MODELS, tiny.rgb])
def test_tiny_model_is_whole_and_made_in_less_than_a_fifth_of_a_second(make):
    for part in (tiny.images, tiny.weights, tiny.pictures, make):
        part.cache_clear()
    started = time.perf_counter_ns()
    model = make()
    assert time.perf_counter_ns() - started < 0.2e9
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 18)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_colour_is_refused_with_found_expected_and_next_step():
    with pytest.raises(InputError, match="3 x 12 x 10 is not one grey image") as caught:
        Classifier(tiny.rgb())
    assert caught.value.expected
    assert "convnet-edge export" in caught.value.next_step


@pytest.mark.parametrize("part", [b"conv.weight", b'"cross"'])
def test_tiny_model_with_one_bit_altered_is_refused(part):
    altered = bytearray(tiny.grey())
    altered[altered.index(part) + len(part) - 2] ^= 1
    with pytest.raises(InputError):
        Classifier(bytes(altered))


@pytest.mark.parametrize("name", ["linear.weight", "linear.bias"])
def test_tiny_model_with_one_weight_altered_names_the_digest(name):
    weights = tiny.weights()[name].tobytes()
    altered = tiny.grey().replace(weights, bytes(len(weights)))
    assert altered != tiny.grey()
    with pytest.raises(InputError, match="its graph digest is"):
        Classifier(altered)


def test_commands_take_the_tiny_model(run, tiny_model, tmp_path):
    picture = tmp_path / "wide.png"
    picture.write_bytes(tiny.pictures()[0].encoded)
    for arguments in (["verify", tiny_model], ["inspect", tiny_model],
                      ["predict", picture, "--model", tiny_model]):  # fmt: skip
        result = run(*arguments)
        assert result.exit_code == 0, result.output


def test_tiny_models_need_no_torch():
    code = "import tiny; tiny.grey(); import sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent / "helpers")
    assert done.returncode == 0
