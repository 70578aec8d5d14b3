"""Prove a model file on this machine and provider; or against a checkpoint, or another model.

Needs only numpy and onnxruntime unless a checkpoint is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from ..sealing.parity import Comparison
from . import difference
from .options import VerifyOptions

REPORT_SCHEMA = "convnet-edge/verify/2"


@dataclass(frozen=True)
class Against:
    """What the file was compared with. verdict and where: of another model (`Difference`)."""

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

    schema: str
    passed: bool
    model: str
    model_sha256: str
    provider: str
    precision: str
    against: Against | None
    comparison: Comparison | None
    checks: tuple[Check, ...]
    machine: dict[str, Any]


@dataclass(frozen=True)
class VerifyResult:
    """The report, and where it and its model are."""

    model_path: Path
    report_path: Path
    report: VerifyReport

    def lines(self) -> tuple[str, ...]:
        """Return what people read of it."""
        report, found = self.report, []
        if report.comparison:
            found = [*(report.against.where if report.against else ()), report.comparison.summary()]
            if report.comparison.flips:
                found.append(f"Label flips: images {list(report.comparison.flips)}")
        return (
            f"Verified {self.model_path} on {report.provider}, {report.precision}:",
            *(check.line() for check in report.checks),
            *found,
            "PASS" if report.passed else "FAIL",
        )


def verify(options: VerifyOptions, step: Callable[[str], None] = lambda _: None) -> VerifyResult:
    """Run every check, write the report, and return both; `passed` is the caller's to act on.

    Raises:
        InputError: the model, the provider or the checkpoint cannot be opened.
    """
    path = choose_model(options.model)
    file = open_model(path)
    checks = selftest.check_digests(file)
    comparison, against = None, None
    if all(check.passed for check in checks):  # an altered file is not opened
        step(f"opening the model on {options.provider}")
        classifier = Classifier(file, provider=options.provider)
        step("replaying the golden vectors")
        checks += selftest.check_opened(classifier)
        if options.against is not None:
            step(f"comparing with {options.against}")
            compare = (
                _compare_with_checkpoint
                if options.against.suffix == ".safetensors"
                else _compare_with_model
            )
            compared, comparison, against = compare(classifier, options.against)
            checks += compared
    report = VerifyReport(
        schema=REPORT_SCHEMA,
        passed=all(check.passed or check.skipped for check in checks),
        model=path.name,
        model_sha256=file.sha256,
        provider=options.provider,
        precision="float32",
        against=against,
        comparison=comparison,
        checks=checks,
        machine=machine.passport(),
    )
    report_path = options.out or EXPORTED_DIR / f"{path.stem}.verify.json"
    write_json(report_path, as_json(report))
    return VerifyResult(path, report_path, report)


Compared = tuple[tuple[Check, ...], Comparison, Against]


def _compare_with_model(classifier: Classifier, other_path: Path) -> Compared:
    other = Classifier(open_model(other_path), provider=classifier.session.provider)
    found = difference.compare_models(classifier, other, data.load_test_set().images)
    against = Against(str(other_path), other.file.sha256, found.verdict, found.where)
    return (found.check,), found.comparison, against


def _compare_with_checkpoint(classifier: Classifier, checkpoint_path: Path) -> Compared:
    from ..networks import checkpoint  # torch: only this path needs it
    from ..networks.convnet import reference_logits

    model, trained = checkpoint.load_model(checkpoint_path)
    if trained.image_shape[1:] != classifier.contract.image_shape:
        raise InputError(
            f"{checkpoint_path} is for images of {trained.image_shape}",
            expected=f"the model's {classifier.contract.image_shape}",
            next_step="name the checkpoint that the model was exported from",
        )
    images = data.load_test_set().images
    reference = parity.from_pytorch(images, reference_logits(model, images))
    proof = parity.compare_all(classifier, reference)
    return proof.checks, proof.comparison, Against(str(checkpoint_path))
