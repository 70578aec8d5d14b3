"""Ways to break a model file on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from convnet_edge.runtime import contract
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.protobuf import Message, read_fields

Change = Callable[[onnx.ModelProto], None]


def unsealed(model: bytes) -> bytes:
    """Return the file without its contract."""
    for number, entry, start, end in read_fields(memoryview(model)):
        if number == contract.METADATA_FIELD and Message(entry).text(1) == contract.KEY:
            return model[:start] + model[end:]
    raise ValueError("no contract in it")


def change_graph(graph: bytes, change: Change) -> bytes:
    proto = onnx.load_from_string(graph)
    change(proto)
    return proto.SerializeToString()


def change_document(model: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Change the contract as an attacker would: with digests that fit again."""
    document = json.loads(json.dumps(open_model(model).contract.document))
    change(document)
    return contract.seal(unsealed(model), document)


def change_sealed(model: bytes, change: Change) -> bytes:
    """Change the graph as an attacker would: with digests that fit again."""
    document = open_model(model).contract.document
    return contract.seal(change_graph(unsealed(model), change), document)


def layer_inputs(proto: onnx.ModelProto) -> list[list[str]]:
    """Return the names of images, weights and bias of each layer, in order."""
    return [list(n.input) for n in proto.graph.node if n.op_type in ("Conv", "Gemm")]


def set_weight(proto: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def fix_batch_axis(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def nudge_one_weight(proto: onnx.ModelProto) -> None:
    def nudge(values: Any) -> Any:
        values.flat[0] += 1e-2
        return values

    set_weight(proto, layer_inputs(proto)[-1][2], nudge)  # no image can fail to notice


def spoil_for_integers(proto: onnx.ModelProto) -> None:
    """Ruin conv2's int8 scales, which floats do not notice: huge weights on a dead channel."""

    def kill(values: Any) -> Any:
        values[0] = 0
        return values

    def outlier(values: Any) -> Any:
        values[:, 0] = 100
        return values

    set_weight(proto, "layer_stack.0.weight", kill)
    set_weight(proto, "layer_stack.0.bias", kill)
    set_weight(proto, "layer_stack.3.weight", outlier)


def put_nan(proto: onnx.ModelProto) -> None:
    def spoil(values: Any) -> Any:
        values.flat[0] = np.nan
        return values

    set_weight(proto, layer_inputs(proto)[-1][1], spoil)


def lower_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 17


def raise_ir_version(proto: onnx.ModelProto) -> None:
    proto.ir_version = 10


def move_weights_outside(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def mix_rows(proto: onnx.ModelProto) -> None:
    """Let every row depend on the whole batch: right alone, wrong in company."""
    graph = proto.graph
    graph.node[-1].output[0] = "raw"
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "batch_axis"))
    graph.initializer.append(numpy_helper.from_array(np.array(1e-3, np.float32), "share"))
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["raw", "batch_axis"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["raw", "mean"], ["apart"]),
            helper.make_node("Mul", ["apart", "share"], ["drift"]),
            helper.make_node("Add", ["raw", "drift"], ["logits"]),
        ]
    )


def drop_a_class(proto: onnx.ModelProto) -> None:
    for name in layer_inputs(proto)[-1][1:]:
        set_weight(proto, name, lambda values: values[:-1])
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value -= 1
