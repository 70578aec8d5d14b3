"""Quantise a float graph into standard QDQ, which any runtime understands.

onnxruntime's own quantiser does it; here its graph is trimmed to grey values in, float logits out.
"""

import tempfile
from collections.abc import Collection
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.contract import Array

CALIBRATION_BATCH_SIZE = 100
GREY_RANGE = {"rmin": np.float32(0), "rmax": np.float32(1)}


def quantize_graph(model: bytes, images: Array, *, float_layers: Collection[str] = ()) -> bytes:
    """Quantise a float model statically, per channel, from the ranges that `images` give.

    model: a ModelProto that takes (N, C, H, W) float32; a contract in it is left behind. images:
    (N, C, H, W) float32, calibration, from 0 to 1. float_layers: names of nodes that stay float.
    Weights have 7 bits (`reduce_range`): with 8, x86 without VNNI saturates. The graph returned
    takes uint8 grey values and gives float logits.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    proto = onnx.load_from_string(model)
    del proto.metadata_props[:]
    add_pre_process_metadata(proto)  # else it advises that on the terminal: export did it
    batches = [
        {proto.graph.input[0].name: images[start : start + CALIBRATION_BATCH_SIZE]}
        for start in range(0, len(images), CALIBRATION_BATCH_SIZE)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantised.onnx"
        quantize_static(
            proto,
            path,
            SimpleNamespace(get_next=partial(next, iter(batches), None)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(float_layers),
            calibrate_method=CalibrationMethod.MinMax,
            # whatever the images span
            extra_options={"TensorQuantOverrides": {_taken(proto)[0]: [GREY_RANGE]}},
        )
        quantised = onnx.load(path)
    _take_grey_values(quantised)
    _give_float_logits(quantised)
    _shorten(quantised)
    return bytes(quantised.SerializeToString(deterministic=True))


def constants(proto: onnx.ModelProto) -> dict[str, Array]:
    """Return the graph's weights by name."""
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def _readers(proto: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if name in node.input]


def _taken(proto: onnx.ModelProto) -> tuple[str, onnx.NodeProto]:
    """Return what of the images is read, all or a part cut off first, and what reads it."""
    source = proto.graph.input[0].name
    (reader,) = _readers(proto, source)
    if reader.op_type == "Slice":
        source = reader.output[0]
        (reader,) = _readers(proto, source)
    return source, reader


def _take_grey_values(proto: onnx.ModelProto) -> None:
    """Let the graph take uint8: drop the quantiser of its input, whose scale is 1 / 255."""
    graph = proto.graph
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    source, reader = _taken(proto)
    if reader.op_type != "QuantizeLinear":  # the layer that reads the images stays float
        parts = {"grey_scale": np.float32(1 / 255), "grey_zero": np.uint8(0)}
        for name, value in parts.items():
            graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        node = helper.make_node("DequantizeLinear", [source, *parts], ["grey"])
        reader.input[0] = "grey"
        graph.node.insert(list(graph.node).index(reader), node)
        return
    for dequantize in _readers(proto, reader.output[0]):
        dequantize.input[0] = source
    graph.node.remove(reader)


def _give_float_logits(proto: onnx.ModelProto) -> None:
    """Drop quantiser and dequantiser of the logits: rounding them cost 42 label flips in 10,000."""
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    logits = graph.output[0].name
    dequantize = producers[logits]
    if dequantize.op_type == "DequantizeLinear":
        quantize = producers[dequantize.input[0]]
        producers[quantize.input[0]].output[0] = logits
        graph.node.remove(dequantize)
        graph.node.remove(quantize)


def _shorten(proto: onnx.ModelProto) -> None:
    """Leave out what no node reads and what a runtime infers; give values names of two letters.

    `DequantizeLinear` takes zero points of 0 for granted (1 kB), but only the biases' are left out:
    without the weights', onnxruntime 1.32 does not fuse the layers.
    """
    graph, known = proto.graph, constants(proto)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3:
            zero_point = known[node.input[2]]
            if zero_point.dtype == np.int32 and not zero_point.any():
                del node.input[2]
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
    del graph.value_info[:], proto.metadata_props[:]
    proto.ClearField("producer_name")
    proto.ClearField("producer_version")
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = [t.name for t in graph.initializer] + [n for node in graph.node for n in node.output]
    short = {name: f"v{i}" for i, name in enumerate(n for n in names if n not in kept)}
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]
    for node in graph.node:
        node.ClearField("name")
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
