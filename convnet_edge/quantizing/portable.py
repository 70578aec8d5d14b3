"""Quantise a float graph into standard QDQ, which any runtime understands.

onnxruntime's own quantiser does it; here its graph is trimmed to pixels in, float logits out.
Hard-swish is spelled out before as a hard-sigmoid and a product, so that nothing between the layers
has to be a float.
"""

import copy
import itertools
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
from onnx import helper, numpy_helper

from ..runtime.contract import Array
from ..sealing.normalization import HIDING_WEIGHTS
from ..sealing.parity import IR_VERSIONS
from . import observe, pixels
from .correct import find_shifts, shift
from .nodes import constants, readers_of

CALIBRATION_BATCH_SIZE = 100
LAYERS = ("Conv", "Gemm", "MatMul")
MEANS = ("AveragePool", "GlobalAveragePool")
SUMS = ("Add", *MEANS)  # of integers, scaled once
PRODUCT = "Mul"  # of two results: a gate's, or a swish's
MOVES = (  # what needs no arithmetic, on integers as on floats
    "Clip", "Concat", "Flatten", "MaxPool", "Relu", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
CUTS = ("Clip", "Relu")
FLATTENING = ("Flatten", "Reshape", "Squeeze")
TABLED = "Sigmoid"  # of integers, by a table that each processor makes
IN_INTEGERS = (*LAYERS, *SUMS, PRODUCT, TABLED)
N_CORRECTING = 128  # images whose means are compared
NUDGE = 2.0**-20  # of a scale: a few roundings


@dataclass(frozen=True)
class Calibrated:
    """A float graph whose every value's range is known, to be quantised in more ways than one.

    proto: shapes inferred, each node with a name of its own, each layer with a bias. ranges:
    onnxruntime's, by value. images: (N, C, H, W) float32, which they are from.
    """

    proto: onnx.ModelProto
    ranges: Any
    images: Array

    @property
    def layers(self) -> list[str]:
        """The names of what has weights, in order."""
        known = {tensor.name for tensor in self.proto.graph.initializer}
        nodes = self.proto.graph.node
        return [n.name for n in nodes if n.op_type in LAYERS and n.input[1] in known]

    @property
    def products(self) -> list[str]:
        """The names of what multiplies two results."""
        known = {tensor.name for tensor in self.proto.graph.initializer}
        nodes = self.proto.graph.node
        return [n.name for n in nodes if n.op_type == PRODUCT and known.isdisjoint(n.input)]

    def _around(self, layers: Collection[str]) -> list[str]:
        """Return what is for float layers alone: rounded before them, or before it cuts, it loses.

        What cuts their results off, and the means that nothing else reads.
        """
        nodes = self.proto.graph.node
        given = {name for node in nodes if node.name in layers for name in node.output}
        found = [node.name for node in nodes if node.op_type in CUTS and node.input[0] in given]
        kept = {*layers}
        for node in reversed(nodes):
            readers = {one.name for one in readers_of(self.proto, node.output[0])}
            if node.op_type in (*MEANS, *FLATTENING) and readers and readers <= kept:
                kept.add(node.name)
        return [*found, *(kept - {*layers})]

    @cached_property
    def inner_ranges(self) -> Any:
        """The ranges without the outermost numbers of each value."""
        found = observe.inner_ranges(self.proto, [*self.ranges.keys()], self.images)
        return _within(self.ranges, found)

    @cached_property
    def shifts(self) -> dict[str, Array]:
        """What rounded weights take off each layer's mean, (C,)."""
        images, whole = self.images[:N_CORRECTING], self._integers(self.proto)
        return find_shifts(pixels.fold(self.proto, self.layers[:1]), whole, self.layers, images)

    def quantised(
        self,
        *,
        float_layers: Collection[str] = (),
        only: Collection[str] = (),
        inner: bool = False,
        float_products: bool = False,
        corrected: bool = False,
    ) -> bytes:
        """Return the graph with integers per channel, from the ranges; it takes uint8 grey values.

        float_layers: names of those that stay float. only: those to quantise, and nothing else.
        inner: from the ranges without the outermost numbers. float_products: gates and swishes stay
        float. corrected: what rounded weights take off the means of all layers is moved back; off
        the first one's it is always, since pixels, unlike what normalised them, are not around 0.
        Weights have 7 bits (`reduce_range`): with 8, x86 without VNNI saturates. Logits are float.
        """
        moved = {*(self.layers if corrected else self.layers[:1])} - {*float_layers}
        if only:
            moved &= {*only}
        proto = shift(self.proto, {name: by for name, by in self.shifts.items() if name in moved})
        quantised = self._integers(
            proto, inner=inner, float_products=float_products, float_layers=float_layers, only=only
        )
        _shorten(quantised)
        return bytes(quantised.SerializeToString(deterministic=True))

    def _integers(
        self,
        proto: onnx.ModelProto,
        *,
        inner: bool = False,
        float_products: bool = False,
        float_layers: Collection[str] = (),
        only: Collection[str] = (),
    ) -> onnx.ModelProto:
        """Return `proto` with integers, the names still its own."""
        from onnxruntime.quantization import QDQQuantizer, QuantType

        first = self.layers[:1]
        if {*first} - {*float_layers} and (not only or {*first} & {*only}):
            proto = pixels.fold(proto, first)
        names = [node.name for node in proto.graph.node]
        before = itertools.takewhile(lambda name: name not in first, names)
        moves = {node.name for node in proto.graph.node if node.op_type in MOVES}
        scaled = [node.name for node in proto.graph.node if node.op_type == PRODUCT]
        quantizer = QDQQuantizer(
            copy.deepcopy(proto),
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            # which it changes
            tensors_range=copy.deepcopy(self.inner_ranges if inner else self.ranges),
            nodes_to_quantize=list(only),
            nodes_to_exclude=[
                *float_layers,
                *self._around(float_layers),
                *(name for name in before if name not in moves),
                *(name for name in scaled if float_products or name not in self.products),
            ],
            op_types_to_quantize=[*LAYERS, *SUMS, PRODUCT, *MOVES],
            extra_options={
                "TensorQuantOverrides": {pixels.source(proto): [pixels.RANGE]},
                "MatMulConstBOnly": True,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised: onnx.ModelProto = quantizer.model.model
        pixels.take_uint8(quantised)
        _give_float_logits(quantised)
        _rescale_hard_sigmoids(quantised)
        _keep_float(quantised, [name for name in self.layers if name in float_layers])
        return quantised


def calibrate(
    model: bytes, images: Array, *, batch_size: int = CALIBRATION_BATCH_SIZE
) -> Calibrated:
    """Run `images` through a float model once, and keep the range of every value.

    model: a ModelProto that takes (N, C, H, W) float32; a contract in it is left behind. images:
    (N, C, H, W) float32, from 0 to 1, run in batches of `batch_size`.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    proto = onnx.load_from_string(model)
    if HIDING_WEIGHTS & {
        node.op_type for node in proto.graph.node
    }:  # weights behind them are not found
        proto = onnxscript.optimizer.optimize(proto)
    proto = onnx.shape_inference.infer_shapes(proto)
    _spell_out(proto.graph)
    proto = onnx.shape_inference.infer_shapes(proto)
    del proto.metadata_props[:]
    (opset,) = (one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    proto.ir_version = IR_VERSIONS.get(opset, proto.ir_version)
    for place, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"
    _give_biases(proto.graph)
    batches = [
        {proto.graph.input[0].name: images[start : start + batch_size]}
        for start in range(0, len(images), batch_size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "float.onnx")
        onnx.save(proto, path)
        calibrator = create_calibrator(
            path,
            [*LAYERS, *SUMS, PRODUCT, *MOVES],
            augmented_model_path=str(Path(folder, "with_ranges.onnx")),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(SimpleNamespace(get_next=partial(next, iter(batches), None)))
        ranges = calibrator.compute_data()
        return Calibrated(proto, _within(ranges, _needed(proto)), images)


def _spell_out(graph: onnx.GraphProto) -> None:
    """Write hard-swish as a product, and means over all places as such: both have integer kernels.

    graph: shapes inferred.
    """
    ranks = _ranks(graph)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for place, node in reversed([*enumerate(graph.node)]):
        (taken, *more), (given,) = node.input, node.output
        said = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "HardSwish":
            gate = f"{given}_gate"
            spelled = [
                helper.make_node("HardSigmoid", [taken], [gate], alpha=1 / 6, beta=0.5),
                helper.make_node(PRODUCT, [taken, gate], [given]),
            ]
        elif node.op_type == "ReduceMean" and ranks.get(taken) == 4:
            axes = known.get(more[0]) if more else said.get("axes")
            if axes is None or {int(axis) % 4 for axis in axes} != {2, 3}:
                continue
            spelled = [helper.make_node("GlobalAveragePool", [taken], [given])]
            if not said.get("keepdims", 1):
                spelled[0].output[0] = f"{given}_places"
                spelled.append(helper.make_node("Flatten", [f"{given}_places"], [given]))
        else:
            continue
        del graph.node[place]
        for one in reversed(spelled):
            graph.node.insert(place, one)
    _drop_unread(graph)


def _ranks(graph: onnx.GraphProto) -> dict[str, int]:
    return {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}


def _needed(proto: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Return between which numbers a value matters, of those that a hard-sigmoid cuts off.

    So scales need not span the rest: hard-swish is 0 below -3.
    """
    found = {}
    for node in proto.graph.node:
        if node.op_type == "HardSigmoid":
            readers = readers_of(proto, node.input[0])
            swish = [one for one in readers if node.output[0] in one.input]
            low, high = _ends(node)
            if readers == [node]:
                found[node.input[0]] = (low, high)
            elif len(readers) == 2 and [one.op_type for one in swish] == [PRODUCT]:
                found[node.input[0]] = (low, np.inf)
    return found


def _ends(hard_sigmoid: onnx.NodeProto) -> tuple[float, float]:
    """Return below what it is 0, and above what it is 1; no ends of one that does not rise."""
    said = {one.name: one.f for one in hard_sigmoid.attribute}
    alpha, beta = said.get("alpha", 0.2), said.get("beta", 0.5)
    return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else (-np.inf, np.inf)


def _within(ranges: Any, ends: Mapping[str, Any]) -> Any:
    """Return onnxruntime's ranges, no wider than the lowest and highest number in `ends`."""
    narrow = copy.deepcopy(ranges)
    for name, (low, high) in ends.items():
        if name in narrow:
            lowest, highest = (np.clip(one, low, high) for one in narrow[name].range_value)
            narrow[name] = type(narrow[name])(
                lowest=lowest.astype(np.float32), highest=highest.astype(np.float32)
            )
    return narrow


def _give_biases(graph: onnx.GraphProto) -> None:
    """Let each layer that may have a bias have one, so that its mean can be corrected."""
    known = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 2 and node.input[1] in known:
            rows = not any(one.name == "transB" and one.i for one in node.attribute)
            n = known[node.input[1]][node.op_type == "Gemm" and rows]
            name = f"{node.name}_bias"
            graph.initializer.append(numpy_helper.from_array(np.zeros(n, np.float32), name))
            node.input.append(name)


def float_operations(graph: bytes) -> dict[str, int]:
    """Return how often each operator of a quantised graph computes with floats, by name."""
    return dict(Counter(node.op_type for node in _in_float(onnx.load_from_string(graph))))


def is_exact(graph: bytes) -> bool:
    """Tell whether a quantised graph's logits are the same to the bit wherever it runs."""
    nodes = onnx.load_from_string(graph).graph.node
    return not float_operations(graph) and TABLED not in {node.op_type for node in nodes}


def round_trips(graph: bytes) -> int:
    """Return how often a quantised graph leaves integers for operators on floats and comes back."""
    proto = onnx.load_from_string(graph)
    nodes, stored = proto.graph.node, constants(proto)
    left = {node.output[0] for node in nodes
            if node.op_type == "DequantizeLinear" and node.input[0] not in stored}  # fmt: skip
    back = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    shared = left.union(stored)  # what several may read
    in_float, trips = {node.output[0] for node in _in_float(proto)}, list[set[str]]()
    for node in nodes:
        read = set(node.input) - shared
        continued = [trip for trip in trips if trip & read]
        if node.output[0] in in_float or (node.op_type in MOVES and continued):
            joined = {*node.input, *node.output}.union(*continued)
            trips = [trip for trip in trips if trip not in continued] + [joined]
    return sum(bool(trip & left and trip & back) for trip in trips)


def _in_float(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the operators that compute with floats in a quantised graph."""
    nodes = proto.graph.node
    floats = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    exact, images = (*MOVES, "QuantizeLinear", "DequantizeLinear"), pixels.source(proto)
    return [
        node
        for node in nodes
        if node.op_type not in exact
        and node.output[0] != images
        and not (node.op_type in IN_INTEGERS and floats.issuperset(node.input[:2]))
    ]


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


def _rescale_hard_sigmoids(proto: onnx.ModelProto) -> None:
    """Let a hard-sigmoid between integers be what it is: another scale, and saturation.

    What is rounded to 255 steps from the number below which it is 0 to that above which it is 1,
    and read as 255ths, is the hard-sigmoid. 0 is added because onnxruntime has a kernel for that
    from integers to integers: DequantizeLinear and QuantizeLinear alone pass through floats. The 0
    is of the same rank: else (64, 1024, 1, 1) takes 2 ms, not 14 us.
    """
    graph, parts, ranks = proto.graph, dict[str, Any](), _ranks(proto.graph)
    for node in [one for one in graph.node if one.op_type == "HardSigmoid"]:
        low, high = _ends(node)
        readers = readers_of(proto, node.output[0])
        if [one.op_type for one in readers] != ["QuantizeLinear"] or not -np.inf < low <= 0 <= high:
            continue
        (quantize,) = readers
        name, (given,) = node.input[0], node.output
        parts |= {"none": np.uint8(0), "one": np.float32(1), "share": np.float32(1 / 255)}
        scale, zero = np.float32((high - low) / 255), np.uint8(np.rint(-255 * low / (high - low)))
        quantize.input[1:] = [f"{given}_step", f"{given}_origin"]
        parts |= {f"{given}_step": scale, f"{given}_origin": zero}
        for dequantize in readers_of(proto, quantize.output[0]):
            dequantize.input[1:] = ["share", "none"]
        place = list(graph.node).index(node)
        graph.node.remove(node)
        nothing = f"{given}_nothing"
        rank = ranks.get(given, 1)
        parts[f"none_{rank}"] = np.zeros([1] * rank, np.uint8)
        graph.node.insert(place, helper.make_node(SUMS[0], [name, nothing], [given]))
        dequantize = helper.make_node(
            "DequantizeLinear", [f"none_{rank}", "one", "none"], [nothing]
        )
        graph.node.insert(place, dequantize)
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name) for name, value in parts.items()
    )


def _keep_float(proto: onnx.ModelProto, layers: Collection[str]) -> None:
    """Let a Max follow each of these layers, in place of Relu where that does.

    Of a float layer between integers onnxruntime makes one of integers when it opens the file, of
    8 bits and with one scale for all channels (WeightBiasQuantization, 1.32): the reference's first
    layer "in float" cost 7 dB. It looks for a layer, Relu and Clip, and knows no Max.
    """
    graph = proto.graph
    ends = {"float_zero": np.float32(0), "float_lowest": np.finfo(np.float32).min}
    used = set[str]()
    for node in [one for one in graph.node if one.name in layers]:
        (given,) = node.output
        readers = readers_of(proto, given)
        if [one.op_type for one in readers] == ["Relu"]:
            readers[0].op_type = "Max"
            readers[0].input.append("float_zero")
            used.add("float_zero")
        elif readers:
            node.output[0] = f"{given}_float"
            bound = helper.make_node("Max", [node.output[0], "float_lowest"], [given])
            graph.node.insert(list(graph.node).index(node) + 1, bound)
            used.add("float_lowest")
    graph.initializer.extend(
        numpy_helper.from_array(np.array(ends[name]), name) for name in sorted(used)
    )


def _drop_unread(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


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
    _drop_unread(graph)
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
