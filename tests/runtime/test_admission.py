"""Files that are none of ours are refused before onnxruntime opens them."""

from functools import partial

import faults
import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from convnet_edge.runtime import Classifier, session
from convnet_edge.runtime.errors import InputError

MODEL = tiny.grey()
CONV, FLATTEN, GEMM = 0, 3, -1  # where they stand in it


def add_weight(proto, name, shape):
    """Add a weight of which the file says the shape alone."""
    proto.graph.initializer.append(TensorProto(name=name, data_type=1, dims=shape))


def insert_first(proto, op_type, *others, output="x", **about):
    """Let an operation stand between the images and whatever reads them."""
    for reader in proto.graph.node:
        reader.input[:] = [output if name == "images" else name for name in reader.input]
    node = helper.make_node(op_type, ["images", *others], [output], **about)
    proto.graph.node.insert(0, node)


def custom_operation(proto):
    insert_first(proto, "Evil", domain="com.example")
    proto.opset_import.add(domain="com.example", version=1)


def filled_memory(proto):
    shape = np.array([1 << 20, 1 << 20], np.int64)
    proto.graph.initializer.append(numpy_helper.from_array(shape, "shape"))
    insert_first(proto, "Expand", "shape")


def tensor_in_an_attribute(proto):
    tensor = TensorProto(data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    proto.graph.node[CONV].attribute.append(helper.make_attribute("value", tensor))


def attributes(proto, node, name, *values):
    made = [helper.make_attribute(name, value) for value in values]
    proto.graph.node[node].attribute.extend(made)


def product_of_weights(proto):
    add_weight(proto, "tall", (200_000, 1))
    add_weight(proto, "wide", (1, 200_000))
    proto.graph.node.insert(0, helper.make_node("Gemm", ["tall", "wide"], ["huge"]))


def two_results(proto):
    proto.graph.node[GEMM].input[2] = proto.graph.node[CONV].output[0]


def first_layer(proto, *dims):
    add_weight(proto, "channels", dims)
    insert_first(proto, "Conv", "channels")


def many_operations(proto):
    for i in range(101):
        insert_first(proto, "Relu", output=f"x{i}")


def input_again(proto, name="images"):
    proto.graph.input.add().CopyFrom(proto.graph.input[0])
    proto.graph.input[-1].name = name


def larger_input(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def reshaped_to_one_row(proto):
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), "row"))
    flatten = proto.graph.node[FLATTEN]
    flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], "row"], flatten.output))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (custom_operation, "com.example.Evil"),
        (partial(insert_first, op_type="Loop", body=helper.make_graph([], "body", [], [])),
         "tensor or a graph of its own"),
        (filled_memory, "'Expand'"),
        (tensor_in_an_attribute, "tensor or a graph of its own"),
        (lambda p: attributes(p, CONV, "pads", [30_000] * 4), "pads [30000, 30000, 30000, 30000]"),
        (lambda p: attributes(p, CONV, "pads", [30_000] * 4, [0] * 4), "'pads' described twice"),
        (lambda p: attributes(p, GEMM, "transA", 1), "transA [1]"),
        (product_of_weights, "takes no image"),
        (two_results, "more than one result"),
        (lambda p: first_layer(p, 40_000, 1, 1, 1), "one image may take 40,960,000 bytes"),
        (lambda p: first_layer(p, 1000, 1, 160, 160), "multiplications, more than"),
        (many_operations, "operations, more than 100"),
        (lambda p: p.functions.add(name="f", domain="com.example"), "functions of its own"),
        (lambda p: p.graph.sparse_initializer.add(dims=[1 << 40]), "sparse weights"),
        (larger_input, "the graph takes (batch, 1, 1099511627776, 8)"),
        (lambda p: p.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1),
         "the graph takes (batch, 1, 8, 8, 1)"),
        (partial(input_again, name="more"), "2 inputs and 1 outputs"),
        (input_again, "'images' described twice"),
        (reshaped_to_one_row, "may mix images"),
        (faults.move_weights_outside, "outside the file"),
    ],
)  # fmt: skip
def test_hostile_graph_is_refused_before_onnxruntime_sees_it(monkeypatch, change, named):
    def must_not_open(*_):
        raise AssertionError("onnxruntime was asked to open it")

    monkeypatch.setattr(session, "_open", must_not_open)
    with pytest.raises(InputError) as caught:
        Classifier(faults.change_sealed(MODEL, change))
    assert named in caught.value.found


@pytest.mark.parametrize("stated", [{"dtype": "uint8"}, {"name": "pixels"}])
def test_contract_that_describes_another_graph_is_refused(stated):
    with pytest.raises(InputError, match="the contract says"):
        Classifier(faults.change_document(MODEL, lambda d: d["input"].update(stated)))
