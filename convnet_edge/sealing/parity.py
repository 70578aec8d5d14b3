"""Prove that a model file computes what its reference says, or say where it does not.

The tolerance is derived, never chosen: float32 PyTorch against float64 PyTorch on the same images
is the noise floor, and the file may be off by at most 8 times that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.classifier import Classifier
from ..runtime.contract import Array
from ..runtime.errors import EdgeError, some
from ..runtime.files import brief
from ..runtime.measure.check import Check
from ..runtime.model_file import ModelFile
from ..runtime.selftest import TOLERANCE_FACTOR as TOLERANCE_FACTOR
from ..runtime.selftest import errors_of, largest_error

BATCH_SIZES = (1, 2, 3, 7, 64, 256)
LARGEST_ALWAYS = 64  # of these sizes; 256 only where a run without a batch size takes as many
N_IMAGES_A_BATCH_SIZE = 512
MAX_BATCH_BYTES = 2 << 30  # of what lives at once in a batch
OPSET = 18
IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}  # the oldest that has the opset
MAX_LISTED = 100
LOGITS_CHECK = "logits against float64 PyTorch"


@dataclass(frozen=True)
class Reference:
    """The logits that are right for uint8 `images`.

    logits: (N, C) float64. floor: the error that as honest a computation of them shows. indices:
    of a seeded sample, where its images stand among all `n_all`; None of all.
    """

    images: Array
    logits: Array
    floor: float
    indices: Array | None = None
    n_all: int | None = None

    @property
    def tolerance(self) -> float:
        """The largest absolute error that the file may show."""
        return TOLERANCE_FACTOR * self.floor


def from_pytorch(images: Array, logits: tuple[Array, Array], **sample: Any) -> Reference:
    """Return the reference that PyTorch gives: `logits` (N, C) in float64, and in float32.

    sample: `indices` and `n_all`, of images that are not all.
    """
    exact, rounded = logits
    return Reference(images, exact, largest_error(rounded, exact), **sample)


@dataclass(frozen=True)
class Certificate:
    """Which labels could change if every logit were off by the largest error.

    images: the first of the n. smallest_margin: top-1 less top-2 logit, of all that were compared.
    """

    n: int
    images: tuple[int, ...]
    smallest_margin: float
    what: str = (
        "images whose top-1/top-2 margin is below twice the largest error: no other of the images "
        "compared can change its class"
    )


@dataclass(frozen=True)
class Histogram:
    """The images' largest errors in ten bins a decade; errors of 0 count in the first."""

    edges: tuple[float, ...]
    n_images: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Logits against a reference. Errors are over all logits; infinite where one is not finite.

    n_all: of how many images these are a seeded sample; null of all. flips: images, by their number
    among all, whose likeliest class differs. near_ties: images whose margin is below twice the
    tolerance, so that rounding alone may flip them.
    """

    n_images: int
    max_error: float
    mean_error: float
    p99_error: float
    minimum_required_tolerance: float
    image_error_histogram: Histogram | None
    n_agreeing_labels: int
    flips: tuple[int, ...]
    near_ties: tuple[int, ...]
    flips_outside_near_ties: tuple[int, ...]
    margin_certificate: Certificate
    n_all: int | None = None

    __repr__ = brief

    def summary(self) -> tuple[str, ...]:
        """Return the margin certificate and the tolerance that would do, as people read them."""
        if self.image_error_histogram is None:
            return ("Minimum required tolerance: none would do, there are NaN or infinite logits",)
        found = self.margin_certificate
        return (
            f"Minimum required tolerance: {self.max_error:.2g}",
            f"Margin certificate: {found.n} of the {self.n_images:,} images compared"
            + (f", a seeded sample of {self.n_all:,}," if self.n_all else "")
            + f" have a top-1/top-2 margin below 2 × {self.max_error:.2g}"
            + (f": {some(found.images)}" if found.n else "")
            + "; no other of them can change its class",
        )


@dataclass(frozen=True)
class Proof:
    """What running a file showed. logits: (N, C) of the reference's images, NaN if none came."""

    checks: tuple[Check, ...]
    logits: Array
    comparison: Comparison


def compare(logits: Array, reference: Reference) -> Comparison:
    """Compare `logits` (N, C) with the reference on the same N images."""
    errors = errors_of(logits, reference.logits)
    worst = float(errors.max())
    top_two = np.sort(reference.logits, axis=1)[:, -2:]
    margins = top_two[:, 1] - top_two[:, 0]
    numbers = np.arange(len(errors)) if reference.indices is None else reference.indices
    flips = numbers[logits.argmax(axis=1) != reference.logits.argmax(axis=1)]
    near_ties = numbers[margins < 2 * reference.tolerance]
    uncertain = numbers[margins < 2 * worst]
    return Comparison(
        n_images=len(errors),
        max_error=worst,
        mean_error=float(errors.mean()),
        p99_error=float(np.quantile(errors, 0.99, method="higher")),
        minimum_required_tolerance=worst,
        image_error_histogram=_histogram(errors.max(axis=1)) if np.isfinite(worst) else None,
        n_agreeing_labels=len(errors) - len(flips),
        flips=tuple(flips.tolist()),
        near_ties=tuple(near_ties.tolist()),
        flips_outside_near_ties=tuple(np.setdiff1d(flips, near_ties).tolist()),
        margin_certificate=Certificate(
            len(uncertain), tuple(uncertain[:MAX_LISTED].tolist()), float(margins.min())
        ),
        n_all=reference.n_all,
    )


