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
    stated = classifier.contract
    return (
        *check_digests(model, stated),
        *check_goldens(classifier),
        check_pictures(stated),
    )


def require(checks: Iterable[Check], *, what: str, next_step: str) -> None:
    """Raise if any check failed.

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
    """Compare the logits of the golden images, alone and as one batch, with the stored ones."""
    goldens = classifier.contract.goldens
    checks = []
    for batch_size in (1, len(goldens.images)):
        name = f"golden vectors, batch {batch_size}"
        try:
            logits = classifier.logits(goldens.images, batch_size=batch_size)
        except InputError as refusal:
            checks.append(Check(name, False, refusal.found))
            continue
        error = largest_error(logits, goldens.logits)
        passed = error <= goldens.tolerance
        detail = (
            f"{len(logits)} images, largest error {error:.2g} "
            f"{'<=' if passed else 'is not <='} {goldens.tolerance:.2g}"
        )
        checks.append(Check(name, passed, detail, error, goldens.tolerance))
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


def largest_error(logits: Array, reference: Array) -> float:
    """Return max |logits - reference|, or infinity where any logit is not finite."""
    if not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits.astype(np.float64) - reference).max(initial=0.0))
