"""What `benchmarks/peers.py` compares: a network, the pictures it knows, and our files of both.

Every runtime gets the same weights, the same test pictures, and for its ranges the same pictures.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization import quantize_static
from torch import nn

from convnet_edge.data import dataset
from convnet_edge.data.options import DataOptions
from convnet_edge.exporting.export import export
from convnet_edge.exporting.options import ExportOptions
from convnet_edge.networks import REFERENCE, checkpoint
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.quantizing.options import QuantizeOptions
from convnet_edge.quantizing.quantize import quantize, split_training_images
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.runtime.model_file import open_model
from convnet_edge.training.loop import train
from convnet_edge.training.options import TrainOptions

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent / "exported"
REFERENCE_S = 15.0  # for what `export` proves; here others are compared
LETTERS = HERE.parent / "examples" / "letters.py"
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Subject:
    """A trained network.

    model: gives logits of pixels (N, C, H, W) in [0, 1]. ranges: uint8 training images, from which
    every runtime takes its ranges. files: ours, by what they are.
    """

    model: nn.Module
    ranges: Array
    test: ImageSet
    files: dict[str, Path]


def find(asked: Namespace, folder: Path) -> Subject:
    """Return the shipped reference, or a network trained, exported and quantised in `folder`."""
    if asked.arch == REFERENCE:
        suffixes = {"float32": "", "int8 portable": ".int8", "int8 ort-cpu": ".int8-ort"}
        files = {kind: SHIPPED / f"fashion-mnist{end}.onnx" for kind, end in suffixes.items()}
        return _describe(_shipped_network(), files, DataOptions(data="sample"))
    where = {"data": asked.data or _draw_letters(folder / "letters"), "cache": folder / "cache"}
    trained, onnx_path = asked.checkpoint, folder / "ours.onnx"
    if trained is None:
        trained = folder / "trained.safetensors"
        print(f"training {asked.arch}", file=sys.stderr)
        size = (asked.image_size,)
        train(TrainOptions(
            arch=asked.arch, image_size=size, epochs=asked.epochs, out=trained, **where
        ))  # fmt: skip
    print("exporting and quantising", file=sys.stderr)
    export(ExportOptions(trained, out=onnx_path, reference_s=REFERENCE_S, **where))
    integers = quantize(QuantizeOptions(
        onnx_path, max_drop=asked.max_drop, out=folder / "ours.int8.onnx", **where
    ))  # fmt: skip
    files = {"float32": onnx_path, "int8 portable": integers.model_path}
    model, _ = checkpoint.load_model(trained)
    return _describe(model, files, DataOptions(**where))


def write_plain_files(subject: Subject, folder: Path) -> None:
    """Write the network as others take it: a plain float export, its standard int8, a program."""
    model, plain = subject.model.eval(), folder / "plain.onnx"
    batch = {0: torch.export.Dim("batch")}
    sample = torch.from_numpy(as_planes(subject.test.images[:2]))
    torch.onnx.export(
        model, (sample,), plain, input_names=["images"], output_names=["logits"],
        dynamic_shapes=(batch,), verbose=False, external_data=False,
    )  # fmt: skip
    program = torch.export.export(model, (sample,), dynamic_shapes=(batch,))
    torch.export.save(program, folder / "program.pt2")
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises to prepare the file
    quantize_static(plain, folder / "standard-int8.onnx", _Images(subject.ranges))
    np.save(folder / "ranges.npy", subject.ranges)
    np.save(folder / "images.npy", subject.test.images)


def as_planes(images: Array) -> Array:
    """Return uint8 images (N, H, W) or (N, H, W, 3) as float32 (N, C, H, W) in [0, 1]."""
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(planes).astype(np.float32) / np.float32(255)


class _Images:
    """Calibration images, as onnxruntime's quantiser reads them."""

    def __init__(self, images: Array) -> None:
        x = as_planes(images)
        self._batches = iter([{"images": x[i : i + 100]} for i in range(0, len(x), 100)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _describe(model: nn.Module, files: dict[str, Path], options: DataOptions) -> Subject:
    file = open_model(files["float32"])
    loaded = dataset.load_again(dataset.Task.of(file.contract), options)
    ranges, _, _ = split_training_images(
        loaded, QuantizeOptions(), n_multiplications=file.n_multiplications
    )
    return Subject(model, ranges, loaded.test, files)


def _shipped_network() -> nn.Module:
    proto = onnx.load(SHIPPED / "fashion-mnist.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    model = Convnet(Architecture())
    weights = [torch.from_numpy(stored[name].copy()) for name, _ in model.named_parameters()]
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), weights, strict=True):
            parameter.copy_(values)
    return model


def _draw_letters(folder: Path) -> str:
    subprocess.run([sys.executable, str(LETTERS), str(folder)], check=True, stdout=sys.stderr)
    return str(folder)
