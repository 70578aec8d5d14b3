from pathlib import Path

import faults
import numpy as np
import onnx
import pytest
import tiny

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model

SHIPPED = sorted((Path(__file__).parents[2] / "exported").glob("fashion-mnist*.onnx"))
MODELS = {path.name: path.read_bytes() for path in SHIPPED} | {"tiny": tiny.grey()}


@pytest.mark.parametrize("name", MODELS)
def test_open_model_agrees_with_the_onnx_package(name):
    proto, file = onnx.load_from_string(MODELS[name]), open_model(MODELS[name])
    assert file.ir_version == proto.ir_version
    assert file.opsets == {entry.domain: entry.version for entry in proto.opset_import}
    assert [(n.domain, n.op_type, [*n.inputs], [*n.outputs]) for n in file.nodes] == [
        (n.domain, n.op_type, list(n.input), list(n.output)) for n in proto.graph.node
    ]
    for node, expected in zip(file.nodes, proto.graph.node, strict=True):
        for attribute in expected.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS):
                values = (value,) if isinstance(value, int) else tuple(value)
                assert node.integers.get(attribute.name, ()) == values
    for (name, weight), tensor in zip(file.weights.items(), proto.graph.initializer, strict=True):
        assert (name, weight.dims) == (tensor.name, tuple(tensor.dims))
        assert weight.content == tensor.SerializeToString(deterministic=True)
        if tensor.data_type == onnx.TensorProto.INT64:
            assert weight.integers() == tuple(onnx.numpy_helper.to_array(tensor).ravel())
    values = {v.name: v for v in (*proto.graph.value_info, *proto.graph.output)}
    assert file.shapes.keys() == values.keys()
    assert file.inputs["images"][0] == "batch"


def test_n_multiplications_are_those_that_the_contract_states():
    assert open_model(tiny.grey()).n_multiplications == 6 * 6 * 4 * 9 + 36 * 3
    fast = open_model(MODELS["fashion-mnist.int8-ort.onnx"])
    assert fast.n_multiplications == 2_215_168 < fast.contract.cost.n_multiplications


@pytest.mark.parametrize(
    ("made", "read"),
    [
        (onnx.numpy_helper.from_array(np.int64([3, -1])), (3, -1)),
        (onnx.helper.make_tensor("w", onnx.TensorProto.INT64, [2], [3, -1]), (3, -1)),
        (onnx.numpy_helper.from_array(np.int64(-(2**63))), (-(2**63),)),
        (onnx.numpy_helper.from_array(np.int64([0] * 9)), ()),
        (onnx.numpy_helper.from_array(np.int32([3])), ()),
    ],
)
def test_few_whole_numbers_are_read_however_they_are_stored(made, read):
    proto = onnx.load_from_string(tiny.grey())
    made.name = "numbers"
    proto.graph.initializer.append(made)
    assert open_model(proto.SerializeToString()).weights["numbers"].integers() == read


def test_a_constant_holds_a_tensor_of_its_own_and_no_other_operation_does():
    proto = onnx.load_from_string(tiny.grey())
    value = onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.int64([7])))
    for op_type in ("ConstantOfShape", "Constant"):
        proto.graph.node.add(op_type=op_type, output=["c"]).attribute.append(value)
    found = open_model(proto.SerializeToString()).nodes[-1]
    assert found.tensors["value"].integers() == (7,)
    proto.graph.node.add(op_type="Relu").attribute.append(value)
    with pytest.raises(InputError, match="a tensor or a graph of its own"):
        open_model(proto.SerializeToString())


def test_file_with_two_graphs_is_refused():
    """Other readers merge them, so what was looked at would not be what is run."""
    graph = onnx.load_from_string(tiny.grey()).graph
    with pytest.raises(InputError, match="2 graphs"):
        open_model(tiny.grey() + onnx.ModelProto(graph=graph).SerializeToString())


@pytest.mark.parametrize(
    "data", [b"", b"no model", b"\x89PNG\r\n\x1a\n", b"\x08\x08", bytes(1000), b"\xff" * 100]
)
def test_something_else_is_an_input_error(data):
    with pytest.raises(InputError, match="not a readable ONNX file"):
        open_model(data)


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (b"PK\x03\x04" + bytes(40), "a zip, as PyTorch's"),
        (b"\x80\x02\x8a\nl\xfc\x9c", "a pickle"),
        (b'\x40\0\0\0\0\0\0\0{"weight":', "a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "next: git lfs pull$"),
        (b"#!/usr/bin/env python3\n\0", "next: name the .onnx, or run the bundle: python3"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        ("# Umlaut ä".encode(), r"\(text\)"),
    ],
)
def test_another_kind_of_file_is_named(start, named):
    with pytest.raises(InputError, match=named):
        open_model(start)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: b"no model", "not a readable ONNX file"),
        (lambda: faults.unsealed(tiny.grey()), "no contracts in the file"),
        (lambda: faults.change_graph(tiny.grey(), faults.put_nan), "the file was altered"),
        (lambda: faults.change_sealed(tiny.grey(), rename_output), "the contract says"),
        (lambda: faults.change_sealed(tiny.grey(), raise_opset), "refuses the model"),
    ],
)
def test_error_about_a_file_names_it_once(tmp_path, content, reason):
    path = tmp_path / "third.onnx"
    path.write_bytes(content())
    with pytest.raises(InputError, match=reason) as caught:
        Classifier(path)
    assert caught.value.found.startswith(f"{path}: ")
    assert str(caught.value).count(path.name) == 1


def test_missing_file_is_to_be_named_or_exported(tmp_path):
    with pytest.raises(InputError, match=r"does not exist; .*; next: name another file, or export"):
        open_model(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="name too long"):
        open_model(tmp_path / f"{'a' * 300}.onnx")
    for n in range(6):
        (tmp_path / f"{n}.onnx").touch()
    (tmp_path / "0.json").touch()
    with pytest.raises(InputError) as caught:
        open_model(tmp_path / "absent.onnx")
    there = "0.onnx, 1.onnx, 2.onnx, 3.onnx, and 2 more"
    assert caught.value.next_step.startswith(f"name another file (there: {there}), or export")


def rename_output(proto):
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "scores"


def raise_opset(proto):
    proto.opset_import[0].version = 999
