"""Classify images with an exported model: the public Python API, used by every command.

from convnet_edge.runtime import Classifier
predictions = Classifier("exported/convnet.onnx")(["boot.jpg"])
print(predictions.names, predictions.probabilities)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import admission, preprocess
from .contract import NEXT_STEP, Array
from .errors import InputError
from .model_file import ModelFile, naming, open_model
from .session import Session, Settings

PathLike = str | os.PathLike[str]

RUN_BATCH_SIZE = 256


@dataclass(frozen=True)
class Predictions:
    """What the model says of N images, for C classes.

    labels: (N,) int64, the index of the likeliest class; probabilities: (N, C) float32, rows sum
    to 1; logits: (N, C) float32, raw outputs; class_labels: the C names.
    """

    labels: Array
    probabilities: Array
    logits: Array
    class_labels: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The likeliest class of each image, by name."""
        return [self.class_labels[label] for label in self.labels]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """Return, for each image, the `k` likeliest classes as (name, probability)."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_labels[i], float(row[i])) for i in best]
            for best, row in zip(order, self.probabilities, strict=True)
        ]


class Classifier:
    """An opened model: call it with images, get `Predictions`. Safe to call from many threads.

    model: path or content of a file that `convnet-edge export` wrote, or such a file already read.
    provider: "cpu", "cuda", "openvino" or another of onnxruntime's, opened or refused, never
    replaced. threads: intra-op threads, None for all usable cores. settings: all of that and more
    (`session.Settings`); if given, it decides.

    Raises:
        InputError: the file was altered or is none of ours, or the provider cannot be opened.
    """

    def __init__(
        self,
        model: PathLike | bytes | ModelFile,
        provider: str = "cpu",
        threads: int | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        if not isinstance(model, ModelFile):
            model = open_model(model if isinstance(model, bytes) else Path(model))
        self.file, self.contract = model, model.contract
        with naming(model.path):
            admission.admit(model)
            self.session = Session(model.data, settings or Settings(provider, threads))
            self._require_as_stated()

    def _require_as_stated(self) -> None:
        stated, found = (
            f"{side.input_dtype} {side.input_name!r} and gives {side.output_name!r}"
            for side in (self.contract, self.session)
        )
        if found != stated:
            raise InputError(
                f"the graph takes {found}, the contract says {stated}",
                expected="a contract that describes its graph",
                next_step=NEXT_STEP,
            )

    @property
    def tolerance(self) -> float:
        """The largest error of a logit that the contract allows."""
        return self.contract.goldens.tolerance

    def __call__(self, images: Array | Sequence[PathLike]) -> Predictions:
        """Classify `images`: (N, H, W) or (H, W) uint8 as in the data set, or picture files.

        Raises:
            InputError: wrong shape or type, an unreadable picture, or a run that fails.
        """
        if not isinstance(images, np.ndarray):
            shape = self.contract.image_shape
            pictures = [preprocess.read_picture(Path(path), shape) for path in images]
            images = np.array(pictures, np.uint8).reshape(-1, *shape)
        logits = self.logits(images[None] if images.ndim == 2 else images)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        return Predictions(logits.argmax(axis=1), probabilities, logits, self.contract.class_labels)

    def logits(self, images: Array, *, batch_size: int = RUN_BATCH_SIZE) -> Array:
        """Return the logits (N, C) float32 of `images`, run in batches of `batch_size`."""
        parts = [
            self.session.run(self.to_input(images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
        n_classes = len(self.contract.class_labels)
        logits = np.concatenate(parts) if parts else np.zeros((0, n_classes), np.float32)
        if logits.shape != (len(images), n_classes):
            raise InputError(
                f"logits of shape {logits.shape} for {len(images)} images",
                expected=f"{(len(images), n_classes)}, one row an image",
                next_step="check the file with `convnet-edge verify`",
            )
        return logits

    def to_input(self, images: Array) -> Array:
        """Return the model's input (N, 1, H, W) of uint8 `images`: themselves, or in [0, 1]."""
        shape = self.contract.image_shape
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise InputError(
                f"images of shape {images.shape} and type {images.dtype}",
                expected=f"(N, {shape[0]}, {shape[1]}) uint8, light on dark",
                next_step="pass the paths of picture files instead, to have them preprocessed",
            )
        if self.contract.input_dtype == "uint8":
            return np.ascontiguousarray(images[:, None])
        scaled: Array = images[:, None].astype(np.float32) / np.float32(255)
        return scaled
