"""Let a graph of integers take pixels as they are, uint8, whatever normalises them included."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.contract import Array
from .nodes import constants, readers_of

RANGE = {"rmin": np.float32(0), "rmax": np.float32(1)}  # whatever the images span
AT_ONCE = 4  # channels that a processor's integer products take at a time
WHITE = 255


def source(proto: onnx.ModelProto) -> str:
    """Return what is read of the images: all, or what is left when parts are cut off or added."""
    return str([proto.graph.input[0].name, *(node.output[0] for node in _frame(proto))][-1])


def _frame(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that cut the images, or add to them what uint8 has too: black or white."""
    known, name, frame = constants(proto), proto.graph.input[0].name, list[onnx.NodeProto]()
    while len(found := readers_of(proto, name)) == 1:
        added = [known.get(one, np.array(np.nan)) for one in found[0].input[2:3] if one]
        fits = all(one.dtype == np.uint8 or np.isin(one, (0, 1)).all() for one in added)
        if found[0].op_type != "Slice" and not (found[0].op_type == "Pad" and fits):
            break
        frame, name = [*frame, *found], found[0].output[0]
    return frame


def fold(proto: onnx.ModelProto, layers: Sequence[str]) -> onnx.ModelProto:
    """Return a float graph whose first layer, one of these names, takes pixels nobody normalised.

    Its weights hold the scale. The offset is not a bias: a convolution pads with zeros, which stood
    for the mean. So images get channels that are white, and end where the image ends; the layer's
    weights of those give the offset. There are as many as make the channels a multiple of four.
    A graph that normalises nothing, or in any other way, is returned as it is.
    """
    known, taken, name = constants(proto), source(proto), source(proto)
    scale, offset, chain = np.ones(1), np.zeros(1), list[onnx.NodeProto]()
    while len(found := readers_of(proto, name)) == 1 and found[0].op_type in ("Add", "Mul"):
        value = _of_channels(found[0], known)
        if value is None:
            return proto
        is_sum = found[0].op_type == "Add"
        scale, offset = (scale, offset + value) if is_sum else (scale * value, offset * value)
        chain, name = [*chain, *found], found[0].output[0]
    if not (chain and len(found) == 1 and found[0].name in layers and _is_plain(found[0], known)):
        return proto
    weights = known[found[0].input[1]]
    n_channels = weights.shape[1]
    n_white = -n_channels % AT_ONCE or AT_ONCE
    scale, offset = (np.broadcast_to(one, n_channels) for one in (scale, offset))
    ends = np.einsum("ocij,c->oij", weights, offset)[:, None].repeat(n_white, axis=1) / n_white
    parts = {
        "weights": np.concatenate([weights * scale[:, None, None], ends], axis=1, dtype=np.float32),
        "sides": np.array([0, 0, 0, 0, 0, n_white, 0, 0]),
        "white": np.array(1, np.float32),
    }
    layer = found[0].name
    of = {part: f"{layer}_{part}" for part in parts}
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    graph.initializer.extend(
        numpy_helper.from_array(value, of[part]) for part, value in parts.items()
    )
    place = list(proto.graph.node).index(found[0])
    graph.node[place].input[1] = of["weights"]
    pad = helper.make_node("Pad", [taken, of["sides"], of["white"]], [name], name=f"{layer}_pad")
    graph.node.insert(place, pad)
    for node in chain:
        graph.node.remove(node)
    for stale in [value for value in graph.value_info if value.name == name]:
        graph.value_info.remove(stale)
    return changed


def _of_channels(node: onnx.NodeProto, known: Mapping[str, Array]) -> Array | None:
    """Return what a sum or product does to each channel, (C,) or (1,); None if it does more."""
    values = [known[name] for name in node.input if name in known]
    if len(values) != 1 or any(side != 1 for side in values[0].shape[-2:]):
        return None
    return values[0].astype(np.float64).ravel()


def _is_plain(node: onnx.NodeProto, known: Mapping[str, Array]) -> bool:
    """Tell whether a node is a convolution of images with all of their channels."""
    groups = next((one.i for one in node.attribute if one.name == "group"), 1)
    weights = known.get(node.input[1])
    return node.op_type == "Conv" and groups == 1 and weights is not None and weights.ndim == 4


def take_uint8(proto: onnx.ModelProto) -> None:
    """Let a quantised graph take uint8: drop the quantiser of its input, whose scale is 1 / 255."""
    graph, taken = proto.graph, source(proto)
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    known = constants(proto)
    for node in _frame(proto):
        if node.op_type == "Pad" and any(node.input[2:3]):  # others may read the same number
            value, node.input[2] = WHITE * known[node.input[2]], f"{node.output[0]}_added"
            graph.initializer.append(numpy_helper.from_array(value.astype(np.uint8), node.input[2]))
    float_readers = []
    for reader in readers_of(proto, taken):
        if reader.op_type == "QuantizeLinear":
            for dequantize in readers_of(proto, reader.output[0]):
                dequantize.input[0] = taken
            graph.node.remove(reader)
        else:
            float_readers.append(reader)
    if float_readers:  # a layer that stays float, or what normalises the images
        parts: dict[str, Any] = {"grey_scale": np.float32(1 / 255), "grey_zero": np.uint8(0)}
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value), name) for name, value in parts.items()
        )
        node = helper.make_node("DequantizeLinear", [taken, *parts], ["grey"])
        graph.node.insert(min(map(list(graph.node).index, float_readers)), node)
        for reader in float_readers:
            reader.input[:] = ["grey" if name == taken else name for name in reader.input]
