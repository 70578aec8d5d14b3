"""Move what integers shift on average back, layer by layer: bias correction.

Rounding a layer's weights shifts the mean of each of its channels, most in depthwise layers of a
few weights. The shift is measured on calibration images, with the layers before it already
corrected, and taken off the bias. Source: M. Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.2, in its empirical form.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from ..runtime.contract import Array
from . import observe


def correct(
    proto: onnx.ModelProto, layers: Sequence[str], means: Mapping[str, Array], images: Array
) -> None:
    """Change the biases of a quantised graph's `layers`, by name and in order, in place.

    means: (C,) of what each gives as floats. images: as the graph takes them.
    """
    nodes = {node.name: node for node in proto.graph.node}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    for layer in layers:
        node = nodes[layer]
        if len(node.input) < 3 or node.op_type == "MatMul":
            continue
        (given,) = observe.channel_means(proto, node.output, images).values()
        shift = means[layer] - given
        maker = makers.get(node.input[2])
        stored = weights[maker.input[0] if maker else node.input[2]]
        bias = numpy_helper.to_array(stored)
        if maker:
            scale = numpy_helper.to_array(weights[maker.input[1]]).astype(np.float64)
            bias = np.clip(np.rint(bias + shift / scale), -(2**31) + 1, 2**31 - 1)
        else:
            bias = bias + shift
        dtype = onnx.helper.tensor_dtype_to_np_dtype(stored.data_type)
        stored.CopyFrom(numpy_helper.from_array(bias.astype(dtype), stored.name))
