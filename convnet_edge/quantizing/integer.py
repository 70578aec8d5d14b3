"""Turn the float convnet into integers: standard QDQ, and the layout onnxruntime's CPU likes best.

Both layouts hold the same weights, scales and zero points. `quantize_graph` makes the portable one
with onnxruntime's own quantizer; `to_ort_cpu` writes the same integers for the kernels that
onnxruntime's CPU provider has. Whether the result is good enough is the quantize stage's business.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..exporting import graph as rewrite

Array = np.ndarray[Any, np.dtype[Any]]

CALIBRATION_BATCH_SIZE = 100
GROUP = 4  # columns of the image that conv1 takes as channels
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Layer:
    """One integer Conv or Gemm, as the quantised graph holds it.

    weight: (K, C, k, k) or (K, F) int8. weight_scale: (K,). bias: (K,) int32. input_scale and
    output_scale: (), uint8 activations with zero point 0; output_scale None for float outputs.
    """

    op_type: str
    weight: Array
    weight_scale: Array
    bias: Array
    input_scale: Array
    output_scale: Array | None


def quantize_graph(
    graph: bytes, images: Array, *, float_layers: Collection[str] = ()
) -> onnx.ModelProto:
    """Quantise a float graph statically, per channel, from the ranges that `images` give.

    graph: a ModelProto that takes (N, 1, H, W) float32. images: (N, 1, H, W) float32, calibration.
    float_layers: names of nodes that stay float. Weights have 7 bits (`reduce_range`): with 8, x86
    without VNNI saturates. The graph returned takes uint8 grey values and gives float logits.

    Raises:
        ValueError: the images do not span [0, 1], or the quantiser wrote something unexpected.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    proto = onnx.load_from_string(graph)
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        path = Path(folder) / "quantised.onnx"
        quantize_static(
            proto,
            path,
            _Batches(proto.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(float_layers),
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(path)
    _take_grey_values(quantised)
    _give_float_logits(quantised)
    _omit_zero_points_of_biases(quantised)
    rewrite.remove_unused(quantised)
    quantised.producer_name, quantised.producer_version = "", ""
    return rewrite.finish(quantised)


def float_nodes(graph: bytes) -> list[str]:
    """Return the names of the Conv and Gemm nodes, in order."""
    nodes = onnx.load_from_string(graph).graph.node
    return [node.name for node in nodes if node.op_type in ("Conv", "Gemm")]


def read_layers(proto: onnx.ModelProto) -> list[Layer]:
    """Return the layers of a quantised graph, in order.

    Raises:
        ValueError: a layer is float, or its parts are not what `quantize_graph` writes.
    """
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    producers = {name: node for node in proto.graph.node for name in node.output}
    return [
        _read_layer(proto, node, weights, producers)
        for node in proto.graph.node
        if node.op_type in ("Conv", "Gemm")
    ]


def to_ort_cpu(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same integers for the kernels of onnxruntime's CPU provider.

    With one input channel its convolution misses the symmetric kernel (multiples of 4 input and 16
    output channels). So the image is viewed as groups of 4 columns, which become the channels, and
    one 3 x 2 convolution computes 4 columns of all output channels; everything is channels-last.
    Before: kernel 3, uint8 activations with zero point 0, a width of which the output needs all but
    the last 4 - 2 columns of conv1, and channels that fit.

    Raises:
        ValueError: one of these does not hold, and which.
    """
    layers = read_layers(proto)
    (height, width), (rows, _) = _image_sides(proto), _needed_sides(proto)
    _require_fit(layers, width, _needed_sides(proto))
    conv1, conv2, linear1, linear2 = layers
    out = _Writer()
    source = "images"
    if rows < height:
        bounds = {"z": [0], "r": [rows], "a": [2]}
        cut = [out.weight(name, np.array(values)) for name, values in bounds.items()]
        source = out.node("Slice", ["images", *cut])
    shape = np.array([0, rows, width // GROUP, GROUP])
    x = out.node("Reshape", [source, out.weight("s1", shape)])
    x = out.convolution(x, _grouped(conv1), [3, 2])
    channels = len(conv1.weight)
    shape = np.array([0, rows - 2, width - GROUP, channels])
    x = out.node("Reshape", [x, out.weight("s2", shape)])
    x = out.pool(x)
    x = out.pool(out.convolution(x, conv2, [3, 3]))
    x = out.node("Flatten", [x], axis=1)
    x = out.product(x, _channels_last(linear1, len(conv2.weight)))
    out.product(x, linear2, name="logits")
    graph = helper.make_graph(
        out.nodes, proto.graph.name, proto.graph.input, proto.graph.output, out.weights
    )
    opsets = [
        helper.make_opsetid("", proto.opset_import[0].version),
        helper.make_opsetid(MICROSOFT, 1),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=proto.ir_version)


class _Batches:
    """The calibration images as onnxruntime's quantiser reads them."""

    def __init__(self, name: str, images: Array) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH_SIZE)
        self._batches = iter([{name: images[i : i + CALIBRATION_BATCH_SIZE]} for i in starts])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


class _Writer:
    """Collects nodes and weights under short names: a name costs bytes on the device."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, values: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        name: str = "",
        domain: str = "",
        **settings: Any,
    ) -> str:
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], domain=domain, **settings))
        return output

    def pool(self, x: str) -> str:
        return self.node("NhwcMaxPool", [x], domain=MICROSOFT, kernel_shape=[2, 2], strides=[2, 2])

    def convolution(self, x: str, layer: Layer, kernel: list[int]) -> str:
        *parts, bias = self._parts(layer, layer.weight)
        inputs = [x, *parts, *self._result(layer), bias]
        return self.node(
            "QLinearConv", inputs, domain=MICROSOFT, channels_last=1, kernel_shape=kernel
        )

    def product(self, x: str, layer: Layer, name: str = "") -> str:
        inputs = [x, *self._parts(layer, layer.weight.T), *self._result(layer)]
        return self.node("QGemm", inputs, name=name, domain=MICROSOFT, alpha=1.0)

    def _parts(self, layer: Layer, weight: Array) -> list[str]:
        """Write scale and zero point of the input, and the layer's weights, scales and bias."""
        n = len(self.nodes)
        return [
            self.weight(f"i{n}", layer.input_scale),
            self.weight(f"j{n}", np.array(0, np.uint8)),
            self.weight(f"w{n}", weight),
            self.weight(f"x{n}", layer.weight_scale),
            self.weight(f"y{n}", np.zeros(len(layer.weight), np.int8)),
            self.weight(f"b{n}", layer.bias),
        ]

    def _result(self, layer: Layer) -> list[str]:
        if layer.output_scale is None:
            return []
        n = len(self.nodes)
        return [
            self.weight(f"o{n}", layer.output_scale),
            self.weight(f"p{n}", np.array(0, np.uint8)),
        ]


def _grouped(conv1: Layer) -> Layer:
    """Lay conv1 (K, 1, 3, 3) out over groups of columns: (4 K, 4, 3, 2).

    Output j K + k is channel k at column 4 g + j; it reads columns 4 g + j to 4 g + j + 2, which
    lie in the groups g and g + 1.
    """
    channels = len(conv1.weight)
    weight = np.zeros((GROUP, channels, GROUP, 3, 2), np.int8)
    for j in range(GROUP):
        for k in range(3):
            group, column = divmod(j + k, GROUP)
            weight[j, :, column, :, group] = conv1.weight[:, 0, :, k]
    return Layer(
        conv1.op_type,
        weight.reshape(GROUP * channels, GROUP, 3, 2),
        np.tile(conv1.weight_scale, GROUP),
        np.tile(conv1.bias, GROUP),
        conv1.input_scale,
        conv1.output_scale,
    )


def _channels_last(linear: Layer, channels: int) -> Layer:
    """Order the inputs of the first linear layer, (K, C H W), as channels-last: (K, H W C)."""
    n_out, n_in = linear.weight.shape
    weight = linear.weight.reshape(n_out, channels, n_in // channels).transpose(0, 2, 1)
    return Layer(
        linear.op_type,
        weight.reshape(n_out, n_in),
        linear.weight_scale,
        linear.bias,
        linear.input_scale,
        linear.output_scale,
    )


def _require_fit(layers: list[Layer], width: int, needed: tuple[int, int]) -> None:
    kinds = [layer.op_type for layer in layers]
    if kinds != ["Conv", "Conv", "Gemm", "Gemm"]:
        raise ValueError(f"the graph has {kinds}, not two convolutions and two linear layers")
    conv1, conv2 = layers[:2]
    kernels = {layer.weight.shape[2:] for layer in (conv1, conv2)}
    if kernels != {(3, 3)}:
        raise ValueError(f"kernels of {sorted(kernels)}, not 3 x 3")
    if width % GROUP or needed[1] - 2 != width - GROUP:
        raise ValueError(f"images {width} pixels wide, of which {needed[1]} are needed, do not fit "
                         f"groups of {GROUP} columns")  # fmt: skip
    if conv1.weight.shape[1] != 1 or len(conv1.weight) % GROUP or len(conv2.weight) % 16:
        raise ValueError(
            f"{len(conv1.weight)} and {len(conv2.weight)} channels are not multiples of 4 and 16"
        )


def _image_sides(proto: onnx.ModelProto) -> tuple[int, int]:
    height, width = (d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[2:])
    return height, width


def _needed_sides(proto: onnx.ModelProto) -> tuple[int, int]:
    """Return (height, width) of what the graph cuts its images to."""
    cut = [value for value in proto.graph.value_info if value.name == rewrite.TRIMMED]
    if not cut:
        return _image_sides(proto)
    height, width = (d.dim_value for d in cut[0].type.tensor_type.shape.dim[2:])
    return height, width


def _read_layer(
    proto: onnx.ModelProto,
    node: onnx.NodeProto,
    weights: dict[str, Array],
    producers: dict[str, onnx.NodeProto],
) -> Layer:
    sources = [producers.get(name) for name in node.input]
    if len(sources) != 3 or not all(s and s.op_type == "DequantizeLinear" for s in sources):
        raise ValueError(f"the layer {node.name} is not integer")
    x, weight, bias = (source for source in sources if source is not None)
    readers = rewrite.readers(proto, node.output[0])
    output_scale = None
    if readers:
        if [reader.op_type for reader in readers] != ["QuantizeLinear"]:
            raise ValueError(f"the layer {node.name} gives floats to {readers[0].op_type}")
        output_scale = _scale(readers[0], weights)
    return Layer(
        node.op_type,
        weights[weight.input[0]],
        weights[weight.input[1]],
        weights[bias.input[0]],
        _scale(x, weights),
        output_scale,
    )


def _scale(node: onnx.NodeProto, weights: dict[str, Array]) -> Array:
    zero_point = weights[node.input[2]]
    if zero_point.dtype != np.uint8 or zero_point.any():
        raise ValueError(f"{node.name} has zero point {zero_point}, not 0 of uint8")
    return weights[node.input[1]]


def _take_grey_values(proto: onnx.ModelProto) -> None:
    """Let the graph take uint8: drop the quantiser of its input, whose scale must be 1 / 255."""
    graph = proto.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    source = graph.input[0].name
    (reader,) = rewrite.readers(proto, source)
    if reader.op_type == "Slice":
        source = reader.output[0]
        (reader,) = rewrite.readers(proto, source)
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    if reader.op_type != "QuantizeLinear":  # the layer that reads the images stays float
        parts: dict[str, Array] = {
            "grey_scale": np.array(1 / 255, np.float32),
            "grey_zero": np.array(0, np.uint8),
        }
        graph.initializer.extend(
            numpy_helper.from_array(values, name) for name, values in parts.items()
        )
        node = helper.make_node("DequantizeLinear", [source, *parts], ["grey"])
        reader.input[0] = "grey"
        graph.node.insert(list(graph.node).index(reader), node)
        return
    scale = _scale(reader, weights)
    if not np.isclose(scale, 1 / 255, rtol=1e-6):
        raise ValueError(f"grey values have the scale {scale}, not 1/255: the calibration images "
                         "do not span black to white")  # fmt: skip
    for dequantize in rewrite.readers(proto, reader.output[0]):
        dequantize.input[0] = source
    graph.node.remove(reader)


def _give_float_logits(proto: onnx.ModelProto) -> None:
    """Drop quantiser and dequantiser of the logits: rounding them cost 42 label flips in 10,000."""
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    logits = graph.output[0].name
    dequantize = producers[logits]
    if dequantize.op_type != "DequantizeLinear":
        return
    quantize = producers[dequantize.input[0]]
    product = producers[quantize.input[0]]
    graph.node.remove(dequantize)
    graph.node.remove(quantize)
    product.output[0] = logits


def _omit_zero_points_of_biases(proto: onnx.ModelProto) -> None:
    """Leave out the zeros that `DequantizeLinear` takes for granted: 1 kB.

    Only the biases': without the weights', onnxruntime 1.32 does not fuse the layers.
    """
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3:
            zero_point = weights[node.input[2]]
            if zero_point.dtype == np.int32 and not zero_point.any():
                del node.input[2]


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the quantiser from advising on the terminal."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
