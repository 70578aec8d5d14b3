"""Classify images with an exported model: the public Python API, used by every command.

from convnet_edge.runtime import Classifier
predictions = Classifier("exported/convnet.onnx")(["boot.jpg"])
print(predictions.names, predictions.probabilities)
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np

from . import admission, preprocess
from .contract import NEXT_STEP, Array
from .errors import InputError
from .model_file import ModelFile, PathLike, naming, open_model
from .options import require
from .preprocess import Picture
from .session import Session, Settings

Pictures: TypeAlias = "Picture | Iterable[Picture]"

RUN_BATCH_SIZE = 256
N_SHOWN = 3


@dataclass(frozen=True, repr=False)
class Predictions:
    """What the model says of N images, for C classes.

    >>> Classifier("exported/fashion-mnist.onnx")(["boot.png", "shirt.jpg"]).top(1)
    [[('Ankle Boot', 0.98)], [('Shirt', 0.87)]]

    labels: (N,) int64, the index of the likeliest class; probabilities: (N, C) float32, rows sum
    to 1; logits: (N, C) float32, raw outputs; class_labels: the C names.
    """

    labels: Array
    probabilities: Array
    logits: Array
    class_labels: tuple[str, ...]

    def __repr__(self) -> str:
        shown = [f"{name} {share:.0%}" for ((name, share),) in self.top(1)[:N_SHOWN]]
        n = len(self.labels)
        listed = ", ".join(shown + ["…"] * (n > N_SHOWN)) or "none"
        return f"Predictions({n} image{'s' * (n != 1)}: {listed})"

    @property
    def names(self) -> list[str]:
        """The likeliest class of each image, by name."""
        return [self.class_labels[label] for label in self.labels]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """Return, for each image, the `k` likeliest classes as (name, probability)."""
        _require_count("k", k)
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_labels[i], float(row[i])) for i in best]
            for best, row in zip(order, self.probabilities, strict=True)
        ]


def _require_count(name: str, n: Any) -> None:
    holds = isinstance(n, Integral) and int(n) >= 1
    require(holds, f"{name}={n!r}", "a whole number from 1", name)


class Classifier:
    """An opened model: call it with images, get `Predictions`. Safe to call from many threads.

    >>> Classifier("exported/fashion-mnist.onnx")("boot.png").names
    ['Ankle Boot']

    model: path or content of a file that `convnet-edge export` wrote, or such a file already read.
    provider: "cpu", "cuda", "openvino" or another of onnxruntime's, opened or refused, never
    replaced. threads: intra-op threads, None for all usable cores. settings: all of that and more
    (`session.Settings`); if given, it decides.

    Raises:
        InputError: the file was altered or is none of ours, or the provider cannot be opened, or
            `model` is nothing of these.
    """

    def __init__(
        self,
        model: PathLike | bytes | ModelFile,
        provider: str = "cpu",
        threads: int | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self.file = model if isinstance(model, ModelFile) else open_model(model)
        self.contract = self.file.contract
        with naming(self.file.path):
            admission.admit(self.file)
            self.session = Session(self.file.data, settings or Settings(provider, threads))
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

    def __repr__(self) -> str:
        height, width = self.contract.image_shape
        name = self.file.path.name if self.file.path else self.contract.document.get("name")
        return (
            f"Classifier({name}: {len(self.contract.class_labels)} classes, "
            f"{height} x {width} grey, {self.session.provider}, {self.session.threads} threads)"
        )

    def __call__(self, images: Pictures) -> Predictions:
        """Classify one picture or several: paths, bytes, open files, PIL images, uint8 arrays.

        An array (H, W) or (N, H, W) of the model's size is pixels as they are, light on dark; any
        other (h, w), (h, w, 3) or (h, w, 4) is one picture, grey, RGB or RGBA, and preprocessed.

        >>> classifier(["boot.png", Path("boot.jpg"), encoded_bytes, camera_frame])
        Predictions(4 images: Ankle Boot 98%, Ankle Boot 97%, Shirt 87%, …)

        Raises:
            InputError: something else, an unreadable picture, or a run that fails.
        """
        pixels = self._pixels(images)
        logits = self.logits(pixels)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        return Predictions(logits.argmax(axis=1), probabilities, logits, self.contract.class_labels)

    def _pixels(self, images: Pictures) -> Array:
        """Return `images` as (N, H, W) uint8."""
        shape = self.contract.image_shape
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[1:] == shape:
            return images
        is_one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray)
        if is_one or hasattr(images, "read") or not isinstance(images, Iterable):
            return preprocess.to_pixels(images, shape)[None]
        pictures = [
            preprocess.to_pixels(picture, shape, name=f"images[{place}]")
            for place, picture in enumerate(images)
        ]
        return np.array(pictures, np.uint8).reshape(-1, *shape)

    def logits(self, images: Array, *, batch_size: int = RUN_BATCH_SIZE) -> Array:
        """Return the logits (N, C) float32 of `images`, run in batches of `batch_size`."""
        _require_count("batch_size", batch_size)
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
                next_step="pass 0 to 255 as uint8, or picture files to have them preprocessed",
            )
        if self.contract.input_dtype == "uint8":
            return np.ascontiguousarray(images[:, None])
        scaled: Array = images[:, None].astype(np.float32) / np.float32(255)
        return scaled
