"""Ways to break a model file on purpose."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tiny import DECISION

from convnet_edge.networks import checkpoint
from convnet_edge.runtime import contract
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import seal

Change = Callable[[onnx.ModelProto], None]
ODD = (None, True, "x", -1, 10**400, 1e-300, [], ["x", None], {}, {"x": [1]}, float("nan"))


def unsealed(model: bytes) -> bytes:
    """Return the file without its contract."""
    return change_graph(model, lambda proto: proto.ClearField("metadata_props"))


def admit_all(monkeypatch: Any) -> None:
    """Let any graph be opened, to be proved wrong by running it."""
    found = SimpleNamespace(believed=None)
    monkeypatch.setattr("convnet_edge.runtime.admission.admit", lambda *_, **__: found)


def change_graph(graph: bytes, change: Change) -> bytes:
    proto = onnx.load_from_string(graph)
    change(proto)
    return proto.SerializeToString(deterministic=True)


def change_document(model: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Change the contract as an attacker would: with a digest that fits again."""
    document = json.loads(json.dumps(open_model(model).contract.document))
    change(document)
    return contract.seal(unsealed(model), document)


def decide(model: bytes, **stated: Any) -> bytes:
    """Return the model with a decision, which stands by every answer unless `stated` differs."""
    return change_document(model, lambda document: document.update(decision=DECISION | stated))


def change_sealed(model: bytes, change: Change) -> bytes:
    """Change the graph as an attacker would: with a digest and a cost that fit again."""
    document, graph = open_model(model).contract.document, change_graph(unsealed(model), change)
    try:
        return seal.seal(graph, document)
    except InputError:  # of a graph that is refused, the cost is never compared
        return contract.seal(graph, document)


def layer_inputs(proto: onnx.ModelProto) -> list[list[str]]:
    """Return the names of images, weights and bias of each layer, in order."""
    return [list(n.input) for n in proto.graph.node if n.op_type in ("Conv", "Gemm")]


@contextmanager
def weight(proto: onnx.ModelProto, name: str) -> Iterator[Any]:
    """Give the weight of that name, to be changed in place."""
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    yield values
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def fix_batch_axis(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def nudge_one_weight(proto: onnx.ModelProto) -> None:
    with weight(proto, layer_inputs(proto)[-1][2]) as bias:  # no image can fail to notice
        bias.flat[0] += 1e-2


def spoil_for_integers(proto: onnx.ModelProto) -> None:
    """Ruin conv2's int8 scales, which floats do not notice: huge weights on a dead channel."""
    for name in ("layer_stack.0.weight", "layer_stack.0.bias"):
        with weight(proto, name) as values:
            values[0] = 0
    with weight(proto, "layer_stack.3.weight") as values:
        values[:, 0] = 100


def put_nan(proto: onnx.ModelProto) -> None:
    with weight(proto, layer_inputs(proto)[-1][1]) as values:
        values.flat[0] = np.nan


def change_format(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version, proto.ir_version = 17, 10


def move_weights_outside(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def mix_rows(proto: onnx.ModelProto) -> None:
    """Let every row depend on the whole batch: right alone, wrong in company."""
    graph = proto.graph
    graph.node[-1].output[0] = "raw"
    for name, value in (("batch_axis", np.int64([0])), ("share", np.float32(1e-3))):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for op_type, inputs, output in (
        ("ReduceMean", ["raw", "batch_axis"], "mean"),
        ("Sub", ["raw", "mean"], "apart"),
        ("Mul", ["apart", "share"], "drift"),
        ("Add", ["raw", "drift"], "logits"),
    ):
        graph.node.append(helper.make_node(op_type, inputs, [output]))


def drop_a_class(proto: onnx.ModelProto) -> None:
    names = layer_inputs(proto)[-1][1:]
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor)[:-1]
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value -= 1


def mutations(value: Any) -> list[Any]:
    """Return copies of a JSON value, each with one part of it odd or left out."""
    found = list(ODD)
    if isinstance(value, dict):
        found += [{k: v for k, v in value.items() if k != key} for key in value]
        found += [value | {key: odd} for key, one in value.items() for odd in mutations(one)]
    if isinstance(value, list):
        found += [[*value[:i], odd, *value[i + 1 :]]
                  for i, one in enumerate(value) for odd in mutations(one)]  # fmt: skip
    return found


def change_header(stored: bytes, header: Any) -> bytes:
    """Return a safetensors file with another header of ours; its tensors stay as they are."""
    end = 8 + int.from_bytes(stored[:8], "little")
    listed = json.loads(stored[8:end])
    listed["__metadata__"] = {checkpoint.HEADER_KEY: json.dumps(header)}
    text = json.dumps(listed).encode()
    return len(text).to_bytes(8, "little") + text + stored[end:]
