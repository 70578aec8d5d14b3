"""Files that are none of ours are refused before onnxruntime opens them."""

import faults
import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from convnet_edge.runtime import Classifier, session
from convnet_edge.runtime.errors import InputError

MODEL = tiny.grey()


def add_weight(proto, name, shape):
    """Add a weight of which the file says the shape alone."""
    proto.graph.initializer.append(TensorProto(name=name, data_type=1, dims=shape))


def insert_first(proto, node):
    """Let `node` stand between the images and whatever reads them."""
    for reader in proto.graph.node:
        for i, name in enumerate(reader.input):
            if name == "images":
                reader.input[i] = node.output[0]
    proto.graph.node.insert(0, node)


def custom_operation(proto):
    insert_first(proto, helper.make_node("Evil", ["images"], ["x"], domain="com.example"))
    proto.opset_import.add(domain="com.example", version=1)


def loop(proto):
    body = helper.make_graph([], "body", [], [])
    insert_first(proto, helper.make_node("Loop", ["images"], ["x"], body=body))


def filled_memory(proto):
    proto.graph.initializer.append(
        numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "shape")
    )
    insert_first(proto, helper.make_node("Expand", ["images", "shape"], ["x"]))


def tensor_in_an_attribute(proto):
    tensor = TensorProto(data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    proto.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def padded(proto):
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    kept = [a for a in conv.attribute if a.name != "pads"]
    del conv.attribute[:]
    conv.attribute.extend([*kept, helper.make_attribute("pads", [30_000] * 4)])


def turned_product(proto):
    gemm = next(node for node in proto.graph.node if node.op_type == "Gemm")
    gemm.attribute.append(helper.make_attribute("transA", 1))


def product_of_weights(proto):
    add_weight(proto, "tall", (200_000, 1))
    add_weight(proto, "wide", (1, 200_000))
    proto.graph.node.insert(0, helper.make_node("Gemm", ["tall", "wide"], ["huge"]))


def two_results(proto):
    gemm = next(node for node in proto.graph.node if node.op_type == "Gemm")
    gemm.input[2] = proto.graph.node[0].output[0]


def pads_twice(proto):
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    for pads in ([30_000] * 4, [0] * 4):
        conv.attribute.append(helper.make_attribute("pads", pads))


def much_work(proto):
    add_weight(proto, "channels", (1000, 1, 160, 160))
    insert_first(proto, helper.make_node("Conv", ["images", "channels"], ["x"]))


def many_channels(proto):
    add_weight(proto, "channels", (40_000, 1, 1, 1))
    insert_first(proto, helper.make_node("Conv", ["images", "channels"], ["x"]))


def many_operations(proto):
    for i in range(101):
        insert_first(proto, helper.make_node("Relu", ["images"], [f"x{i}"]))


def function(proto):
    proto.functions.add(name="f", domain="com.example")


def sparse_weight(proto):
    proto.graph.sparse_initializer.add(dims=[1 << 40])


def larger_input(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def extra_rank(proto):
    proto.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1)


def second_input(proto):
    proto.graph.input.add().CopyFrom(proto.graph.input[0])
    proto.graph.input[-1].name = "more"


def input_twice(proto):
    proto.graph.input.add().CopyFrom(proto.graph.input[0])


def reshaped_to_one_row(proto):
    shape = numpy_helper.from_array(np.array([1, -1], np.int64), "row")
    proto.graph.initializer.append(shape)
    flatten = next(node for node in proto.graph.node if node.op_type == "Flatten")
    flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], "row"], flatten.output))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (custom_operation, "com.example.Evil"),
        (loop, "tensor or a graph of its own"),
        (filled_memory, "'Expand'"),
        (tensor_in_an_attribute, "tensor or a graph of its own"),
        (padded, "pads [30000, 30000, 30000, 30000]"),
        (pads_twice, "'pads' described twice"),
        (turned_product, "transA [1]"),
        (product_of_weights, "takes no image"),
        (two_results, "more than one result"),
        (many_channels, "one image may take 40,960,000 bytes"),
        (much_work, "multiplications, more than"),
        (many_operations, "operations, more than 100"),
        (function, "functions of its own"),
        (sparse_weight, "sparse weights"),
        (larger_input, "the graph takes (batch, 1, 1099511627776, 8)"),
        (extra_rank, "the graph takes (batch, 1, 8, 8, 1)"),
        (second_input, "2 inputs and 1 outputs"),
        (input_twice, "'images' described twice"),
        (reshaped_to_one_row, "may mix images"),
        (faults.move_weights_outside, "outside the file"),
    ],
)
def test_hostile_graph_is_refused_before_onnxruntime_sees_it(monkeypatch, change, named):
    def must_not_open(*_):
        raise AssertionError("onnxruntime was asked to open it")

    monkeypatch.setattr(session, "_open", must_not_open)
    with pytest.raises(InputError) as caught:
        Classifier(faults.change_sealed(MODEL, change))
    assert named in caught.value.found


@pytest.mark.parametrize("command", ["verify", "bench", "predict"])
def test_commands_refuse_a_hostile_file_and_write_nothing(run, tmp_path, command):
    path = tmp_path / "hostile.onnx"
    for content in (
        faults.change_sealed(MODEL, loop),
        faults.change_document(MODEL, lambda d: d["input"].update(dtype="float64")),
    ):
        path.write_bytes(content)
        result = run(command, *(["--model", path] if command == "predict" else [path]))
        assert result.exit_code == 2, result.output
        assert "expected" in result.stderr
        assert len(result.stderr) < 1000
        assert sorted(p.name for p in tmp_path.iterdir()) == ["hostile.onnx"]


def test_altered_file_is_not_opened():
    for altered, digest in (
        (faults.change_graph(MODEL, faults.nudge_one_weight), "graph digest"),
        (MODEL.replace(b'"cross"', b'"crass"'), "contract digest"),
    ):
        with pytest.raises(InputError, match=digest):
            Classifier(altered)


@pytest.mark.parametrize(
    ("stated", "named"),
    [({"dtype": "uint8"}, "the contract says uint8"), ({"name": "pixels"}, "the contract says")],
)
def test_contract_that_describes_another_graph_is_refused(stated, named):
    with pytest.raises(InputError, match=named):
        Classifier(faults.change_document(MODEL, lambda d: d["input"].update(stated)))
