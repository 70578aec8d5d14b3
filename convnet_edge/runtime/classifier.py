"""Classify images with an exported model: the public Python API, used by every command.

from convnet_edge.runtime import Classifier
predictions = Classifier("exported/convnet.onnx")(["boot.jpg"])
print(predictions.names, predictions.probabilities)
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np

from . import admission
from .contract import NEXT_STEP, Array, scale_and_offset
from .errors import InputError
from .model_file import ModelFile, PathLike, naming, open_model
from .options import require
from .pictures import preprocess
from .pictures.preprocess import Picture, Prepared
from .session import Session, Settings

Pictures: TypeAlias = "Picture | Iterable[Picture]"

RUN_BATCH_SIZE, RUN_BATCH_PIXELS = 256, 1 << 20  # of larger images fewer, which take memory
N_SHOWN = 3
NOT_SURE = "not sure: "


@dataclass(frozen=True, repr=False)
class Predictions:
    """What the model says of N images, for C classes.

    >>> Classifier("exported/fashion-mnist.onnx")(["boot.png", "shirt.jpg"]).top(1)
    [[('Ankle Boot', 0.98)], [('Shirt', 0.87)]]

    labels: (N,) int64, the index of the likeliest class; probabilities: (N, C) float32, rows sum
    to 1; logits: (N, C) float32, raw outputs; class_labels: the C names; unsure: (N,) bool, which
    answers the contract's `decision` does not stand by.
    """

    labels: Array
    probabilities: Array
    logits: Array
    class_labels: tuple[str, ...]
    unsure: Array

    def __repr__(self) -> str:
        pairs = zip(self.unsure.tolist(), self.top(1)[:N_SHOWN])  # noqa: B905 - the first ones
        shown = [f"{NOT_SURE * unsure}{name} {share:.0%}" for unsure, ((name, share),) in pairs]
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
    (`session.Settings`); if given, it decides. isolate: run the golden images first in a process
    of its own, whose memory and time are limited; None for that where the file's shapes do not
    follow from its weights.

    Raises:
        InputError: the file was altered, is no classifier that can be opened safely or takes too
            much, the provider cannot be opened, or `model` is nothing of these.
    """

    def __init__(
        self,
        model: PathLike | bytes | ModelFile,
        provider: str = "cpu",
        threads: int | None = None,
        *,
        settings: Settings | None = None,
        isolate: bool | None = None,
    ) -> None:
        self.file = model if isinstance(model, ModelFile) else open_model(model)
        self.contract = self.file.contract
        settings = settings or Settings(provider, threads)
        with naming(self.file.path):
            found = admission.admit(self.file, ceiling=settings.ceiling)
            if isolate or (isolate is None and found.believed):
                from . import isolation  # most files do without

                isolation.try_out(self.file, found, ceiling=settings.ceiling)
            self.session = Session(self.file.data, settings)
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
        how, session = self.contract.preprocessing, self.session
        (height, width), colours = how.size, "grey" if how.channels == 1 else "RGB"
        name = self.file.path.name if self.file.path else self.contract.document.get("name")
        return (
            f"Classifier({name}: {len(self.contract.class_labels)} classes, {height} x {width} "
            f"{colours}, {session.provider}, {session.threads} threads)"
        )

    def __call__(self, images: Pictures) -> Predictions:
        """Classify one picture or several: paths, bytes, open files, PIL images, uint8 arrays.

        An array of the contract's `image_shape`, (H, W) or (H, W, 3), or of N of these is pixels as
        they are; any other (h, w), (h, w, 3) or (h, w, 4) is one picture, grey, RGB or RGBA, and
        preprocessed.

        >>> classifier(["boot.png", Path("boot.jpg"), encoded_bytes, camera_frame])
        Predictions(4 images: Ankle Boot 98%, Ankle Boot 97%, Shirt 87%, …)

        Raises:
            InputError: something else, an unreadable picture, or a run that fails.
        """
        shape = self.contract.image_shape
        if isinstance(images, np.ndarray) and images.shape[1:] == shape:
            return self._answer(images, ())
        return self.answer(self._prepare(images))

    def answer(self, pictures: Sequence[Prepared]) -> Predictions:
        """Classify pictures that `preprocess` has made ready."""
        pixels = np.array([one.pixels for one in pictures], np.uint8)
        shape = (-1, *self.contract.image_shape)
        return self._answer(pixels.reshape(shape), [one.unevenness for one in pictures])

    def _prepare(self, images: Any) -> list[Prepared]:
        how = self.contract.preprocessing
        is_one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray)
        if is_one or hasattr(images, "read") or not isinstance(images, Iterable):
            return [preprocess.to_pixels(images, how)]
        return [
            preprocess.to_pixels(picture, how, name=f"images[{place}]")
            for place, picture in enumerate(images)
        ]

    def _answer(self, pixels: Array, unevenness: Sequence[float | None]) -> Predictions:
        """Classify `pixels` (N, *image_shape); unevenness: of each picture's border, if known."""
        logits, decision = self.logits(pixels), self.contract.decision
        probabilities = logits
        if not self.contract.gives_probabilities:
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        unsure = np.zeros(len(logits), bool)
        if decision is not None:
            unsure = probabilities.max(axis=1, initial=0) < decision.threshold
            if decision.max_unevenness is not None and len(unevenness):
                unsure |= np.array(unevenness, float) > decision.max_unevenness  # NaN where None
        labels = logits.argmax(axis=1)
        return Predictions(labels, probabilities, logits, self.contract.class_labels, unsure)

    @property
    def batch_size(self) -> int:
        """How many images run at once unless it is said: not more than memory is meant for."""
        by_pixels = RUN_BATCH_PIXELS // prod(self.contract.preprocessing.size)
        by_memory = admission.MAX_IMAGE_BYTES // self.contract.cost.peak_bytes
        most = 1 if self.file.takes_one else RUN_BATCH_SIZE
        return max(1, min(most, by_pixels, by_memory))

    def logits(self, images: Array, *, batch_size: int | None = None) -> Array:
        """Return the logits (N, C) float32 of `images`, run in batches of `batch_size`."""
        batch_size = self.batch_size if batch_size is None else batch_size
        _require_count("batch_size", batch_size)
        batch_size = 1 if self.file.takes_one else batch_size
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
        """Return the model's input (N, C, H, W) of uint8 `images`: themselves, or in [0, 1]."""
        shape = self.contract.image_shape
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise InputError(
                f"images of shape {images.shape} and type {images.dtype}",
                expected=f"(N, {', '.join(map(str, shape))}) uint8",
                next_step="pass 0 to 255 as uint8, or picture files to have them preprocessed",
            )
        planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        if self.contract.input_dtype == "uint8":
            return np.ascontiguousarray(planes)
        scaled: Array = np.ascontiguousarray(planes, np.float32)
        scaled /= np.float32(255)
        if self.contract.normalization is not None:
            scale, offset = scale_and_offset(*self.contract.normalization)
            scaled *= scale
            scaled += offset
        return scaled
