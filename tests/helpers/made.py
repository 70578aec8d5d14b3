"""Classifiers made by hand of a few operations: what a device may meet, and what it must refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import tiny
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from convnet_edge.runtime import contract
from convnet_edge.sealing import seal

SIDE, N_CLASSES = 8, len(tiny.LABELS)
Arrays = dict[str, Any]
# what small networks are made of: normalisation, a depthwise layer, squeeze-and-excite, a residual
# sum, two branches side by side, a global mean
BODY = """
    scaled = Mul (images, scale)
    normalised = Add (scaled, offset)
    sums = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (normalised, w1, b1)
    active = HardSwish (sums)
    deep = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (active, w2, b2)
    squeezed = ReduceMean <keepdims = 1> (deep, sides)
    excited = Conv <kernel_shape = [1, 1]> (squeezed, w3, b3)
    gate = HardSigmoid (excited)
    gated = Mul (deep, gate)
    point = Conv <kernel_shape = [1, 1]> (gated, w4, b4)
    residual = Add (point, active)
    kept = Relu (residual)
    both = Concat <axis = 1> (kept, active)
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (both)
    mean = ReduceMean <keepdims = 0> (pooled, sides)
    logits = Gemm <transB = 1> (mean, w5, b5)
"""
WEIGHTS = {"w1": (8, 1, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (8, 8, 1, 1),
           "w5": (3, 16)}  # fmt: skip


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Return weights that keep sums near 1."""
    return tiny._normal(np.random.default_rng(seed), *shape)


def graph(
    body: str,
    arrays: Arrays,
    *,
    side: int = SIDE,
    channels: int = 1,
    shapes: dict[str, list[int | str]] | None = None,
) -> onnx.ModelProto:
    """Return the graph that makes `logits` of `images` (batch, channels, side, side).

    shapes: what the file states of float results between.
    """
    proto = onnx.parser.parse_model(f"""
        <ir_version: {tiny.IR_VERSION}, opset_import: ["": {tiny.OPSET}]>
        made (float[batch, {channels}, {side}, {side}] images)
            => (float[batch, {N_CLASSES}] logits) {{ {body} }}""")
    for name, values in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    for name, sizes in (shapes or {}).items():
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)
        proto.graph.value_info.append(value)
    return proto


def branching(side: int = SIDE) -> onnx.ModelProto:
    """Return a graph of all that small networks are made of."""
    arrays = {name: 2 * draw(*shape, seed=i) for i, (name, shape) in enumerate(WEIGHTS.items())}
    arrays |= {f"b{name[1]}": draw(len(values), 100)[:, 0] for name, values in arrays.items()}
    constant = {"scale": np.float32([[[2.5]]]), "offset": np.float32([[[-1.2]]])}
    return graph(BODY, arrays | constant | {"sides": np.int64([2, 3])}, side=side)


def document(side: int = SIDE, channels: int = 1, n_goldens: int = 1) -> dict[str, Any]:
    """Return the contract of such a graph, with white golden images and no logits known."""
    shape = (n_goldens, side, side, channels)[: 4 if channels == 3 else 3]
    stated: dict[str, Any] = tiny.document(tiny.GREY, "float32")
    proof = {
        "images": contract.encode_pixels(np.full(shape, 255, np.uint8)),
        "logits": [[0.0] * N_CLASSES] * n_goldens,
        "indices": [0] * n_goldens,
    }
    how = {"size": [side, side], "channels": channels, "samples": []}
    return stated | {
        "goldens": stated["goldens"] | proof,
        "input": stated["input"] | {"shape": [channels, side, side]},
        "preprocessing": stated["preprocessing"] | how,
    }


def sealed(body: str, arrays: Arrays, **about: Any) -> bytes:
    """Return the file of a `graph` of tiny's images, proved by onnx's reference evaluator."""
    proto = graph(body, arrays, **about)
    images = tiny.images(tiny.N_GOLDENS)
    given = images[:, None].astype(np.float32) / np.float32(255)
    (logits,) = ReferenceEvaluator(proto).run(None, {"images": given})
    stated = tiny.document(tiny.GREY, "float32")
    stated["goldens"]["logits"] = logits.astype(np.float64).tolist()
    return seal.seal(proto.SerializeToString(deterministic=True), stated)


def stating(body: str, arrays: Arrays, **about: Any) -> bytes:
    """Return the file of a `graph` as its shapes say that it is; nothing is run for it."""
    data = graph(body, arrays, **about).SerializeToString(deterministic=True)
    return seal.seal(data, document())


def claimed(
    body: str, arrays: Arrays, cost: dict[str, Any] | None = None, n_goldens: int = 1, **about: Any
) -> bytes:
    """Return a file that states any cost, as one who wants it to be opened would write it."""
    stated = document(about.get("side", SIDE), about.get("channels", 1), n_goldens)
    known = {"n_multiplications": 0, "peak_bytes": 1, "operators": {}}
    data = graph(body, arrays, **about).SerializeToString(deterministic=True)
    return contract.seal(data, stated | {"cost": known | (cost or {})})
