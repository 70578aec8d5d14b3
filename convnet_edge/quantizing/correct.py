"""Move what rounding the weights shifts on average back, layer by layer: bias correction.

Each channel's mean shifts by its weights' error times the mean of what the layer gets, most in
depthwise layers of a few weights. Both are of the float model: taken from the integers' results, as
is usual, the shift also holds what happens to numbers that an activation cuts off anyway. Source:
M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, section 4.2.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from ..runtime.contract import Array
from . import observe

OUTERMOST = 32  # one image of so many is left out at each end


def find_shifts(
    proto: onnx.ModelProto, quantised: onnx.ModelProto, layers: Sequence[str], images: Array
) -> dict[str, Array]:
    """Return what each layer's channels lose on average by rounded weights, (C,), by name.

    proto: of floats; each layer is run with its own weights and with those of `quantised`.
    layers: by name; those without a bias are left out. images: (N, C, H, W) float32.
    """
    rounded, pairs = onnx.ModelProto(), dict[str, tuple[str, str]]()
    rounded.CopyFrom(proto)
    graph, weights = rounded.graph, _weights(quantised)
    stored = {tensor.name for tensor in graph.initializer}
    known = [one for one in graph.node if one.name in layers and one.name in weights]
    for node in [one for one in known if stored.issuperset(one.input[1:])]:
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = twin.output[0] = f"{node.name}_rounded"
        twin.input[1] = f"{node.name}_rounded_weights"
        graph.initializer.append(numpy_helper.from_array(weights[node.name], twin.input[1]))
        graph.node.insert(list(graph.node).index(node) + 1, twin)
        pairs[node.name] = node.output[0], twin.output[0]
    names = [name for pair in pairs.values() for name in pair]
    means = observe.channel_means(rounded, names, images)
    return {layer: _usual(means[own] - means[twin]) for layer, (own, twin) in pairs.items()}


def _weights(quantised: onnx.ModelProto) -> dict[str, Array]:
    """Return the numbers that stand for each layer's weights, by the layer's name."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    makers = {name: node for node in quantised.graph.node for name in node.output}
    found = {}
    for node in quantised.graph.node:
        maker = makers.get(node.input[1]) if len(node.input) > 2 else None
        if maker is None or maker.input[0] not in stored:
            continue
        values, scale, zero = (stored[name] for name in maker.input)
        axis = next((one.i for one in maker.attribute if one.name == "axis"), 1)
        along = [-1 if place == axis and scale.ndim else 1 for place in range(values.ndim)]
        scale, zero = scale.reshape(along), zero.reshape(along)
        found[node.name] = ((values - zero.astype(np.float32)) * scale).astype(np.float32)
    return found


def _usual(shifts: Array) -> Array:
    """Return the mean over images (N, C), without the outermost at each end."""
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
