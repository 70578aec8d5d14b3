"""Prove on this machine that a model file is whole and computes what was proved at export.

The digest proves the file, the golden vectors prove machine and provider, the sample pictures
prove the preprocessing. Comparing with PyTorch itself is the host's business (parity).
"""

from collections.abc import Iterable, Iterator

import numpy as np

from .classifier import Classifier
from .contract import Array, Contract
from .errors import CheckFailedError, InputError, MissingPackageError
from .measure.check import Check
from .pictures import preprocess

PIXEL_TOLERANCE = 2
TOLERANCE_FACTOR = 8  # times the noise that an honest computation shows
MAX_SAMPLE_PIXELS = 1_000_000  # the exporter draws a few thousand


def run_selftest(classifier: Classifier) -> tuple[Check, ...]:
    """Run every check that a device can: digest, golden vectors, sample pictures."""
    digest, goldens = classifier.file.digest, _check_goldens(classifier)
    return (digest, *goldens, check_pictures(classifier.contract))


def require(checks: Iterable[Check], *, what: str, next_step: str, listed: bool = False) -> None:
    """Raise if any check failed; `listed`: where nobody has printed them, each of several.

    Raises:
        CheckFailedError: naming the first failure and how many there are.
    """
    failed = [check for check in checks if not check.passed and not check.skipped]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise CheckFailedError(
            f"{what}: {failed[0].name}: {failed[0].detail}{more}",
            expected="every check to hold",
            next_step=next_step,
            details=tuple(check.line() for check in failed) if listed and len(failed) > 1 else (),
        )


def _check_goldens(classifier: Classifier) -> Iterator[Check]:
    """Compare the logits of the golden images, alone and as one batch, with the stored ones."""
    goldens, limit = classifier.contract.goldens, classifier.tolerance
    together = 1 if classifier.file.takes_one else len(goldens.images)
    for batch_size in dict.fromkeys((1, together)):
        name = f"golden vectors, batch {batch_size}"
        try:
            logits = classifier.logits(goldens.images, batch_size=batch_size)
        except InputError as refusal:
            yield Check(name, False, refusal.found)
            continue
        error = largest_error(logits, goldens.logits)
        compared = "<=" if error <= limit else "is not <="
        detail = f"{len(logits)} images, largest error {error:.2g} {compared} {limit:.2g}"
        yield Check(name, error <= limit, detail, error, limit)


def check_pictures(stated: Contract) -> Check:
    """Preprocess the sample pictures and compare their pixels with the expected ones."""
    name, worst = "preprocessing samples", 0
    if stated.proof == "unproved":
        return Check(name, False, "an unproved file holds none", skipped=True)
    for sample in stated.samples:
        try:
            pixels = preprocess.decode_picture(
                sample.encoded, stated.preprocessing, name=sample.name, max_pixels=MAX_SAMPLE_PIXELS
            ).pixels
        except InputError as error:
            skipped = isinstance(error, MissingPackageError)
            return Check(name, False, error.found, skipped=skipped)
        worst = max(worst, int(np.abs(pixels.astype(int) - sample.pixels).max()))
    detail = f"{len(stated.samples)} pictures, largest difference {worst} of 255"
    return Check(name, worst <= PIXEL_TOLERANCE, detail, float(worst), float(PIXEL_TOLERANCE))


def errors_of(logits: Array, reference: Array) -> Array:
    """Return |logits - reference|, of any shape; infinity where one is not finite."""
    with np.errstate(invalid="ignore"):  # of two infinities
        errors = np.abs(logits.astype(np.float64) - reference)
    return np.where(np.isfinite(errors), errors, np.inf)


def largest_error(logits: Array, reference: Array) -> float:
    """Return the largest of `errors_of`."""
    return float(errors_of(logits, reference).max(initial=0.0))
