"""Run images through a graph and note what passes: the range of each value, the means of layers.

onnxruntime's own calibration gives the whole ranges; its percentiles need batches of one size and
keep histograms, where the few outermost numbers are enough.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from ..runtime.contract import Array
from ..runtime.session import import_onnxruntime

CUT = 5e-6  # of a value's numbers at each end: what the percentile 99.999 leaves out
AT_ONCE = 1 << 26  # numbers of all values of one batch


def run(proto: onnx.ModelProto, names: Sequence[str], images: Array) -> Iterator[list[Array]]:
    """Run `images` through a graph, batch by batch; yield the values of these names.

    Graph optimisations that keep every number as it is are on; the values are those of float
    arithmetic on what the graph rounds.
    """
    onnxruntime = import_onnxruntime()
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:], shown.graph.value_info[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    taken, start, size = proto.graph.input[0].name, 0, 1
    while start < len(images):
        found = session.run([*names], {taken: images[start : start + size]})
        yield found
        start += size
        each = sum(one.size for one in found) // size
        size = int(np.clip(AT_ONCE // max(1, each), 1, 64))


def inner_ranges(proto: onnx.ModelProto, names: Sequence[str], images: Array) -> dict[str, Array]:
    """Return (lowest, highest) of each value without the `CUT` outermost numbers at each end."""
    ends: dict[str, tuple[Array, Array]] = {}
    n_cut: dict[str, int] = {}
    for found in run(proto, names, images):
        for name, value in zip(names, found, strict=True):
            numbers = value.ravel()
            if name not in ends:  # the first batch is of one image
                n_cut[name] = int(CUT * numbers.size * len(images))
                ends[name] = (numbers[:0], numbers[:0])
            keep = n_cut[name] + 1
            low, high = ends[name]
            low, high = np.concatenate([low, numbers]), np.concatenate([high, numbers])
            if len(low) > keep:
                low = np.partition(low, keep - 1)[:keep]
                high = np.partition(high, len(high) - keep)[-keep:]
            ends[name] = low, high
    return {name: np.array([low.max(), high.min()]) for name, (low, high) in ends.items()}


def channel_means(proto: onnx.ModelProto, names: Sequence[str], images: Array) -> dict[str, Array]:
    """Return each image's mean of each channel, (N, C) float64, of values (N, C, …)."""
    parts: dict[str, list[Array]] = {name: [] for name in names}
    for found in run(proto, names, images):
        for name, value in zip(names, found, strict=True):
            flat = value.reshape(*value.shape[:2], -1)
            parts[name].append(flat.mean(axis=2, dtype=np.float64))
    return {name: np.concatenate(means) for name, means in parts.items()}
