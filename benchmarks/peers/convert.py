"""Make another runtime's model file for `benchmarks/peers.py`: `python convert.py KIND IN.npz OUT`.

IN.npz holds the weights in the order of the layers, `calibration` (N, H, W) uint8, and the path of
the plain float ONNX file. Each runtime's own tool converts, with its defaults.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def to_openvino(onnx_path: str, images: Array | None, out: Path) -> None:
    """Write OpenVINO's files; with `images` (N, 1, H, W) float32, of integers by NNCF."""
    import openvino

    model = openvino.convert_model(onnx_path)
    if images is not None:
        import nncf

        dataset = nncf.Dataset([image[None] for image in images])
        model = nncf.quantize(model, dataset, subset_size=len(images))
    openvino.save_model(model, out, compress_to_fp16=False)


def to_tflite(weights: list[Array], images: Array, out: Path) -> None:
    """Write an integer .tflite: uint8 in, float out; images: (N, 1, H, W) float32, for ranges."""
    import tensorflow as tf

    keras = tf.keras
    height, width = images.shape[2:]
    model = keras.Sequential(
        [
            keras.layers.Input((height, width, 1)),
            keras.layers.Conv2D(len(weights[0]), 3, activation="relu"),
            keras.layers.MaxPool2D(2),
            keras.layers.Conv2D(len(weights[2]), 3, activation="relu"),
            keras.layers.MaxPool2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(len(weights[4]), activation="relu"),
            keras.layers.Dense(len(weights[6])),
        ]
    )
    channels = len(weights[2])
    linear = weights[4].reshape(len(weights[4]), channels, -1).transpose(0, 2, 1)
    model.set_weights(
        [
            weights[0].transpose(2, 3, 1, 0), weights[1],
            weights[2].transpose(2, 3, 1, 0), weights[3],
            linear.reshape(len(weights[4]), -1).T, weights[5],
            weights[6].T, weights[7],
        ]
    )  # fmt: skip
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None, 0, :, :, None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    out.write_bytes(converter.convert())


def main() -> None:
    """Convert as the command line says."""
    kind, source, out = sys.argv[1:]
    with np.load(source) as stored:
        onnx_path = str(stored["onnx_path"])
        images = stored["calibration"][:, None].astype(np.float32) / np.float32(255)
        weights = [stored[f"w{index}"] for index in range(8)]
    if kind == "litert-int8":
        to_tflite(weights, images, Path(out))
    else:
        to_openvino(onnx_path, images if kind == "openvino-int8" else None, Path(out))


if __name__ == "__main__":
    main()
