"""Quantise a float graph into standard QDQ, which any runtime understands.

onnxruntime's own quantiser does it; here its graph is trimmed to grey values in, float logits out.
Layers and sums become integers, products of two results and activations without an integer kernel
do not: as integers, the gates' products cost a mobilenet_v3_small 0.3 dB of signal to noise in two
trainings, and in 41 interleaved rounds on two cores no time was shown to be won by them.
"""

import copy
import itertools
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.contract import Array

CALIBRATION_BATCH_SIZE = 100
GREY_RANGE = {"rmin": np.float32(0), "rmax": np.float32(1)}
LAYERS = ("Conv", "Gemm", "MatMul")
SUMS = ("Add", "AveragePool", "GlobalAveragePool")  # of integers, scaled once
MOVES = (  # what needs no arithmetic, on integers as on floats
    "Clip", "Concat", "Flatten", "MaxPool", "Relu", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
NUDGE = 2.0**-20  # of a scale: a few roundings


@dataclass(frozen=True)
class Calibrated:
    """A float graph whose every value's range is known, to be quantised in more ways than one.

    proto: shapes inferred, each node with a name of its own. ranges: onnxruntime's, by value.
    """

    proto: onnx.ModelProto
    ranges: Any

    @property
    def layers(self) -> list[str]:
        """The names of what has weights, in order."""
        known = {tensor.name for tensor in self.proto.graph.initializer}
        nodes = self.proto.graph.node
        return [n.name for n in nodes if n.op_type in LAYERS and n.input[1] in known]

    def quantised(self, *, float_layers: Collection[str] = (), only: Collection[str] = ()) -> bytes:
        """Return the graph with integers per channel, from the ranges; it takes uint8 grey values.

        float_layers: names of those that stay float. only: those to quantise, and nothing else.
        Weights have 7 bits (`reduce_range`): with 8, x86 without VNNI saturates. What is done to
        the images before the first layer, as normalisation, stays float too. Logits are float.
        """
        from onnxruntime.quantization import QDQQuantizer, QuantType

        names, first = [node.name for node in self.proto.graph.node], self.layers[:1]
        before = itertools.takewhile(lambda name: name not in first, names)
        moves = {node.name for node in self.proto.graph.node if node.op_type in MOVES}
        quantizer = QDQQuantizer(
            copy.deepcopy(self.proto),
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=copy.deepcopy(self.ranges),  # which it changes
            nodes_to_quantize=list(only),
            nodes_to_exclude=[*float_layers, *(name for name in before if name not in moves)],
            op_types_to_quantize=[*LAYERS, *SUMS, *MOVES],
            extra_options={
                # whatever the images span
                "TensorQuantOverrides": {_taken(self.proto): [GREY_RANGE]},
                "MatMulConstBOnly": True,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised: onnx.ModelProto = quantizer.model.model
        _take_grey_values(quantised)
        _give_float_logits(quantised)
        _shorten(quantised)
        return bytes(quantised.SerializeToString(deterministic=True))


def calibrate(
    model: bytes, images: Array, *, batch_size: int = CALIBRATION_BATCH_SIZE
) -> Calibrated:
    """Run `images` through a float model once, and keep the range of every value.

    model: a ModelProto that takes (N, C, H, W) float32; a contract in it is left behind. images:
    (N, C, H, W) float32, from 0 to 1, run in batches of `batch_size`.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    del proto.metadata_props[:]
    for place, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"
    batches = [
        {proto.graph.input[0].name: images[start : start + batch_size]}
        for start in range(0, len(images), batch_size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "float.onnx")
        onnx.save(proto, path)
        calibrator = create_calibrator(
            path,
            [*LAYERS, *SUMS, *MOVES],
            augmented_model_path=str(Path(folder, "with_ranges.onnx")),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(SimpleNamespace(get_next=partial(next, iter(batches), None)))
        return Calibrated(proto, calibrator.compute_data())


def float_operations(graph: bytes) -> dict[str, int]:
    """Return how often each operator of a quantised graph computes with floats, by name."""
    nodes = onnx.load_from_string(graph).graph.node
    floats = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    exact = (*MOVES, "QuantizeLinear", "DequantizeLinear")
    return dict(
        Counter(
            node.op_type
            for node in nodes
            if node.op_type not in exact
            and not (node.op_type in (*LAYERS, *SUMS) and floats.issuperset(node.input[:2]))
        )
    )


def nudged(graph: bytes, by: float) -> bytes:
    """Return a quantised graph whose rounding falls elsewhere in ties, as on other processors.

    by: the relative change of each scale that values between layers are rounded with.
    """
    proto = onnx.load_from_string(graph)
    scales = {node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in proto.graph.initializer:
        if tensor.name in scales:
            changed = (numpy_helper.to_array(tensor) * (1 + by)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return bytes(proto.SerializeToString(deterministic=True))


def constants(proto: onnx.ModelProto) -> dict[str, Array]:
    """Return the graph's weights by name."""
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def _readers(proto: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if name in node.input]


def _taken(proto: onnx.ModelProto) -> str:
    """Return what of the images is read: all, or a part cut off first."""
    source: str = proto.graph.input[0].name
    readers = _readers(proto, source)
    is_cut = [node.op_type for node in readers] == ["Slice"]
    return str(readers[0].output[0]) if is_cut else source


def _take_grey_values(proto: onnx.ModelProto) -> None:
    """Let the graph take uint8: drop the quantiser of its input, whose scale is 1 / 255."""
    graph = proto.graph
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    source = _taken(proto)
    float_readers = []
    for reader in _readers(proto, source):
        if reader.op_type == "QuantizeLinear":
            for dequantize in _readers(proto, reader.output[0]):
                dequantize.input[0] = source
            graph.node.remove(reader)
        else:
            float_readers.append(reader)
    if float_readers:  # a layer that stays float, or the images' normalisation
        parts = {"grey_scale": np.float32(1 / 255), "grey_zero": np.uint8(0)}
        for name, value in parts.items():
            graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        node = helper.make_node("DequantizeLinear", [source, *parts], ["grey"])
        graph.node.insert(min(map(list(graph.node).index, float_readers)), node)
        for reader in float_readers:
            reader.input[:] = ["grey" if name == source else name for name in reader.input]


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
