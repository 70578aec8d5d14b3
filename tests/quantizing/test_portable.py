"""Graphs with branches, gates and swishes, made by hand."""

from dataclasses import replace
from pathlib import Path

import made
import numpy as np
import onnx
import onnxruntime.quantization
import pytest
import tiny
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from convnet_edge.quantizing import correct, observe, ort_cpu, pixels, portable
from convnet_edge.quantizing import quantize as stage
from convnet_edge.quantizing.options import QuantizeOptions
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import cost
from convnet_edge.sealing import seal

N_LAYERS = len(made.WEIGHTS)
NORMALISATION = {"Mul": 1, "Add": 1}
GATES = {"Mul": 2, "HardSigmoid": 2}  # and the swish, as floats; the mean stays one of integers


@pytest.fixture(scope="module")
def model() -> bytes:
    return made.branching().SerializeToString(deterministic=True)


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


def test_all_runs_as_integers_or_is_counted(calibrated):
    graph = calibrated.quantised()
    ran = [node.op_type for node in cost.profile(opened(graph), tiny.images(1))]
    # the residual sum, and a hard-sigmoid each of the swish and of the gate
    assert (ran.count("QLinearConv"), ran.count("QGemm"), ran.count("QLinearAdd")) == (4, 1, 3)
    assert (ran.count("QLinearMul"), ran.count("QLinearGlobalAveragePool")) == (2, 2)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "HardSigmoid", "ReduceMean"} & set(ran)
    assert (portable.float_operations(graph), portable.round_trips(graph)) == ({}, 0)
    assert portable.is_exact(graph)
    floats = calibrated.quantised(float_products=True)
    assert portable.float_operations(floats) == GATES
    assert portable.round_trips(floats) == 2  # the swish; the gate
    assert not portable.is_exact(floats)
    # what normalises stays with a first layer of floats
    first = portable.float_operations(calibrated.quantised(float_layers=calibrated.layers[:1]))
    assert first.items() >= NORMALISATION.items()


def opened_by_a_gate(how: str) -> bytes:
    """Return a graph of three sums, each times its own hard-sigmoid."""
    body = f"""
        sums = Conv <kernel_shape = [8, 8]> (images, w, b)
        gate = HardSigmoid {how} (sums)
        opened = Mul (sums, gate)
        flat = Flatten (opened)
        logits = Gemm <transB = 1> (flat, v, b)
    """
    arrays = {"w": 4 * made.draw(3, 1, 8, 8), "v": np.eye(3, dtype=np.float32)}
    proto = made.graph(body, arrays | {"b": np.zeros(3, np.float32)})
    return proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("said", [{}, {"alpha": 0.5, "beta": 0.25}, {"alpha": 1 / 6, "beta": 0.5}])
def test_hard_sigmoid_is_another_scale_and_saturation(inputs, said):
    """Within a step of what it gives as floats, whatever its slope; a swish needs nothing below."""
    how = ", ".join(f"{name} = {value}" for name, value in said.items())
    model = opened_by_a_gate(f"<{how}>" * bool(how))
    calibrated = portable.calibrate(model, inputs)
    alpha, beta = said.get("alpha", 0.2), said.get("beta", 0.5)
    low, high = calibrated.ranges["sums"].range_value
    assert low == pytest.approx(-beta / alpha)
    images = tiny.images(300)[200:]
    exact = opened(model, "float32").logits(images)
    graph = calibrated.quantised()
    step = (high - low) / 255
    assert np.abs(opened(graph).logits(images) - exact).max() < 4 * step
    assert (portable.float_operations(graph), portable.is_exact(graph)) == ({}, True)
    assert (exact < -1e-3).any() and (exact > 1).any()


@pytest.mark.parametrize("alpha", [0.0, -0.2])
def test_hard_sigmoid_that_does_not_rise_stays_one_of_floats(inputs, alpha):
    model = opened_by_a_gate(f"<alpha = {alpha}>")
    graph = portable.calibrate(model, inputs).quantised(corrected=True)
    assert portable.float_operations(graph) == {"HardSigmoid": 1}
    images = tiny.images(50)
    exact = opened(model, "float32").logits(images)
    np.testing.assert_allclose(opened(graph).logits(images), exact, atol=0.2)