def check_parity(comparison: Comparison, reference: Reference) -> tuple[Check, Check]:
    """Check the error of every image, and that no label flips but by rounding."""
    n, error, flips = comparison.n_images, comparison.max_error, comparison.flips_outside_near_ties
    values = (
        f"{n:,} images, max {error:.2g}, p99 {comparison.p99_error:.2g}, mean "
        f"{comparison.mean_error:.2g}"
    )
    labels = (
        f"{len(comparison.flips)} in {n:,}, {len(flips)} outside the "
        f"{len(comparison.near_ties)} near-ties"
    )
    if flips:
        labels += f": images {list(flips[:10])}"
    return (
        _within(LOGITS_CHECK, values, error, reference),
        Check("label flips", not flips, labels, float(len(flips)), 0.0),
    )


def _within(name: str, detail: str, error: float, reference: Reference) -> Check:
    limit = reference.tolerance
    said = f"floor {reference.floor:.2g}, {'within' if error <= limit else 'beyond'} {limit:.2g}"
    return Check(name, error <= limit, f"{detail}, {said}", error, limit)


def check_graph(
    file: ModelFile, *, newer: Sequence[str] = (), wanted: int = OPSET
) -> Iterable[Check]:
    """Check what can be read off the file: opset, IR version, one file, a free batch axis.

    newer: its operations that the `wanted` opset lacks; because of them alone it may have a later.
    """
    shapes = (*file.inputs.values(), *file.outputs.values())
    opset, axes = file.opsets.get("", 0), [shape[:1] for shape in shapes]
    free = all(axis and isinstance(axis[0], str) for axis in axes)
    yield Check("self-contained file", True, f"{len(file.data):,} bytes, no external data")
    why = f", which lacks {some(newer)}" if newer else ""
    fits = opset == wanted or (opset > wanted and bool(newer))
    yield Check("opset", fits, f"{opset}, wanted {wanted}{why}", opset, wanted)
    found = file.ir_version
    usual = IR_VERSIONS.get(opset, found if opset == wanted else 0)
    yield Check("IR version", found == usual, f"{found}, wanted {usual}", found, usual)
    yield Check("dynamic batch axis", free, f"first axes {[axis[0] for axis in axes if axis]}")


def check_batch_sizes(classifier: Classifier, reference: Reference) -> Iterable[Check]:
    """Check shape, finiteness, error and row invariance at each of `BATCH_SIZES` that fits.

    Row invariance: row i of a batch equals that image run alone, within the tolerance.
    """
    alone = np.full_like(reference.logits, np.inf)
    usual, cost = classifier.batch_size, classifier.contract.document.get("cost", {})
    most = min(max(usual, LARGEST_ALWAYS), MAX_BATCH_BYTES // cost.get("peak_bytes", 1))
    n_images = min(N_IMAGES_A_BATCH_SIZE, max(2 * usual, LARGEST_ALWAYS))  # large ones take long
    for size in (one for one in BATCH_SIZES if one <= max(most, 1)):
        n = min(max(size, n_images // size * size), len(reference.images))
        try:
            logits = classifier.logits(reference.images[:n], batch_size=size)
        except EdgeError as error:
            yield Check(f"batch {size}", False, error.found)
            continue
        if size == 1:
            alone[:n] = logits
        apart, drift = (largest_error(logits, known[:n]) for known in (reference.logits, alone))
        detail = f"{n} images, max {apart:.2g}, row invariance {drift:.2g}"
        yield _within(f"batch {size}", detail, max(apart, drift), reference)


def compare_all(classifier: Classifier, reference: Reference) -> Proof:
    """Compare all of the reference's images; a run that fails is a failed check."""
    try:
        logits = classifier.logits(reference.images)
    except EdgeError as error:
        return prove_nothing([Check(LOGITS_CHECK, False, error.found)], reference)
    comparison = compare(logits, reference)
    return Proof(check_parity(comparison, reference), logits, comparison)


def prove_nothing(checks: Iterable[Check], reference: Reference) -> Proof:
    """Return what is known of a file that could not run: checks that say why, and no logits."""
    nothing = np.full(reference.logits.shape, np.nan)
    return Proof(tuple(checks), nothing, compare(nothing, reference))


def _histogram(errors: Array) -> Histogram:
    lowest, highest = (np.log10(max(float(e), 1e-12)) for e in (errors.min(), errors.max()))
    first, last = np.floor(10 * lowest), np.floor(10 * highest) + 1
    edges = 10 ** (np.arange(first, last + 1) / 10)
    counts, _ = np.histogram(np.clip(errors, edges[0], edges[-1]), edges)
    return Histogram(tuple(float(f"{edge:.4g}") for edge in edges), tuple(counts.tolist()))
