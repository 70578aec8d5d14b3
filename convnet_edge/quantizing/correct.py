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

OUTERMOST = 32  # one image of so many is left out at each end


def find_shifts(
    proto: onnx.ModelProto, layers: Sequence[str], means: Mapping[str, Array], images: Array
) -> dict[str, Array]:
    """Return what each of a quantised graph's layers lacks on average, (C,), by name.

    layers: by name and in order; those without a bias are left out. means: (N, C) of what each
    gives as floats. images: (N, …) as the graph takes them. The biases of `proto` are corrected on
    the way.
    """
    nodes = {node.name: node for node in proto.graph.node}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    found: dict[str, Array] = {}
    for layer in layers:
        node = nodes[layer]
        maker = makers.get(node.input[2]) if len(node.input) > 2 else None
        if maker is None:  # no bias, or a layer in float
            continue
        (given,) = observe.channel_means(proto, node.output, images).values()
        found[layer] = _usual(means[layer] - given)
        stored, scale = (numpy_helper.to_array(weights[name]) for name in maker.input[:2])
        changed = np.rint(stored + found[layer] / scale.astype(np.float64))
        ends = np.iinfo(np.int32)
        bias = np.clip(changed, ends.min, ends.max).astype(np.int32)
        weights[maker.input[0]].CopyFrom(numpy_helper.from_array(bias, maker.input[0]))
    return found


def _usual(shifts: Array) -> Array:
    """Return the mean over images (N, C), without the outermost at each end.

    A picture whose numbers the ranges cut off shifts only itself.
    """
    n = len(shifts) // OUTERMOST
    usual: Array = np.sort(shifts, axis=0)[n : len(shifts) - n].mean(axis=0)
    return usual


def shift(proto: onnx.ModelProto, shifts: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a float graph whose layers give so much more, by name."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    weights = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        if node.name in shifts:
            stored = weights[node.input[2]]
            bias = numpy_helper.to_array(stored) + shifts[node.name]
            stored.CopyFrom(numpy_helper.from_array(bias.astype(np.float32), stored.name))
    return changed
