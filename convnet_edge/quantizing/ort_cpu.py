"""Lay the integers of a portable graph out for the kernels of onnxruntime's CPU provider.

The same integers, so the same logits bit for bit; only for the networks that these kernels fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.contract import Array
from ..runtime.errors import InputError
from ..runtime.model_file import ModelFile
from .nodes import constants

GROUP = 4  # columns of the image that conv1 takes as channels
MICROSOFT = "com.microsoft"
ZERO = np.uint8(0)  # the zero point of every activation
CHAIN = {"Conv", "Flatten", "Gemm", "MaxPool", "Relu", "Slice"}
FITTING = (
    "a chain of two convolutions and two linear layers of integers, kernels of 3 x 3, one channel "
    "and then multiples of 4 and 16, rows of a multiple of 4 pixels, all but 2 needed"
)
PORTABLE = "pass --layout portable"


@dataclass(frozen=True)
class Layer:
    """One integer Conv or Gemm, as the portable graph holds it.

    weight: (K, C, k, k) or (K, F) int8. weight_scale: (K,). bias: (K,) int32. input_scale: (), of
    uint8 activations with zero point 0; that of the next layer is the scale of what this one gives.
    """

    op_type: str
    weight: Array
    weight_scale: Array
    bias: Array
    input_scale: Array


def to_ort_cpu(graph: bytes) -> bytes:
    """Return the same integers for those kernels.

    With one input channel its convolution misses the symmetric kernel (multiples of 4 input and 16
    output channels). So the image is viewed as groups of 4 columns, which become the channels, and
    one 3 x 2 convolution computes 4 columns of all output channels; everything is channels-last.
    The width must be one of which the output needs all but the last 4 - 2 columns of conv1.
    """
    proto = onnx.load_from_string(graph)
    layers, known = _read_layers(proto), constants(proto)
    width = proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    cuts = [known[node.input[2]] for node in proto.graph.node if node.op_type == "Slice"]
    rows, columns = cuts[0].tolist() if cuts else (0, width)
    _require_fit(layers, width, columns)
    conv1, conv2, linear1, linear2 = layers
    by_channel = linear1.weight.reshape(len(linear1.weight), len(conv2.weight), -1)  # (K, C, H W)
    channels_last = by_channel.transpose(0, 2, 1).reshape(linear1.weight.shape)
    out = _Writer()
    x = out.node("Slice", ["images", *out.weights_of(*np.array([[0], [rows], [2]]))])
    x = out.reshape(x, rows, width // GROUP, GROUP)
    x = out.layer(x, _grouped(conv1), conv2.input_scale)
    x = out.pool(out.reshape(x, rows - 2, width - GROUP, len(conv1.weight)))
    x = out.pool(out.layer(x, conv2, linear1.input_scale))
    x = out.node("Flatten", [x], axis=1)
    x = out.layer(x, replace(linear1, weight=channels_last), linear2.input_scale)
    out.layer(x, linear2, None)
    made = helper.make_model(
        helper.make_graph(
            out.nodes, proto.graph.name, proto.graph.input, proto.graph.output, out.weights
        ),
        opset_imports=[*proto.opset_import[:1], helper.make_opsetid(MICROSOFT, 1)],
        ir_version=proto.ir_version,
    )
    return bytes(made.SerializeToString(deterministic=True))


def require_chain(file: ModelFile) -> None:
    """Raise an InputError unless a float model is one of the chains that these kernels may fit."""
    counts = file.op_counts()
    layers = [counts.get(name) for name in ("Conv", "Gemm")]
    if layers == [2, 2] and not counts.keys() - CHAIN:
        return
    others = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if name not in CHAIN)
    raise InputError(
        f"the layout ort-cpu does not fit this model: it has {counts.get('Conv', 0)} Conv, "
        f"{counts.get('Gemm', 0)} Gemm" + (f" and {others}" if others else ""),
        expected=FITTING,
        next_step=PORTABLE,
    )


def _read_layers(proto: onnx.ModelProto) -> list[Layer]:
    """Return the layers of a portable graph, in order, that are integer with zero point 0."""
    layers, known = [], constants(proto)
    floats = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    sources = {node.output[0]: node.input for node in floats}
    for node in proto.graph.node:
        parts = [sources[name] for name in node.input if name in sources]
        if node.op_type in ("Conv", "Gemm") and len(parts) == 3:
            (_, scale, zero_point), weight, bias = parts
            if not known[zero_point].any():
                arrays = (known[name] for name in (*weight[:2], bias[0], scale))
                layers.append(Layer(node.op_type, *arrays))
    return layers


def _require_fit(layers: list[Layer], width: int, columns: int) -> None:
    match shapes := [(layer.op_type, *layer.weight.shape) for layer in layers]:
        case [("Conv", first, 1, 3, 3), ("Conv", second, _, 3, 3), ("Gemm", *_), ("Gemm", *_)]:
            channels_fit = first % GROUP == 0 and second % 16 == 0
            if channels_fit and width % GROUP == 0 and columns - 2 == width - GROUP:
                return
    raise InputError(
        f"the layout ort-cpu does not fit this model: it has the integer layers {shapes}, and "
        f"needs {columns} of {width} columns of pixels",
        expected=FITTING,
        next_step=PORTABLE,
    )


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

    def layer(self, x: str, layer: Layer, scale: Array | None) -> str:
        """Write a layer whose outputs have that scale; without one, it gives the float logits."""
        is_linear = layer.op_type == "Gemm"
        weight = layer.weight.T if is_linear else layer.weight
        zeros = np.zeros(len(layer.weight), np.int8)
        *parts, bias = self.weights_of(
            layer.input_scale, ZERO, weight, layer.weight_scale, zeros, layer.bias
        )
        scales = [] if scale is None else self.weights_of(scale, ZERO)
        if is_linear:
            name = "logits" if scale is None else ""
            inputs = [x, *parts, bias, *scales]
            return self.node("QGemm", inputs, name, domain=MICROSOFT, alpha=1.0)
        settings = {"channels_last": 1, "kernel_shape": layer.weight.shape[2:]}
        return self.node("QLinearConv", [x, *parts, *scales, bias], domain=MICROSOFT, **settings)


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
