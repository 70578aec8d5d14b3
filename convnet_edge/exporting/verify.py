"""Prove a model file on this machine and provider; or against a checkpoint, or another model.

Needs only numpy and onnxruntime unless a checkpoint is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..data import fashion_mnist as data
from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.files import write_json
from ..runtime.measure import machine
from ..runtime.measure.result import Check, as_json
from ..runtime.model_file import ModelFile, open_model
from ..sealing import parity
from ..sealing.default_model import EXPORTED_DIR, choose_model
from ..sealing.parity import TOLERANCE_FACTOR, Comparison, Reference, list_first
from .options import VerifyOptions

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Against:
    """What the file was compared with.

    verdict: "bit-equal", "within tolerance" or "different", of another model's logits. where: the
    parts of the files that are not the same, in words; empty for equal graphs.
    """

    path: str
    model_sha256: str | None = None
    verdict: str | None = None
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifyReport:
    """What was proved here, as `NAME.verify.json` holds it.

    passed: whether every check that could run here held. comparison: on all test images, None
    unless something to compare with was named.
    """

    passed: bool
    model: str
    model_sha256: str
    provider: str
    against: Against | None
    comparison: parity.Comparison | None
    checks: tuple[Check, ...]
    precision: str = "float32"
    schema: str = "convnet-edge/verify/2"
    machine: dict[str, Any] = field(default_factory=machine.passport)


@dataclass(frozen=True)
class VerifyResult:
    """The report, and where it and its model are."""

    model_path: Path
    report_path: Path
    report: VerifyReport


def verify(options: VerifyOptions, step: Callable[[str], None] = lambda _: None) -> VerifyResult:
    """Run every check, write the report, and return both; `passed` is the caller's to act on.

    Raises:
        InputError: the model, the provider or the checkpoint cannot be opened.
    """
    path = choose_model(options.model)
    file = open_model(path)
    checks: tuple[Check, ...] = selftest.check_digests(file)
    compared = Compared()
    if all(check.passed for check in checks):  # an altered file is not opened
        step(f"opening the model on {options.provider}")
        classifier = Classifier(file, provider=options.provider)
        step("replaying the golden vectors")
        checks = selftest.run_selftest(classifier)
        if options.against is not None:
            step(f"comparing with {options.against}")
            compared = _compare(classifier, options.against)
    checks += compared.checks
    report = VerifyReport(
        passed=all(check.passed or check.skipped for check in checks),
        model=path.name,
        model_sha256=file.sha256,
        provider=options.provider,
        against=compared.against,
        comparison=compared.comparison,
        checks=checks,
    )
    report_path = options.out or EXPORTED_DIR / f"{path.stem}.verify.json"
    write_json(report_path, as_json(report))
    return VerifyResult(path, report_path, report)


@dataclass(frozen=True)
class Compared:
    """What comparing with something else showed, if anything was named."""

    checks: tuple[Check, ...] = ()
    comparison: Comparison | None = None
    against: Against | None = None


def _compare(classifier: Classifier, path: Path) -> Compared:
    images = data.load_test_set().images
    if path.suffix != ".safetensors":
        return compare_models(classifier, path, images)
    from ..networks import checkpoint  # torch: only this path needs it
    from ..networks.convnet import reference_logits

    model, _ = checkpoint.load_model(path)
    _require_same_images(path, model.architecture.image_shape[1:], classifier)
    reference = parity.from_pytorch(images, reference_logits(model, images))
    proof = parity.compare_all(classifier, reference)
    return Compared(proof.checks, proof.comparison, Against(str(path)))


def _require_same_images(path: Path, found: tuple[int, ...], classifier: Classifier) -> None:
    if found != (expected := classifier.contract.image_shape):
        raise InputError(
            f"{path} is for images of {found}",
            expected=f"the model's {expected}",
            next_step="name a model or checkpoint for the same images with --against",
        )


def compare_models(mine: Classifier, path: Path, images: Array) -> Compared:
    """Compare a model with that at `path` on `images` (N, H, W) uint8; the first one's tolerance.

    Raises:
        InputError: the other cannot be opened, a run fails, or they do not take the same images.
    """
    other = Classifier(path, provider=mine.session.provider)
    _require_same_images(path, other.contract.image_shape, mine)
    logits, known = (side.logits(images) for side in (mine, other))
    reference = Reference(images, known.astype(np.float64), mine.tolerance / TOLERANCE_FACTOR)
    found = parity.compare(logits, reference)
    verdict = "different"
    if logits.tobytes() == known.tobytes():
        verdict = "bit-equal"
    elif all(check.passed for check in parity.check_parity(found, reference)):
        verdict = "within tolerance"
    detail = (
        f"{verdict}: {len(images):,} images, max {found.max_error:.2g}, tolerance "
        f"{mine.tolerance:.2g}, {len(found.flips)} labels differ"
    )
    if verdict == "different":
        worst = np.argsort(-parity.image_errors(logits, reference), kind="stable")[:3]
        detail += f"; most in images {worst.tolist()}"
    check = Check("logits against the other model", verdict != "different", detail,
                  found.max_error, mine.tolerance)  # fmt: skip
    where = _differing_parts(mine.file, other.file)
    return Compared((check,), found, Against(str(path), other.file.sha256, verdict, where))


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
    here, there = ({w.name: w.content for w in file.weights} for file in (mine, other))
    for what, names in (
        (
            "weights that differ",
            [name for name in here.keys() & there if here[name] != there[name]],
        ),
        ("weights in one of them alone", here.keys() ^ there),
    ):
        if names:
            found.append(f"{what}: {len(names)} ({list_first(sorted(names))})")
    return tuple(found)
