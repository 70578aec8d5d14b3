"""Graphs with branches, gates and activations that have no integer kernel, made by hand."""

from dataclasses import replace
from pathlib import Path

import made
import numpy as np
import onnx
import onnxruntime.quantization
import pytest
import tiny

from convnet_edge.quantizing import observe, ort_cpu, portable
from convnet_edge.quantizing import quantize as stage
from convnet_edge.quantizing.options import QuantizeOptions
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import cost
from convnet_edge.sealing import seal

# what small networks are made of: normalisation, a depthwise layer, squeeze-and-excite, a residual
# sum, two branches side by side, a global mean
BODY = """
    scaled = Mul (images, scale)
    normalised = Add (scaled, offset)
    sums = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (normalised, w1, b1)
    active = HardSwish (sums)
    deep = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (active, w2, b2)
    squeezed = ReduceMean <keepdims = 1> (deep, sides)
    excited = Conv <kernel_shape = [1, 1]> (squeezed, w3, b3)
    gate = HardSigmoid (excited)
    gated = Mul (deep, gate)
    point = Conv <kernel_shape = [1, 1]> (gated, w4, b4)
    residual = Add (point, active)
    kept = Relu (residual)
    both = Concat <axis = 1> (kept, active)
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (both)
    mean = ReduceMean <keepdims = 0> (pooled, sides)
    logits = Gemm <transB = 1> (mean, w5, b5)
"""
WEIGHTS = {"w1": (8, 1, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (8, 8, 1, 1),
           "w5": (3, 16)}  # fmt: skip
N_LAYERS = len(WEIGHTS)
STAYS_FLOAT = {"Mul": 2, "Add": 1, "HardSwish": 1, "ReduceMean": 2, "HardSigmoid": 1}


def network() -> onnx.ModelProto:
    arrays = {
        name: 2 * made.draw(*shape, seed=i) for i, (name, shape) in enumerate(WEIGHTS.items())
    }
    arrays |= {f"b{name[1]}": made.draw(len(values), 100)[:, 0] for name, values in arrays.items()}
    constant = {"scale": np.float32([[[2.5]]]), "offset": np.float32([[[-1.2]]])}
    return made.graph(BODY, arrays | constant | {"sides": np.int64([2, 3])})


@pytest.fixture(scope="module")
def model() -> bytes:
    return network().SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return tiny.images(200)[:, None].astype(np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def calibrated(model, inputs) -> portable.Calibrated:
    return portable.calibrate(model, inputs)


def opened(graph: bytes, dtype: seal.InputDtype = "uint8") -> Classifier:
    shape = {"input": seal.describe_input(dtype, tiny.GREY)}
    return Classifier(seal.seal(graph, made.document() | shape))


def test_branching_graph_computes_nearly_the_same_with_integers(model, calibrated):
    images = tiny.images(300)[200:]
    exact = opened(model, "float32").logits(images)
    said = opened(calibrated.quantised()).logits(images)
    signal, noise = ((one**2).sum() for one in (exact - exact.mean(axis=0), said - exact))
    assert signal / noise > 100
    assert (said.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.9


def test_layers_and_sums_run_as_integers_and_the_rest_is_counted(calibrated):
    graph = calibrated.quantised()
    ran = [node.op_type for node in cost.profile(opened(graph), tiny.images(1))]
    assert (ran.count("QLinearConv"), ran.count("QGemm"), ran.count("QLinearAdd")) == (4, 1, 1)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm"} & set(ran)
    assert portable.float_operations(graph) == STAYS_FLOAT
    # normalisation; HardSwish; ReduceMean; HardSigmoid and Mul; ReduceMean
    assert portable.round_trips(graph) == 5
    # with the depthwise layer in float, HardSwish and the first ReduceMean are of the same
    assert portable.round_trips(calibrated.quantised(float_layers=calibrated.layers[1:2])) == 4


def test_all_integer_chain_counts_no_float_operation(inputs):
    chain = tiny.graph(tiny.GREY, "float32").SerializeToString()
    graph = portable.calibrate(chain, inputs).quantised()
    assert (portable.float_operations(graph), portable.round_trips(graph)) == ({}, 0)


def test_ranges_are_measured_once_and_kept(monkeypatch, model, inputs):
    real, calls = onnxruntime.quantization.create_calibrator, []
    monkeypatch.setattr(
        onnxruntime.quantization,
        "create_calibrator",
        lambda *given, **options: calls.append(1) or real(*given, **options),
    )
    calibrated = portable.calibrate(model, inputs)
    first, others = calibrated.quantised(), calibrated.quantised(float_layers=calibrated.layers[:2])
    assert first == calibrated.quantised() != others
    assert len(calls) == 1


def test_layers_have_names_even_where_the_file_gives_none(model, calibrated):
    assert not any(node.name for node in onnx.load_from_string(model).graph.node)
    assert len(set(calibrated.layers)) == N_LAYERS
    noisiest = calibrated.layers[1]
    left = portable.float_operations(calibrated.quantised(float_layers=[noisiest]))
    assert left == STAYS_FLOAT | {"Conv": 1, "Max": 1}
    alone = portable.float_operations(calibrated.quantised(only=[noisiest]))
    assert (alone["Conv"], alone["Gemm"], alone["Add"]) == (3, 1, 2)


def test_images_that_two_operations_read_are_taken_as_grey_values(inputs):
    proto = made.graph(
        """
        sums = Conv <kernel_shape = [8, 8]> (images, w, b)
        flat = Flatten (images)
        beside = Gemm <transB = 1> (flat, v, b)
        other = Flatten (sums)
        logits = Add (other, beside)
        """,
        {"w": made.draw(3, 1, 8, 8), "v": made.draw(3, 64, seed=1), "b": np.zeros(3, np.float32)},
    )
    model = proto.SerializeToString(deterministic=True)
    calibrated = portable.calibrate(model, inputs)
    exact = opened(model, "float32").logits(tiny.images(50))
    for float_layers in ((), calibrated.layers[:1], calibrated.layers):
        graph = calibrated.quantised(float_layers=float_layers)
        np.testing.assert_allclose(opened(graph).logits(tiny.images(50)), exact, atol=0.1)


def test_nudged_scales_turn_a_rounding_and_no_more(calibrated):
    graph, images = calibrated.quantised(), tiny.images(200)
    said = opened(graph).logits(images)
    nudged = opened(portable.nudged(graph, portable.NUDGE)).logits(images)
    assert graph != portable.nudged(graph, portable.NUDGE)
    assert 0 < np.abs(said - nudged).max() < 0.2


def test_float_layer_between_integers_stays_one_when_it_is_opened(inputs):
    """onnxruntime makes integers of a float layer that lies between them."""
    chain = portable.calibrate(tiny.graph(tiny.GREY, "float32").SerializeToString(), inputs)
    graph = chain.quantised(float_layers=chain.layers[:1])
    opened_ = opened(graph)
    ran = [node.op_type for node in cost.profile(opened_, tiny.images(1))]
    assert (ran.count("Conv") + ran.count("FusedConv"), ran.count("QGemm")) == (1, 1)
    plain = Classifier(opened_.file, settings=replace(opened_.session.settings, fuse=False))
    images = tiny.images(100)
    np.testing.assert_allclose(opened_.logits(images), plain.logits(images), atol=1e-5)


def test_corrected_biases_move_each_channels_mean_back(calibrated, inputs):
    """A layer's mean is off by what rounding its weights shifts; half of it and more is gone."""

    def off(graph):
        said = opened(graph).logits(tiny.images(200)).astype(float)
        exact = opened(calibrated.proto.SerializeToString(), "float32").logits(tiny.images(200))
        return np.abs((said - exact).mean(axis=0)).max()

    assert off(calibrated.quantised(corrected_with=())) < off(calibrated.quantised()) / 2
    assert calibrated.quantised(corrected_with=()) == calibrated.quantised(corrected_with=())


def test_layers_without_a_bias_get_one(inputs):
    proto = made.graph(
        """
        sums = Conv <kernel_shape = [8, 8]> (images, w)
        flat = Flatten (sums)
        logits = Gemm <transB = 1> (flat, v)
        """,
        {"w": made.draw(4, 1, 8, 8), "v": made.draw(3, 4, seed=1)},
    )
    calibrated = portable.calibrate(proto.SerializeToString(deterministic=True), inputs)
    assert [len(node.input) for node in calibrated.proto.graph.node] == [3, 1, 3]
    assert [one.shape[1] for one in calibrated.means.values()] == [4, 3]
    opened(calibrated.quantised(corrected_with=())).logits(tiny.images(5))


def test_inner_ranges_leave_out_the_outermost_numbers(monkeypatch, model, inputs):
    monkeypatch.setattr(observe, "CUT", 0.01)
    monkeypatch.setattr(observe, "AT_ONCE", 2000)
    calibrated = portable.calibrate(model, inputs)
    names = [*calibrated.ranges.keys()]
    values = {name: [] for name in names}
    for found in observe.run(calibrated.proto, names, inputs):
        for name, value in zip(names, found, strict=True):
            values[name].append(value.ravel())
    for name in names:
        every = np.sort(np.concatenate(values[name]))
        n = int(0.01 * len(every))
        low, high = calibrated.inner_ranges[name].range_value
        assert (low, high) == (every[n], every[-1 - n])
    assert calibrated.quantised(inner=True) != calibrated.quantised()


def test_fast_layout_of_a_branching_graph_is_refused_before_pictures_are_read(model, tmp_path):
    path = Path(tmp_path, "branching.onnx")
    path.write_bytes(seal.seal(model, made.document()))
    with pytest.raises(InputError, match="4 Conv, 1 Gemm and 2 Add, 1 Concat") as caught:
        stage.quantize(QuantizeOptions(path, layout="ort-cpu", out=tmp_path / "x.onnx"))
    assert caught.value.expected == ort_cpu.FITTING
    assert "portable" in caught.value.next_step
