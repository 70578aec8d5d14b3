"""Prove that a model file computes what PyTorch computes, or say where it does not.

The tolerance is derived, never chosen: float32 PyTorch against float64 PyTorch on the same images
is the noise floor, and the file may be off by at most 8 times that. Takes reference logits as
arrays; PyTorch itself is the model part's business.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .runtime import onnxfile
from .runtime.classifier import Classifier
from .runtime.errors import EdgeError
from .runtime.selftest import Check, largest_error

Array = np.ndarray[Any, np.dtype[Any]]

TOLERANCE_FACTOR = 8
BATCH_SIZES = (1, 2, 3, 7, 64, 256)
N_IMAGES_A_BATCH_SIZE = 512
OPSET = 18
IR_VERSION = 8


@dataclass(frozen=True)
class Reference:
    """PyTorch's logits for `images` (N, H, W) uint8.

    logits: (N, C) float64, the reference. floor: the largest error of float32 PyTorch against it.
    """

    images: Array
    logits: Array
    floor: float

    @property
    def tolerance(self) -> float:
        """The largest absolute error that the file may show."""
        return TOLERANCE_FACTOR * self.floor


@dataclass(frozen=True)
class Comparison:
    """Logits against a reference, over N images.

    image_errors: (N,) each image's largest absolute error. flips: images whose likeliest class
    differs. near_ties: images whose top-1/top-2 margin is below twice the tolerance, so that
    rounding alone may flip them.
    """

    image_errors: Array
    max_error: float
    mean_error: float
    n_agreeing: int
    flips: tuple[int, ...]
    near_ties: tuple[int, ...]

    @property
    def real_flips(self) -> tuple[int, ...]:
        """The flips that rounding does not explain."""
        return tuple(index for index in self.flips if index not in set(self.near_ties))

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values, image errors summarised."""
        finite = bool(np.isfinite(self.image_errors).all())
        return {
            "n_images": len(self.image_errors),
            "max_error": self.max_error if finite else None,
            "mean_error": self.mean_error if finite else None,
            "n_agreeing_labels": self.n_agreeing,
            "flips": list(self.flips),
            "near_ties": list(self.near_ties),
            "flips_outside_near_ties": list(self.real_flips),
        }


def compare(logits: Array, reference: Reference) -> Comparison:
    """Compare `logits` (N, C) with the reference on the same N images."""
    errors = np.abs(logits.astype(np.float64) - reference.logits)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    top_two = np.sort(reference.logits, axis=1)[:, -2:]
    near = (top_two[:, 1] - top_two[:, 0]) < 2 * reference.tolerance
    agreeing = logits.argmax(axis=1) == reference.logits.argmax(axis=1)
    return Comparison(
        image_errors=errors.max(axis=1),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        n_agreeing=int(agreeing.sum()),
        flips=tuple(int(i) for i in np.where(~agreeing)[0]),
        near_ties=tuple(int(i) for i in np.where(near)[0]),
    )


def check_parity(comparison: Comparison, reference: Reference) -> tuple[Check, Check]:
    """Check the error of every image, and that no label flips but by rounding."""
    error, limit = comparison.max_error, reference.tolerance
    n, flips = len(comparison.image_errors), comparison.real_flips
    values = Check(
        "logits against float64 PyTorch",
        error <= limit,
        f"{n:,} images, max {error:.2g}, mean {comparison.mean_error:.2g}, floor "
        f"{reference.floor:.2g}, {'within' if error <= limit else 'beyond'} {limit:.2g}",
        error,
        limit,
    )
    labels = Check(
        "label flips",
        not flips,
        f"{len(comparison.flips)} in {n:,}, {len(flips)} outside the "
        f"{len(comparison.near_ties)} near-ties"
        + (f": images {list(flips[:10])}" if flips else ""),
        float(len(flips)),
        0.0,
    )
    return values, labels


def check_graph(model: bytes) -> Iterable[Check]:
    """Check what can be read off the file: opset, IR version, one file, a free batch axis."""
    try:
        file = onnxfile.parse(model)
    except EdgeError as error:
        return [Check("self-contained file", False, error.found)]
    opset, axes = file.opsets.get("", 0), [v.shape[:1] for v in (*file.inputs, *file.outputs)]
    free = all(axis and isinstance(axis[0], str) for axis in axes)
    return [
        Check("self-contained file", True, f"{len(model):,} bytes, no external data"),
        Check("opset", opset == OPSET, f"{opset}, wanted {OPSET}", opset, OPSET),
        Check(
            "IR version",
            file.ir_version == IR_VERSION,
            f"{file.ir_version}, wanted {IR_VERSION}",
            file.ir_version,
            IR_VERSION,
        ),
        Check("dynamic batch axis", free, f"first axes {[axis[0] for axis in axes if axis]}"),
    ]


def check_alone(model: bytes, reference: Reference) -> Check:
    """Load the file by path, alone in another folder, and run one image."""

    def run() -> Check:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "alone.onnx"
            path.write_bytes(model)
            logits = Classifier(path).logits(reference.images[:1])
        return Check("loads alone", True, f"from another folder, logits {logits.shape}")

    return _attempt("loads alone", run)


def check_batch_size(classifier: Classifier, reference: Reference, batch_size: int) -> Check:
    """Check shape, finiteness, error and row invariance at one batch size.

    Row invariance: row i of a batch equals that image run alone, within the tolerance.
    """
    name = f"batch {batch_size}"
    n = max(batch_size, N_IMAGES_A_BATCH_SIZE // batch_size * batch_size)
    n = min(n, len(reference.images) // batch_size * batch_size) or len(reference.images)
    images, limit = reference.images[:n], reference.tolerance

    def run() -> Check:
        logits = classifier.logits(images, batch_size=batch_size)
        alone = classifier.logits(images, batch_size=1)
        n_bad = int((~np.isfinite(logits)).any(axis=1).sum())
        if n_bad:
            return Check(name, False, f"{n_bad} of {n} images give NaN or infinity")
        error = largest_error(logits, reference.logits[:n])
        drift = largest_error(logits, alone.astype(np.float64))
        passed = error <= limit and drift <= limit
        detail = f"max {error:.2g}, floor {reference.floor:.2g}, row invariance {drift:.2g}"
        detail += "" if passed else f", beyond {limit:.2g}"
        return Check(name, passed, detail, max(error, drift), limit)

    return _attempt(name, run)


def compare_all(classifier: Classifier, reference: Reference) -> tuple[Comparison, list[Check]]:
    """Compare all of the reference's images; a run that fails is a failed check."""
    try:
        logits = classifier.logits(reference.images)
    except EdgeError as error:
        nothing = np.full(reference.logits.shape, np.nan)
        failed = Check("logits against float64 PyTorch", False, error.found)
        return compare(nothing, reference), [failed]
    comparison = compare(logits, reference)
    return comparison, list(check_parity(comparison, reference))


def _attempt(name: str, run: Callable[[], Check]) -> Check:
    """Run a check; a refusal by the runtime is that check's failure, not the command's."""
    try:
        return run()
    except EdgeError as error:
        return Check(name, False, error.found)
