"""Make another runtime's model file for `benchmarks/peers.py`: `python convert.py KIND FOLDER OUT`.

FOLDER holds `plain.onnx`, `program.pt2` of torch.export, and `ranges.npy`, uint8 images (N, H, W)
or (N, H, W, 3). Each runtime's own tool converts, with its defaults.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
BATCH_SIZE, MANY = 64, ".64.tflite"  # of worker.py


def to_openvino(onnx_path: Path, images: Array, out: Path, *, in_integers: bool) -> None:
    """Write OpenVINO's files, of integers by NNCF; images: (N, C, H, W) float32, for the ranges."""
    import openvino

    model = openvino.convert_model(onnx_path)
    if in_integers:
        import nncf

        dataset = nncf.Dataset([image[None] for image in images])
        model = nncf.quantize(model, dataset, subset_size=len(images))
    openvino.save_model(model, out, compress_to_fp16=False)


def to_litert(program: Path, images: Array, out: Path, *, in_integers: bool) -> None:
    """Write a .tflite that takes (1, H, W, C), and beside it one for many images.

    images: (N, C, H, W) float32, for the ranges. Each file finds its own: the converter may name
    the values of the two differently.
    """
    import litert_torch
    import torch

    rows = images.transpose(0, 2, 3, 1)
    module = litert_torch.to_channel_last_io(torch.export.load(program).module(), args=[0])
    for path, n in {out: 1, out.with_suffix(MANY): BATCH_SIZE}.items():
        samples = np.resize(rows, (max(n, len(rows) // n * n), *rows.shape[1:]))
        batches = samples.reshape(-1, n, *rows.shape[1:])
        litert_torch.convert(module, (torch.from_numpy(batches[0]),)).export(str(path))
        if in_integers:
            _make_integers(path, batches)


def _make_integers(path: Path, batches: Array) -> None:
    """Let LiteRT's quantizer make a .tflite one of integers; batches: (B, N, H, W, C) float32."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    ((signature, names),) = Interpreter(str(path)).get_signature_list().items()
    made = quantizer.Quantizer(str(path))
    made.load_quantization_recipe(recipe.static_wi8_ai8())
    ranges = made.calibrate({signature: [{names["inputs"][0]: batch} for batch in batches]})
    made.quantize(ranges).export_model(str(path), overwrite=True)


def main() -> None:
    """Convert as the command line says."""
    kind, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    ranges = np.load(folder / "ranges.npy")
    planes = ranges[:, None] if ranges.ndim == 3 else ranges.transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(planes).astype(np.float32) / np.float32(255)
    name, _, dtype = kind.partition("-")
    in_integers = dtype == "int8"
    if name == "litert":
        to_litert(folder / "program.pt2", images, out, in_integers=in_integers)
    else:
        to_openvino(folder / "plain.onnx", images, out, in_integers=in_integers)


if __name__ == "__main__":
    main()
