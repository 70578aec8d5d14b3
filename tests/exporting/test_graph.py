"""Rewrites keep what the graph computes, and refuse a graph that they were not made for."""

import faults
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from convnet_edge.exporting import graph


@pytest.fixture
def plain(graph_bytes):
    """The exported graph as it was before its input was cut."""
    proto = onnx.load_from_string(graph_bytes)
    trim = proto.graph.node[0]
    assert trim.op_type == "Slice"
    proto.graph.node[1].input[0] = "images"
    proto.graph.node.remove(trim)
    return graph.finish(proto)


def run(proto, images):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": images})[0]


def scaled(images):
    return images[:, None].astype(np.float32) / np.float32(255)


def test_cut_images_give_the_same_logits_bit_for_bit(plain, graph_bytes, test_set):
    images = scaled(test_set.images[:500])
    before, after = run(plain, images), run(onnx.load_from_string(graph_bytes), images)
    assert before.tobytes() == after.tobytes()


def test_grey_values_give_the_same_logits_but_for_rounding(plain, test_set):
    images = test_set.images[:500]
    before = run(plain, scaled(images))
    graph.take_uint8(plain)
    after = run(graph.finish(plain), images[:, None])
    assert 0 < np.abs(after - before).max() < 1e-4


def test_image_of_the_needed_size_is_not_cut(plain):
    graph.trim_input(plain, (28, 28))
    assert plain.graph.node[0].op_type == "Conv"


def test_shape_computed_in_the_graph_becomes_flatten(plain, test_set):
    """As torch 2.9 writes it: Shape, Gather and Concat in front of Reshape."""
    before = run(plain, scaled(test_set.images[:5]))
    nodes, weights = plain.graph.node, plain.graph.initializer
    place = next(i for i, node in enumerate(nodes) if node.op_type == "Flatten")
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
    operations = [node.op_type for node in after.graph.node]
    assert "Flatten" in operations
    assert not {"Shape", "Gather", "Concat", "Reshape"} & set(operations)
    assert not {"zero", "rest"} & {tensor.name for tensor in after.graph.initializer}
    assert run(after, scaled(test_set.images[:5])).tobytes() == before.tobytes()


def second_reader(proto):
    proto.graph.node.append(helper.make_node("Relu", ["images"], ["other"]))


@pytest.mark.parametrize(
    "step", [lambda proto: graph.trim_input(proto, (26, 26)), graph.take_uint8]
)
def test_input_read_by_something_else_is_refused(plain, step):
    second_reader(plain)
    with pytest.raises(ValueError, match="images is read by"):
        step(plain)


def test_two_reshapes_are_refused(plain):
    for _ in range(2):
        plain.graph.node.append(helper.make_node("Reshape", ["logits", "x"], ["y"]))
    with pytest.raises(ValueError, match="2 Reshape"):
        graph.flatten(plain)


def test_finish_refuses_another_output_shape_and_parts_that_do_not_fit(plain):
    faults.drop_a_class(plain)
    plain.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10
    with pytest.raises((ValueError, onnx.shape_inference.InferenceError)):
        graph.finish(plain)
