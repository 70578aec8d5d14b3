"""Prove on this machine that a model file is whole and computes what was proved at export.

The digests prove the file, the golden vectors prove machine and provider, the sample pictures
prove the preprocessing. Comparing with PyTorch itself is the host's business (parity).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import contract, preprocess
from .classifier import Classifier
from .errors import CheckFailedError, InputError
from .session import TOLERANCE_FACTORS

Array = np.ndarray[Any, np.dtype[Any]]

PIXEL_TOLERANCE = 2


@dataclass(frozen=True)
class Check:
    """One check's outcome. value, limit: what was measured and allowed, None where neither fits.

    skipped: could not be run here, for the reason in `detail`; it then neither passes nor fails.
    """

    name: str
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None
    skipped: bool = False

    def line(self) -> str:
        """Return the check as people read it: `[✓] name: detail`."""
        mark = "-" if self.skipped else "✓" if self.passed else "x"
        return f"[{mark}] {self.name}: {self.detail}"


def run_selftest(model: bytes, classifier: Classifier) -> tuple[Check, ...]:
    """Run every check that a device can: digests, golden vectors, sample pictures."""
    return (*check_digests(model, classifier.contract), *check_opened(classifier))


def check_opened(classifier: Classifier) -> tuple[Check, ...]:
    """Run the checks of a file that is open: golden vectors and sample pictures."""
    return (*check_goldens(classifier), check_pictures(classifier.contract))


def require(checks: Iterable[Check], *, what: str, next_step: str, listed: bool = False) -> None:
    """Raise if any check failed; `listed`: with a line for each, where nobody has printed them.

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
            details=tuple(check.line() for check in failed) if listed else (),
        )


def as_json(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """Return the checks as plain JSON values; a NaN or infinity stands in `detail` alone."""
    rows = [asdict(check) for check in checks]
    for row in rows:
        if row["value"] is not None and not np.isfinite(row["value"]):
            row["value"] = None
    return rows


def check_digests(model: bytes, stated: contract.Contract) -> tuple[Check, Check]:
    """Compare both SHA-256 digests with those that the file states."""
    computed = contract.compute_digests(model, stated)
    pairs = (
        ("graph digest", computed.graph_sha256, stated.graph_sha256),
        ("contract digest", computed.contract_sha256, stated.contract_sha256),
    )
    graph, document = (
        Check(
            name,
            found == expected,
            f"sha256 {found[:16]}… as stated"
            if found == expected
            else f"sha256 is {found[:16]}…, the file states {expected[:16]}…",
        )
        for name, found, expected in pairs
    )
    return graph, document


def check_goldens(classifier: Classifier) -> tuple[Check, ...]:
    """Compare the logits of the golden images, alone and as one batch, with the stored ones.

    In reduced precision the labels decide: each must be the reference's, unless its margin is
    below twice the tolerance of that precision.
    """
    goldens, precision = classifier.contract.goldens, classifier.session.precision
    limit = goldens.tolerance * TOLERANCE_FACTORS[precision]
    reduced = "" if precision == "float32" else f", reduced precision ({precision})"
    checks = []
    for batch_size in (1, len(goldens.images)):
        name = f"golden vectors, batch {batch_size}"
        try:
            logits = classifier.logits(goldens.images, batch_size=batch_size)
        except InputError as refusal:
            checks.append(Check(name, False, refusal.found))
            continue
        error = largest_error(logits, goldens.logits)
        flips = find_flips(logits, goldens.logits, limit) if reduced else []
        passed = error <= limit and not flips
        detail = (
            f"{len(logits)} images, largest error {error:.2g} "
            f"{'<=' if error <= limit else 'is not <='} {limit:.2g}{reduced}"
        )
        detail += f", labels differ: test images {goldens.indices[flips].tolist()}" if flips else ""
        checks.append(Check(name, passed, detail, error, limit))
    return tuple(checks)


def check_pictures(stated: contract.Contract) -> Check:
    """Preprocess the sample pictures and compare their pixels with the expected ones."""
    name = "preprocessing samples"
    worst = 0
    for sample in stated.samples:
        try:
            pixels = preprocess.decode_picture(sample.encoded, stated.image_shape, name=sample.name)
        except InputError as error:
            return Check(name, False, error.found, skipped="not installed" in error.found)
        worst = max(worst, int(np.abs(pixels.astype(int) - sample.pixels).max()))
    return Check(
        name,
        worst <= PIXEL_TOLERANCE,
        f"{len(stated.samples)} pictures, largest difference {worst} of 255",
        float(worst),
        float(PIXEL_TOLERANCE),
    )


def find_flips(logits: Array, reference: Array, tolerance: float) -> list[int]:
    """Return the rows whose likeliest class differs though the margin is at least 2 x tolerance."""
    top_two = np.sort(reference, axis=1)[:, -2:]
    clear = top_two[:, 1] - top_two[:, 0] >= 2 * tolerance
    flipped = logits.argmax(axis=1) != reference.argmax(axis=1)
    return [int(i) for i in np.where(flipped & clear)[0]]


def largest_error(logits: Array, reference: Array) -> float:
    """Return max |logits - reference|, or infinity where any logit is not finite."""
    if not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits.astype(np.float64) - reference).max(initial=0.0))
