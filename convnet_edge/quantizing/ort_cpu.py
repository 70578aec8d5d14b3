"""Lay the integers of a portable graph out for the kernels of onnxruntime's CPU provider.

The same weights, scales and zero points, so the same logits bit for bit; only for the networks that
these kernels fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.errors import InputError
from .portable import constants, readers

Array = np.ndarray[Any, np.dtype[Any]]

GROUP = 4  # columns of the image that conv1 takes as channels
MICROSOFT = "com.microsoft"
ZERO = np.uint8(0)  # the zero point of every activation


@dataclass(frozen=True)
class Layer:
    """One integer Conv or Gemm, as the portable graph holds it.

    weight: (K, C, k, k) or (K, F) int8. weight_scale: (K,). bias: (K,) int32. input_scale and
    output_scale: (), uint8 activations with zero point 0; output_scale None for float outputs.
    """

    op_type: str
    weight: Array
    weight_scale: Array
    bias: Array
    input_scale: Array
    output_scale: Array | None


def to_ort_cpu(graph: bytes) -> bytes:
    """Return the same integers for the kernels of onnxruntime's CPU provider.

    With one input channel its convolution misses the symmetric kernel (multiples of 4 input and 16
    output channels). So the image is viewed as groups of 4 columns, which become the channels, and
    one 3 x 2 convolution computes 4 columns of all output channels; everything is channels-last.
    Before: kernel 3, uint8 activations with zero point 0, a width of which the output needs all but
    the last 4 - 2 columns of conv1, and channels that fit.

    Raises:
        InputError: one of these does not hold, and which.
    """
    proto = onnx.load_from_string(graph)
    layers = read_layers(proto)
    height, width, rows, columns = _sides(proto)
    _require_fit(layers, width, columns)
    conv1, conv2, linear1, linear2 = layers
    out, x = _Writer(), "images"
    if rows < height:
        x = out.node("Slice", [x, *out.weights_of(*np.array([[0], [rows], [2]]))])
    x = out.reshape(x, rows, width // GROUP, GROUP)
    x = out.convolution(x, _grouped(conv1), [3, 2])
    x = out.pool(out.reshape(x, rows - 2, width - GROUP, len(conv1.weight)))
    x = out.pool(out.convolution(x, conv2, [3, 3]))
    x = out.node("Flatten", [x], axis=1)
    x = out.product(x, _channels_last(linear1, len(conv2.weight)))
    out.product(x, linear2, name="logits")
    made = helper.make_model(
        helper.make_graph(
            out.nodes, proto.graph.name, proto.graph.input, proto.graph.output, out.weights
        ),
        opset_imports=[*proto.opset_import[:1], helper.make_opsetid(MICROSOFT, 1)],
        ir_version=proto.ir_version,
    )
    serialised: bytes = made.SerializeToString(deterministic=True)
    return serialised


def read_layers(proto: onnx.ModelProto) -> list[Layer]:
    """Return the layers of a portable graph, in order.

    Raises:
        InputError: a layer is float, or its parts are not what `quantize_graph` writes.
    """
    known = constants(proto)
    producers = {name: node for node in proto.graph.node for name in node.output}
    layers: list[Layer] = []
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        parts = [producers[name] for name in node.input if name in producers]
        integer = [part.op_type for part in parts] == ["DequantizeLinear"] * 3
        _require(integer, f"layer {len(layers) + 1}, {node.op_type}, is not integer")
        x, weight, bias = parts
        after = [_scale(reader, known) for reader in readers(proto, node.output[0])]
        layers.append(
            Layer(
                node.op_type,
                known[weight.input[0]],
                known[weight.input[1]],
                known[bias.input[0]],
                _scale(x, known),
                after[0] if after else None,
            )
        )
    return layers


class _Writer:
    """Collects nodes and weights under short names: a name costs bytes on the device."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def weights_of(self, *values: Any) -> list[str]:
        """Write constants; return their names."""
        names = [f"c{len(self.weights) + i}" for i in range(len(values))]
        self.weights += map(numpy_helper.from_array, map(np.ascontiguousarray, values), names)
        return names

    def node(self, op_type: str, inputs: Sequence[str], name: str = "", **settings: Any) -> str:
        """Write a node; return its output's name."""
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], **settings))
        return output

    def reshape(self, x: str, *sides: int) -> str:
        return self.node("Reshape", [x, *self.weights_of(np.array([0, *sides]))])

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
        return self.node("QGemm", inputs, name, domain=MICROSOFT, alpha=1.0)

    def _parts(self, layer: Layer, weight: Array) -> list[str]:
        """Write the input's scale and zero point, the weights with theirs, and the bias."""
        zeros = np.zeros(len(layer.weight), np.int8)
        return self.weights_of(
            layer.input_scale, ZERO, weight, layer.weight_scale, zeros, layer.bias
        )

    def _result(self, layer: Layer) -> list[str]:
        return [] if layer.output_scale is None else self.weights_of(layer.output_scale, ZERO)


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
    return replace(
        conv1,
        weight=weight.reshape(GROUP * channels, GROUP, 3, 2),
        weight_scale=np.tile(conv1.weight_scale, GROUP),
        bias=np.tile(conv1.bias, GROUP),
    )


def _channels_last(linear: Layer, channels: int) -> Layer:
    """Order the inputs of the first linear layer, (K, C H W), as channels-last: (K, H W C)."""
    n_out, n_in = linear.weight.shape
    weight = linear.weight.reshape(n_out, channels, n_in // channels).transpose(0, 2, 1)
    return replace(linear, weight=weight.reshape(n_out, n_in))


def _require_fit(layers: list[Layer], width: int, columns: int) -> None:
    kinds = [layer.op_type for layer in layers]
    _require(kinds == ["Conv", "Conv", "Gemm", "Gemm"], f"its layers are {', '.join(kinds)}")
    conv1, conv2 = (layer.weight for layer in layers[:2])
    kernels = {conv1.shape[2:], conv2.shape[2:]}
    _require(kernels == {(3, 3)}, f"its kernels are {sorted(kernels)}")
    _require(
        width % GROUP == 0 and columns - 2 == width - GROUP,
        f"its images are {width} pixels wide, of which {columns} are needed",
    )
    _require(
        conv1.shape[1] == 1 and len(conv1) % GROUP == 0 and len(conv2) % 16 == 0,
        f"it has {conv1.shape[1]}, {len(conv1)} and {len(conv2)} channels",
    )


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise InputError(
            f"the layout ort-cpu does not fit this model: {found}",
            expected="two convolutions and two linear layers of integers, kernels of 3 x 3, 28 "
            "pixels a row, one channel and then multiples of 4 and 16",
            next_step="pass --layout portable",
        )


def _sides(proto: onnx.ModelProto) -> tuple[int, int, int, int]:
    """Return height and width of the images, and of what the graph cuts them to."""
    image = proto.graph.input[0]
    height, width = (d.dim_value for d in image.type.tensor_type.shape.dim[2:])
    rows, columns = height, width
    for node in readers(proto, image.name):
        if node.op_type == "Slice":
            rows, columns = constants(proto)[node.input[2]].tolist()
    return height, width, rows, columns


def _scale(node: onnx.NodeProto, known: dict[str, Array]) -> Array:
    """Return the scale of a quantiser or dequantiser of activations."""
    _require(node.op_type.endswith("Linear"), f"a layer gives floats to {node.op_type}")
    zero_point = known[node.input[2]]
    _require(zero_point.dtype == np.uint8 and not zero_point.any(), f"zero point {zero_point}")
    return known[node.input[1]]
