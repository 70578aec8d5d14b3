"""Rewrite an exported graph without changing what it computes.

Each function changes the ModelProto in place and states what must hold before; `finish` infers
every shape anew, strictly, and checks what must hold after. Whether the logits are still right is
proved on the sealed file, not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]

MAX_GREY = 255
TRIMMED = "trimmed"  # the images after `trim_input`


def trim_input(proto: onnx.ModelProto, sides: tuple[int, int]) -> None:
    """Let the graph cut its images to the top left `sides` (height, width), which reach the output.

    Before: the first convolution alone reads the input. Nothing changes where the images are no
    larger.

    Raises:
        ValueError: something else reads the input.
    """
    conv = _first_convolution(proto)
    graph = proto.graph
    height, width = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[2:])
    if sides == (height, width):
        return
    bounds = {"trim_starts": [0, 0], "trim_ends": list(sides), "trim_axes": [2, 3]}
    for name, values in bounds.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    trim = helper.make_node(
        "Slice", [conv.input[0], *bounds], [TRIMMED], name="trim_pixels_that_reach_no_output"
    )
    conv.input[0] = TRIMMED
    graph.node.insert(0, trim)


def take_uint8(proto: onnx.ModelProto) -> None:
    """Let the graph take grey values 0 to 255 (uint8) in place of floats in [0, 1].

    The scale goes into the first convolution's weights, in float64 and rounded once. Before: that
    convolution reads the images, cut or whole, and nothing else does.

    Raises:
        ValueError: something else reads the input.
    """
    graph = proto.graph
    conv = _first_convolution(proto)
    weight = next(tensor for tensor in graph.initializer if tensor.name == conv.input[1])
    scaled = numpy_helper.to_array(weight).astype(np.float64) / MAX_GREY
    weight.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), weight.name))
    cast = helper.make_node(
        "Cast", [conv.input[0]], ["grey"], name="grey_values_to_float", to=TensorProto.FLOAT
    )
    conv.input[0] = "grey"
    graph.node.insert(list(graph.node).index(conv), cast)
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def flatten(proto: onnx.ModelProto) -> None:
    """Let features become rows by Flatten, however the exporter wrote it.

    A Reshape may take its shape from anywhere, so its result can only be trusted after running it.
    Before: one Reshape, of which `finish` infers (batch, features). The operations that computed
    its shape go with it.

    Raises:
        ValueError: there are several.
    """
    graph = proto.graph
    reshapes = [node for node in graph.node if node.op_type == "Reshape"]
    if len(reshapes) > 1:
        raise ValueError(f"the graph has {len(reshapes)} Reshape operations, not one")
    for node in reshapes:
        node.CopyFrom(
            helper.make_node("Flatten", node.input[:1], node.output, name=node.name, axis=1)
        )
    remove_unused(proto)


def remove_unused(proto: onnx.ModelProto) -> None:
    """Remove every operation and weight that no output depends on."""
    graph = proto.graph
    while unused := [n for n in graph.node if not _is_used(proto, n.output)]:
        for node in unused:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if not readers(proto, t.name)]:
        graph.initializer.remove(tensor)


def shorten_names(proto: onnx.ModelProto) -> None:
    """Give nodes no names, and values and weights short ones; input and output keep theirs."""
    graph = proto.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = [t.name for t in graph.initializer] + [n for node in graph.node for n in node.output]
    short = {name: f"v{i}" for i, name in enumerate(n for n in names if n not in kept)}
    for tensor in (*graph.initializer, *graph.value_info):
        tensor.name = short.get(tensor.name, tensor.name)
    for node in graph.node:
        node.ClearField("name")
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]


def finish(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every intermediate shape inferred anew.

    Raises:
        onnx.shape_inference.InferenceError: the operations do not fit each other.
        ValueError: the output's shape is not what it was.
    """
    before = [_shape(value) for value in proto.graph.output]
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    after = [_shape(value) for value in inferred.graph.output]
    if before != after:
        raise ValueError(f"the output was {before} and is {after}")
    return inferred


def _first_convolution(proto: onnx.ModelProto) -> onnx.NodeProto:
    """Return the convolution that alone reads the images, perhaps through a Slice.

    Raises:
        ValueError: there is none.
    """
    name = proto.graph.input[0].name
    found = readers(proto, name)
    if len(found) == 1 and found[0].op_type == "Slice":
        found = readers(proto, found[0].output[0])
    if len(found) != 1 or found[0].op_type != "Conv":
        raise ValueError(f"{name} is read by {[node.op_type for node in found]}, not by one Conv")
    return found[0]


def _is_used(proto: onnx.ModelProto, names: Iterable[str]) -> bool:
    results = {value.name for value in proto.graph.output}
    return any(name in results or readers(proto, name) for name in names)


def readers(proto: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    """Return the nodes that take the value `name`."""
    return [node for node in proto.graph.node if name in node.input]


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
