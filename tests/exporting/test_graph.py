"""Rewrites keep what the graph computes, and refuse a graph that they were not made for."""

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from onnx import helper, numpy_helper

from convnet_edge.exporting import graph

SHAPE, NEEDED = (1, 9, 9), (8, 8)  # pooling drops what the last row and column reach
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 9, 9), np.uint8)
FLOATS = IMAGES[:, None].astype(np.float32) / np.float32(255)


@pytest.fixture
def plain():
    return tiny.graph(SHAPE, "float32")


def run(proto, images):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": images})[0]


def operations(proto):
    return [node.op_type for node in proto.graph.node]


def test_cut_images_give_the_same_logits_bit_for_bit(plain):
    before = run(plain, FLOATS)
    graph.read_images(plain, NEEDED, "float32")
    after = graph.finish(plain)
    assert operations(after)[:2] == ["Slice", "Conv"]
    assert run(after, FLOATS).tobytes() == before.tobytes()


def test_grey_values_give_the_same_logits_but_for_rounding(plain):
    graph.read_images(plain, NEEDED, "uint8")
    after = graph.finish(plain)
    assert operations(after)[:3] == ["Slice", "Cast", "Conv"]
    assert np.abs(run(after, IMAGES[:, None]) - tiny.logits(IMAGES, SHAPE)).max() < tiny.TOLERANCE


def test_image_of_the_needed_size_is_not_cut(plain):
    graph.read_images(plain, SHAPE[1:], "float32")
    assert operations(plain)[0] == "Conv"


def test_shape_computed_in_the_graph_becomes_flatten(plain):
    """As torch 2.9 writes it: Shape, Gather and Concat in front of Reshape."""
    before = run(plain, FLOATS)
    nodes, weights = plain.graph.node, plain.graph.initializer
    place = operations(plain).index("Flatten")
    source, result = nodes[place].input[0], nodes[place].output[0]
    for name, value in (("zero", [0]), ("rest", [-1])):
        weights.append(numpy_helper.from_array(np.array(value, np.int64), name))
    del nodes[place]
    made = [
        helper.make_node("Shape", [source], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch_size"]),
        helper.make_node("Concat", ["batch_size", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", [source, "wanted"], [result]),
    ]
    for i, node in enumerate(made):
        nodes.insert(place + i, node)
    graph.flatten(plain)
    after = graph.finish(plain)
    assert operations(after) == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert not {"zero", "rest"} & {tensor.name for tensor in after.graph.initializer}
    assert run(after, FLOATS).tobytes() == before.tobytes()


def test_graph_that_the_rewrites_were_not_made_for_is_refused(plain):
    plain.graph.node.append(helper.make_node("Relu", ["images"], ["other"]))
    with pytest.raises(ValueError, match="images is read by"):
        graph.read_images(plain, NEEDED, "float32")
    plain.graph.node.extend(helper.make_node("Reshape", ["logits", "x"], ["y"]) for _ in range(2))
    with pytest.raises(ValueError, match="2 Reshape"):
        graph.flatten(plain)


def test_finish_refuses_another_output_shape(plain):
    plain.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    with pytest.raises(onnx.shape_inference.InferenceError):
        graph.finish(plain)
