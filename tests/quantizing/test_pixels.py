"""Graphs of integers take pixels as they are, whatever the float graph does to them first."""

import made
import numpy as np
import pytest

from convnet_edge.quantizing import pixels, portable
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.measure import cost
from convnet_edge.sealing import seal

SCALE, OFFSET = np.float32([4.4, 4.5, 3.1]), np.float32([-2.1, -2.0, 0.4])
LAYER = "sums = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]{}> ({}, w, b)"
HEAD = (
    "mean = GlobalAveragePool (sums) flat = Flatten (mean) logits = Gemm <transB = 1> (flat, v, c)"
)


def graph(before, read, channels=3, *, how="", **arrays):
    """A convolution of what `before` makes of the images, and a head."""
    arrays = {
        "w": made.draw(8, channels, 3, 3), "b": made.draw(8, 100)[:, 0],
        "v": 3 * made.draw(3, 8, seed=1), "c": np.zeros(3, np.float32), **arrays,
    }  # fmt: skip
    proto = made.graph(f"{before} {LAYER.format(how, read)} {HEAD}", arrays, channels=channels)
    for node in proto.graph.node:
        node.name = node.output[0]
    return proto


def normalising(channels, **options):
    scale, offset = (one[:channels, None, None] for one in (SCALE, OFFSET))
    before = "scaled = Mul (images, scale) normal = Add (scaled, offset)"
    return graph(before, "normal", channels, scale=scale, offset=offset, **options)


def some(channels, n=60):
    shape = (n, 8, 8, 3)[: 4 if channels == 3 else 3]
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


def opened(model, channels, dtype="float32"):
    data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    taken = {"input": seal.describe_input(dtype, (channels, 8, 8))}
    return Classifier(seal.seal(data, made.document(channels=channels) | taken))


def begins(proto):
    return [node.op_type for node in proto.graph.node][:3]


@pytest.mark.parametrize("how", ["", ", strides = [2, 2]", ", dilations = [2, 2]"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_normalises_goes_into_the_first_layer_up_to_the_border(channels, how):
    proto = normalising(channels, how=how)
    folded = pixels.fold(proto, ["sums"])
    assert begins(folded) == ["Pad", "Conv", "GlobalAveragePool"]
    (taken,) = (t for t in folded.graph.initializer if t.name == "sums_weights")
    assert taken.dims[1] == 4
    exact, said = (opened(one, channels).logits(some(channels)) for one in (proto, folded))
    np.testing.assert_allclose(said, exact, atol=2e-5)
    assert np.abs(exact).max() > 0.3
    assert begins(proto) == ["Mul", "Add", "Conv"]  # as it was


@pytest.mark.parametrize("channels", [1, 3])
def test_integers_take_pixels_and_nothing_is_a_float(channels):
    proto, images = normalising(channels), some(channels, 200)
    taken = opened(proto, channels).to_input(images)
    model = proto.SerializeToString(deterministic=True)
    made_of = portable.calibrate(model, taken).quantised()
    assert portable.is_exact(made_of)
    ran = [node.op_type for node in cost.profile(opened(made_of, channels, "uint8"), images[:1])]
    assert not {"DequantizeLinear", "QuantizeLinear", "Mul", "Add", "Conv"} & {*ran}
    assert ran.count("Pad") == 1
    exact, said = (
        opened(one, channels, dtype).logits(images)
        for one, dtype in ((proto, "float32"), (made_of, "uint8"))
    )
    assert np.abs(said - exact).max() < 0.05 * np.abs(exact).max()


OTHERWISE = {
    "nothing is normalised": ("", "images", {}),
    "each place has its own": (
        "scaled = Mul (images, places)", "scaled", {"places": np.ones((3, 8, 8), np.float32)},
    ),
    "by what is computed": ("scaled = Mul (images, images)", "scaled", {}),
    "other readers": (
        "scaled = Mul (images, scale) beside = Relu (scaled)", "scaled",
        {"scale": SCALE[:, None, None]},
    ),
    "something between": (
        "scaled = Mul (images, scale) kept = Relu (scaled)", "kept",
        {"scale": SCALE[:, None, None]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", OTHERWISE)
def test_any_other_way_is_left_as_it_is(why):
    before, read, arrays = OTHERWISE[why]
    proto = graph(before, read, **arrays)
    assert pixels.fold(proto, ["sums"]) is proto
    assert pixels.fold(normalising(3), ["logits"]).graph.node[0].op_type == "Mul"


def test_layer_of_groups_is_left_as_it_is():
    proto = normalising(3, how=", group = 3", w=made.draw(9, 1, 3, 3), b=np.zeros(9, np.float32),
                        v=made.draw(3, 9))  # fmt: skip
    assert pixels.fold(proto, ["sums"]) is proto


def test_border_s_number_may_be_read_elsewhere_too():
    sides = np.int64([0, 0, 1, 1, 0, 0, 1, 1])
    proto = graph("framed = Pad (images, sides, black)", "framed", sides=sides, black=np.float32(0))
    inner = made.onnx.helper.make_node("Pad", ["sums", "sides", "black"], ["wider"], name="wider")
    place = [node.op_type for node in proto.graph.node].index("GlobalAveragePool")
    proto.graph.node[place].input[0] = "wider"
    proto.graph.node.insert(place, inner)
    images, exact = some(3, 200), opened(proto, 3)
    data = proto.SerializeToString(deterministic=True)
    made_of = portable.calibrate(data, exact.to_input(images)).quantised()
    said = opened(made_of, 3, "uint8").logits(images)
    assert np.abs(said - exact.logits(images)).max() < 0.05


@pytest.mark.parametrize(
    ("added", "is_pixel"), [(None, True), (0.0, True), (1.0, True), (0.5, False)]
)
def test_border_of_black_or_white_is_part_of_the_image(added, is_pixel):
    value = {} if added is None else {"value": np.float32(added)}
    reads = "images, sides" + ", value" * bool(value)
    sides = np.int64([0, 0, 1, 1, 0, 0, 1, 1])
    proto = graph(f"framed = Pad ({reads})", "framed", how="", sides=sides, **value)
    images = some(3, 200)
    exact = opened(proto, 3)
    made_of = portable.calibrate(
        proto.SerializeToString(deterministic=True), exact.to_input(images)
    ).quantised()
    assert (portable.float_operations(made_of) == {}) == is_pixel
    said = opened(made_of, 3, "uint8").logits(images)
    assert np.abs(said - exact.logits(images)).max() < 0.05
