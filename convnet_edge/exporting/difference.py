"""Compare two opened model files: the logits that they give, and the parts that are not the same."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.measure.result import Check
from ..runtime.model_file import ModelFile
from ..sealing import parity
from ..sealing.parity import TOLERANCE_FACTOR, Comparison, Reference, list_first

Array = np.ndarray[Any, np.dtype[Any]]


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


def compare_models(mine: Classifier, other: Classifier, images: Array) -> Difference:
    """Compare a model with another one on `images` (N, H, W) uint8; the first one's tolerance.

    Raises:
        InputError: a run fails, or the models do not take the same images.
    """
    shapes = [side.contract.image_shape for side in (mine, other)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"the models take images of {shapes[0]} and {shapes[1]}",
            expected="two models for the same images",
            next_step="name another model with --against",
        )
    logits, known = (side.logits(images) for side in (mine, other))
    tolerance = mine.contract.goldens.tolerance
    reference = Reference(images, known.astype(np.float64), tolerance / TOLERANCE_FACTOR)
    found = parity.compare(logits, reference)
    if logits.tobytes() == known.tobytes():
        verdict = "bit-equal"
    elif found.max_error <= tolerance and not found.flips_outside_near_ties:
        verdict = "within tolerance"
    else:
        verdict = "different"
    detail = (
        f"{verdict}: {len(images):,} images, max {found.max_error:.2g}, tolerance "
        f"{tolerance:.2g}, {len(found.flips)} labels differ"
    )
    if verdict == "different":
        errors = parity.image_errors(logits, reference)
        detail += f"; most in images {np.argsort(-errors, kind='stable')[:3].tolist()}"
    check = Check("logits against the other model", verdict != "different", detail,
                  found.max_error, tolerance)  # fmt: skip
    return Difference(verdict, _differing_parts(mine.file, other.file), found, check)


def _differing_parts(mine: ModelFile, other: ModelFile) -> tuple[str, ...]:
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
            found.append(f"{what}: {len(names)} ({list_first(names)})")
    return tuple(found)
