"""Prove that a model file computes what PyTorch computes, or say where it does not.

The tolerance is derived, never chosen: float32 PyTorch against float64 PyTorch on the same images
is the noise floor, and the file may be off by at most 8 times that. Takes reference logits as
arrays; PyTorch itself is the model part's business.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import model_file as onnxfile
from ..runtime.classifier import Classifier
from ..runtime.errors import EdgeError
from ..runtime.selftest import Check, largest_error
from ..runtime.session import TOLERANCE_FACTORS

Array = np.ndarray[Any, np.dtype[Any]]

TOLERANCE_FACTOR = 8
BATCH_SIZES = (1, 2, 3, 7, 64, 256)
N_IMAGES_A_BATCH_SIZE = 512
OPSET = 18
IR_VERSION = 8
MAX_LISTED = 100


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

    image_errors: (N,) each image's largest absolute error. margins: (N,) top-1 minus top-2 logit of
    the reference. max_error, mean_error, p99_error: over all logits. flips: images whose likeliest
    class differs. near_ties: images whose margin is below twice the tolerance, so that rounding
    alone may flip them.
    """

    image_errors: Array
    margins: Array
    max_error: float
    mean_error: float
    p99_error: float
    flips: tuple[int, ...]
    near_ties: tuple[int, ...]

    @property
    def n_agreeing(self) -> int:
        """Images whose likeliest class is the reference's."""
        return len(self.image_errors) - len(self.flips)

    @property
    def uncertain(self) -> tuple[int, ...]:
        """Images whose margin is below twice the largest error seen.

        With every logit off by at most that error, no other image can change its class: the
        margin certificate.
        """
        return tuple(int(i) for i in np.where(self.margins < 2 * self.max_error)[0])

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
            "p99_error": self.p99_error if finite else None,
            "minimum_required_tolerance": self.max_error if finite else None,
            "image_error_histogram": _histogram(self.image_errors) if finite else None,
            "n_agreeing_labels": self.n_agreeing,
            "flips": list(self.flips),
            "near_ties": list(self.near_ties),
            "flips_outside_near_ties": list(self.real_flips),
            "margin_certificate": {
                "what": "images whose top-1/top-2 margin is below twice the largest error: no "
                "other image can change its class",
                "n": len(self.uncertain),
                "images": list(self.uncertain[:MAX_LISTED]),
                "smallest_margin": float(self.margins.min()),
            },
        }

    def summary(self) -> str:
        """Return the margin certificate and the tolerance that would do, as people read them."""
        if not np.isfinite(self.image_errors).all():
            return "Minimum required tolerance: none would do, there are NaN or infinite logits"
        n = len(self.uncertain)
        return (
            f"Minimum required tolerance: {self.max_error:.2g}\n"
            f"Margin certificate: {n} of {len(self.margins):,} images have a top-1/top-2 margin "
            f"below 2 × {self.max_error:.2g}"
            + (f": {_first(self.uncertain)}" if n else "")
            + "; no other can change its class"
        )


def compare(logits: Array, reference: Reference) -> Comparison:
    """Compare `logits` (N, C) with the reference on the same N images."""
    errors = np.abs(logits.astype(np.float64) - reference.logits)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    top_two = np.sort(reference.logits, axis=1)[:, -2:]
    margins = top_two[:, 1] - top_two[:, 0]
    flipped = logits.argmax(axis=1) != reference.logits.argmax(axis=1)
    return Comparison(
        image_errors=errors.max(axis=1),
        margins=margins,
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        p99_error=float(np.quantile(errors, 0.99, method="higher")),
        flips=tuple(int(i) for i in np.where(flipped)[0]),
        near_ties=tuple(int(i) for i in np.where(margins < 2 * reference.tolerance)[0]),
    )


def _histogram(errors: Array) -> dict[str, list[float] | list[int]]:
    """Return the images' largest errors in ten bins a decade; errors of 0 count in the first."""
    lowest, highest = (np.log10(max(float(e), 1e-12)) for e in (errors.min(), errors.max()))
    first, last = np.floor(10 * lowest), np.floor(10 * highest) + 1
    edges = 10 ** (np.arange(first, last + 1) / 10)
    counts, _ = np.histogram(np.clip(errors, edges[0], edges[-1]), edges)
    return {"edges": [float(f"{edge:.4g}") for edge in edges], "n_images": counts.tolist()}


