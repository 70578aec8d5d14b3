"""What every rewriting of a graph asks of it."""

import onnx
from onnx import numpy_helper

from ..runtime.contract import Array


def constants(proto: onnx.ModelProto) -> dict[str, Array]:
    """Return the graph's weights by name."""
    return {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}


def readers_of(proto: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    """Return the nodes that take a value."""
    return [node for node in proto.graph.node if name in node.input]
