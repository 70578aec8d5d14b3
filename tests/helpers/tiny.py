"""Models made by hand in milliseconds: a device's tests need no training and no torch.

One small network, three classes, seeded weights: Conv 3 × 3, Relu, MaxPool, Flatten, Gemm. Its
reference logits come from `logits`, slow float64 arithmetic that shares nothing with a runtime.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

from convnet_edge.runtime import contract, selftest
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.runtime.pictures import preprocess
from convnet_edge.sealing import parity, seal

LABELS = ("bar", "cross", "ring")
GREY, RGB = (1, 8, 8), (3, 12, 10)  # C, H, W
DECISION = {"threshold": 0.0, "max_unevenness": None, "data": "none", "n": 9, "coverage": 1.0}
N_CHANNELS, N_GOLDENS, N_MEASURED = 4, 6, 60
FLOOR = 2.0**-20  # a few roundings of logits of about 1: this much on any processor
TOLERANCE = parity.TOLERANCE_FACTOR * FLOOR
OPSET, IR_VERSION = 18, 8


@cache
def grey() -> bytes:
    """Return a sealed model for (1, 8, 8) float32 in [0, 1]."""
    return _seal(GREY, "float32")


@cache
def grey_uint8() -> bytes:
    """Return the same network for (1, 8, 8) uint8 grey values, which the graph scales."""
    return _seal(GREY, "uint8")


@cache
def rgb() -> bytes:
    """Return a sealed model for (3, 12, 10) float32 in [0, 1]; golden images are (N, H, W, C)."""
    return _seal(RGB, "float32")


@cache
def images(n: int, shape: tuple[int, int, int] = GREY) -> np.ndarray:
    """Return `n` of bright and dark blocks: (n, 8, 8) uint8 when grey, else (n, H, W, C)."""
    channels, height, width = shape
    blocks = np.random.default_rng(1).integers(0, 256, (n, height // 4, width // 2, channels))
    made = blocks.repeat(4, axis=1).repeat(2, axis=2).astype(np.uint8)
    made.flags.writeable = False  # all callers share it
    return made[..., 0] if channels == 1 else made


@cache
def labels(n: int, shape: tuple[int, int, int] = GREY) -> np.ndarray:
    """Return (n,) int64: what the model says of `images(n)`, but every fourth wrong."""
    said = logits(images(n, shape), shape).argmax(axis=1)
    said[3::4] = (said[3::4] + 1) % len(LABELS)
    said.flags.writeable = False
    return said


def image_set(n: int, shape: tuple[int, int, int] = GREY) -> ImageSet:
    """Return `images(n)` with their labels."""
    return ImageSet(images(n, shape), labels(n, shape), "d" * 64, "tiny")


@cache
def weights(shape: tuple[int, int, int] = GREY) -> dict[str, np.ndarray]:
    """Return the float32 weights by name, as the graph holds them."""
    channels, height, width = shape
    n_places = ((height - 2) // 2) * ((width - 2) // 2)
    draw = np.random.default_rng(0)
    linear = 4 * _normal(draw, len(LABELS), N_CHANNELS, n_places)
    linear -= linear.mean(axis=2, keepdims=True)  # where it is bright decides, not how bright
    return {
        "conv.weight": _normal(draw, N_CHANNELS, channels, 3, 3),
        "conv.bias": _normal(draw, N_CHANNELS),
        "linear.weight": linear.reshape(len(LABELS), -1),
        "linear.bias": np.float32([0.01, 0.02, 0.03]),
    }


def logits(pixels: np.ndarray, shape: tuple[int, int, int] = GREY) -> np.ndarray:
    """Return the float64 logits (N, 3) of uint8 `pixels` (N, H, W) or (N, H, W, C)."""
    w = {name: values.astype(np.float64) for name, values in weights(shape).items()}
    channels, height, width = shape
    x = pixels.reshape(len(pixels), height, width, channels) / 255
    features = np.zeros((len(x), N_CHANNELS, (height - 2) // 2, (width - 2) // 2))  # Relu: ≥ 0
    for row, column in np.ndindex(2 * features.shape[2], 2 * features.shape[3]):
        patch = x[:, row : row + 3, column : column + 3]
        for channel, filter_ in enumerate(w["conv.weight"]):
            sums = (patch * filter_.transpose(1, 2, 0)).sum(axis=(1, 2, 3))
            cell = features[:, channel, row // 2, column // 2]
            np.maximum(cell, sums + w["conv.bias"][channel], out=cell)
    return features.reshape(len(x), -1) @ w["linear.weight"].T + w["linear.bias"]


@cache
def pictures() -> tuple[contract.SamplePicture, ...]:
    """Return two encoded pictures with their pixels: dark on light, and see-through."""
    first, second = images(2)
    wide = np.full((10, 14, 3), 255, np.uint8)
    wide[1:9, 3:11] = 255 - first[..., None]
    tall = np.zeros((16, 8, 4), np.uint8)
    tall[4:12, :, 3] = second
    encoded = {
        "wide.png": encode(Image.fromarray(wide)),
        "tall.png": encode(Image.fromarray(tall)),
    }
    return tuple(
        contract.SamplePicture(name, data, preprocess.decode_picture(data, how(GREY)).pixels)
        for name, data in encoded.items()
    )


def how(shape: tuple[int, int, int]) -> preprocess.Preprocessing:
    """Return how pictures become images of `shape` (C, H, W)."""
    channels, *size = shape
    return preprocess.Preprocessing(tuple(size), channels, "keep", "border", "pad", filter="area")


def graph(shape: tuple[int, int, int], dtype: str) -> onnx.ModelProto:
    """Return the network without a contract, shapes inferred."""
    arrays = dict(weights(shape))
    takes, first, cast = "float", "images", ""
    if dtype == "uint8":
        takes, first, cast = "uint8", "values", "values = Cast <to = 1> (images)"
        scaled = arrays["conv.weight"].astype(np.float64) / 255
        arrays["conv.weight"] = scaled.astype(np.float32)
    proto = onnx.parser.parse_model(f"""
        <ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>
        tiny ({takes}[batch, {", ".join(map(str, shape))}] images)
            => (float[batch, {len(LABELS)}] logits) {{
            {cast}
            sums = Conv <kernel_shape = [3, 3]> ({first}, "conv.weight", "conv.bias")
            active = Relu (sums)
            pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (active)
            features = Flatten <axis = 1> (pooled)
            logits = Gemm <transB = 1> (features, "linear.weight", "linear.bias")
        }}""")
    proto.graph.initializer.extend(map(numpy_helper.from_array, arrays.values(), arrays))
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def document(shape: tuple[int, int, int], dtype: seal.InputDtype) -> dict[str, object]:
    """Return the contract's document, without schema and digest."""
    n_parameters = sum(values.size for values in weights(shape).values())
    test = image_set(N_MEASURED, shape)
    right, chosen = logits(test.images, shape), np.arange(N_GOLDENS)
    goldens = contract.Goldens(test.images[chosen], right[chosen], chosen, FLOOR, TOLERANCE)
    return {
        "name": "tiny",
        "class_labels": list(LABELS),
        "input": seal.describe_input(dtype, shape),
        "output": {"name": "logits", "dtype": "float32", "meaning": "raw, before softmax"},
        "decision": None,
        "preprocessing": {
            **how(shape).document(),
            "pixel_tolerance": selftest.PIXEL_TOLERANCE,
            "samples": [
                {
                    "name": picture.name,
                    "encoded": contract.encode_bytes(picture.encoded),
                    "pixels": contract.encode_pixels(picture.pixels),
                }
                for picture in (pictures() if shape == GREY else ())
            ],
        },
        "training": {"data": "none", "n_images": 0, "recipe": "none", "epochs": 0, "seed": 0},
        "parameters": {"n": n_parameters, "n_by_formula": n_parameters},
        "versions": {"training": {}, "export": {}},
        "exporter": "by hand",
        **seal.describe_proof("float64 numpy", right, test, goldens, LABELS),
    }


def _seal(shape: tuple[int, int, int], dtype: seal.InputDtype) -> bytes:
    serialised = graph(shape, dtype).SerializeToString(deterministic=True)
    return seal.seal(serialised, document(shape, dtype))


def _normal(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw weights that keep sums near 1, however many numbers go into one."""
    n_inputs = int(np.prod(shape[1:]))
    return (draw.standard_normal(shape) / np.sqrt(n_inputs)).astype(np.float32)


def encode(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """Return the picture as its file would hold it."""
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()