def check_parity(comparison: Comparison, reference: Reference) -> tuple[Check, Check]:
    """Check the error of every image, and that no label flips but by rounding."""
    error, limit = comparison.max_error, reference.tolerance
    n, flips = len(comparison.image_errors), comparison.real_flips
    values = Check(
        "logits against float64 PyTorch",
        error <= limit,
        f"{n:,} images, max {error:.2g}, p99 {comparison.p99_error:.2g}, mean "
        f"{comparison.mean_error:.2g}, floor {reference.floor:.2g}, "
        f"{'within' if error <= limit else 'beyond'} {limit:.2g}",
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
    """Compare all of the reference's images; a run that fails is a failed check.

    In reduced precision the floor is what that precision makes of it.
    """
    factor = TOLERANCE_FACTORS[classifier.session.precision]
    reference = replace(reference, floor=reference.floor * factor)
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


@dataclass(frozen=True)
class Difference:
    """Two model files side by side.

    verdict: "bit-equal", "within tolerance" or "different", of their logits. where: the parts of
    the files that are not the same, in words; empty for equal graphs.
    """

    verdict: str
    where: tuple[str, ...]
    comparison: Comparison
    check: Check


def compare_models(models: tuple[bytes, bytes], classifiers: tuple[Classifier, Classifier],
                   images: Array) -> Difference:  # fmt: skip
    """Compare a model with another one on `images` (N, H, W) uint8; the first one's tolerance.

    Raises:
        InputError: a run fails, or the models do not take the same images.
    """
    mine, other = (classifier.logits(images) for classifier in classifiers)
    tolerance = classifiers[0].contract.goldens.tolerance
    reference = Reference(images, other.astype(np.float64), tolerance / TOLERANCE_FACTOR)
    comparison = compare(mine, reference)
    if mine.tobytes() == other.tobytes():
        verdict = "bit-equal"
    elif comparison.max_error <= tolerance and not comparison.real_flips:
        verdict = "within tolerance"
    else:
        verdict = "different"
    where = _differing_parts(*(onnxfile.parse(model) for model in models))
    detail = (
        f"{verdict}: {len(images):,} images, max {comparison.max_error:.2g}, tolerance "
        f"{tolerance:.2g}, {len(comparison.flips)} labels differ"
    )
    if verdict == "different":
        worst = np.argsort(-comparison.image_errors, kind="stable")[:3].tolist()
        detail += f"; most in images {worst}"
    check = Check("logits against the other model", verdict != "different", detail,
                  comparison.max_error, tolerance)  # fmt: skip
    return Difference(verdict, where, comparison, check)


def _first(names: Sequence[object], n: int = 10) -> str:
    return ", ".join([*map(str, names[:n]), *("…",) * (len(names) > n)])


def _differing_parts(mine: onnxfile.OnnxFile, other: onnxfile.OnnxFile) -> tuple[str, ...]:
    found = []
    operations = [[node.op_type for node in file.nodes] for file in (mine, other)]
    if operations[0] != operations[1]:
        pairs = enumerate(zip_longest(*operations, fillvalue="none"), 1)
        number, (one, two) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        found.append(f"{len(operations[0])} operations, not {len(operations[1])}; the first that "
                     f"differs is number {number}: {one}, not {two}")  # fmt: skip
    if mine.opsets != other.opsets or mine.ir_version != other.ir_version:
        found.append(f"opsets {mine.opsets}, IR {mine.ir_version}, not {other.opsets}, IR "
                     f"{other.ir_version}")  # fmt: skip
    weights = [{weight.name: weight.content for weight in file.weights} for file in (mine, other)]
    shared = sorted(weights[0].keys() & weights[1].keys())
    different = [name for name in shared if weights[0][name] != weights[1][name]]
    for what, names in (
        ("weights that differ", different),
        ("weights in one of them alone", sorted(weights[0].keys() ^ weights[1].keys())),
    ):
        if names:
            found.append(f"{what}: {len(names)} ({_first(names)})")
    return tuple(found)