def test_bias_that_is_computed_is_left_as_it_is(inputs):
    proto = made.graph(
        """
        shifted = Add (b, b)
        sums = Conv <kernel_shape = [8, 8]> (images, w, shifted)
        flat = Flatten (sums)
        logits = Gemm <transB = 1> (flat, v, b)
        """,
        {"w": made.draw(3, 1, 8, 8), "v": made.draw(3, 3, seed=1), "b": np.ones(3, np.float32)},
    )
    calibrated = portable.calibrate(proto.SerializeToString(deterministic=True), inputs)
    assert [*calibrated.shifts] == calibrated.layers[1:]


def test_sigmoid_is_one_of_integers_by_a_table_that_each_processor_makes(inputs):
    proto = made.graph(
        """
        sums = Conv <kernel_shape = [8, 8]> (images, w, b)
        gate = Sigmoid (sums)
        opened = Mul (sums, gate)
        flat = Flatten (opened)
        logits = Gemm <transB = 1> (flat, v, b)
        """,
        {"w": made.draw(3, 1, 8, 8), "v": made.draw(3, 3, seed=1), "b": np.zeros(3, np.float32)},
    )
    graph = portable.calibrate(proto.SerializeToString(deterministic=True), inputs).quantised()
    ran = [node.op_type for node in cost.profile(opened(graph), tiny.images(1))]
    assert {"QLinearSigmoid", "QLinearMul"} <= {*ran}
    assert (portable.float_operations(graph), portable.round_trips(graph)) == ({}, 0)
    assert not portable.is_exact(graph)


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
    assert left == {"Conv": 1, "Max": 1}
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


def test_corrected_biases_move_back_what_rounded_weights_shift(calibrated):
    """Seen in the biases: each is off by its weights' error times the mean of what it reads."""
    shifts, second = calibrated.shifts, calibrated.layers[1]
    assert [*shifts] == calibrated.layers
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in calibrated.proto.graph.initializer}
    error = stored["w2"] - correct._weights(calibrated._integers(calibrated.proto))[second]
    assert 0 < np.abs(error).max() < np.abs(stored["w2"]).max() / 64
    (read,) = zip(*observe.run(calibrated.proto, ["active"], calibrated.images[:128]), strict=True)
    read = torch.from_numpy(np.concatenate(read))
    off = F.conv2d(read, torch.from_numpy(error), padding=1, groups=8).mean((0, 2, 3)).numpy()
    assert np.abs(off).max() > 1e-3
    np.testing.assert_allclose(shifts[second], off, atol=3e-4)
    assert calibrated.quantised(corrected=True) == calibrated.quantised(corrected=True)
    assert calibrated.quantised(corrected=True) != calibrated.quantised()


def test_first_layer_is_always_corrected_since_pixels_are_not_around_0(calibrated):
    first, images = calibrated.layers[0], calibrated.images[:128]
    proto = pixels.fold(calibrated.proto, [first])
    rounded = onnx.ModelProto()
    rounded.CopyFrom(proto)
    (weights,) = (t for t in rounded.graph.initializer if t.name == f"{first}_weights")
    said = correct._weights(calibrated._integers(calibrated.proto))[first]
    weights.CopyFrom(onnx.numpy_helper.from_array(said, weights.name))
    exact, off = (
        np.concatenate([sums for (sums,) in observe.run(one, ["sums"], images)]).mean((0, 2, 3))
        for one in (proto, rounded)
    )
    assert np.abs(exact - off).max() > 3e-3
    np.testing.assert_allclose(calibrated.shifts[first], exact - off, atol=3e-4)
    shifted = correct.shift(calibrated.proto, {first: calibrated.shifts[first]})
    made_so = replace(calibrated, proto=shifted)._integers(shifted)
    portable._shorten(made_so)
    assert calibrated.quantised() == made_so.SerializeToString(deterministic=True)


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
    assert [len(one) for one in calibrated.shifts.values()] == [4, 3]
    opened(calibrated.quantised(corrected=True)).logits(tiny.images(5))


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
        least, most = portable._needed(calibrated.proto).get(name, (-np.inf, np.inf))
        assert low == max(every[n], np.float32(least))
        assert high == min(every[-1 - n], np.float32(most))
    assert calibrated.quantised(inner=True) != calibrated.quantised()


def test_fast_layout_of_a_branching_graph_is_refused_before_pictures_are_read(model, tmp_path):
    path = Path(tmp_path, "branching.onnx")
    path.write_bytes(seal.seal(model, made.document()))
    with pytest.raises(InputError, match="4 Conv, 1 Gemm and 2 Add, 1 Concat") as caught:
        stage.quantize(QuantizeOptions(path, layout="ort-cpu", out=tmp_path / "x.onnx"))
    assert caught.value.expected == ort_cpu.FITTING
    assert "portable" in caught.value.next_step
