"""Prove a model file on this machine and provider; or against a checkpoint, or another model.

Needs only numpy and onnxruntime unless a checkpoint is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import fashion_mnist as data
from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.contract import read_contract
from ..runtime.errors import InputError
from ..runtime.files import write_json
from ..runtime.measure import machine
from ..runtime.model_file import read_model_bytes
from ..runtime.selftest import Check
from ..runtime.session import Settings
from ..sealing import parity
from ..sealing.default_model import EXPORTED_DIR, choose_model
from .options import VerifyOptions

REPORT_SCHEMA = "convnet-edge/verify/2"


@dataclass(frozen=True)
class VerifyResult:
    """What was proved. precision: "float32", or "tf32 (reduced)".

    comparison: on all test images, None unless something to compare with was named.
    """

    model_path: Path
    report_path: Path
    provider: str
    precision: str
    checks: tuple[Check, ...]
    comparison: parity.Comparison | None
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every check that could run here held."""
        return all(check.passed or check.skipped for check in self.checks)


def verify(config: VerifyOptions, step: Callable[[str], None] = lambda _: None) -> VerifyResult:
    """Run every check, write the report, and return both; `passed` is the caller's to act on.

    Raises:
        InputError: the model, the provider or the checkpoint cannot be opened.
    """
    path = choose_model(config.model)
    model = read_model_bytes(path)
    precision = "tf32 (reduced)" if config.tf32 else "float32"
    checks: list[Check] = list(selftest.check_digests(model, read_contract(model)))
    proof = Proof()
    if all(check.passed for check in checks):  # an altered file is not opened
        proof = _prove(config, model, step)
        checks += proof.checks
    report_path = config.out or EXPORTED_DIR / f"{path.stem}.verify.json"
    report: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "passed": all(check.passed or check.skipped for check in checks),
        "model": path.name,
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "provider": config.provider,
        "precision": precision,
        "against": proof.against,
        "comparison": proof.comparison.as_json() if proof.comparison else None,
        "checks": selftest.as_json(checks),
        "machine": machine.passport(),
    }
    write_json(report_path, report)
    return VerifyResult(
        path, report_path, config.provider, precision, tuple(checks), proof.comparison, report
    )


@dataclass(frozen=True)
class Proof:
    """What running the file showed. against: what it was compared with, as the report says it."""

    checks: tuple[Check, ...] = ()
    comparison: parity.Comparison | None = None
    against: dict[str, Any] | None = None


def _prove(config: VerifyOptions, model: bytes, step: Callable[[str], None]) -> Proof:
    step(f"opening the model on {config.provider}")
    classifier = Classifier(model, provider=config.provider, settings=Settings(tf32=config.tf32))
    step("replaying the golden vectors")
    checks = selftest.check_opened(classifier)
    if config.against is None:
        return Proof(checks)
    step(f"comparing with {config.against}")
    against: dict[str, Any] = {"path": str(config.against)}
    if config.against.suffix == ".safetensors":
        comparison, compared = _compare_with_checkpoint(classifier, config.against)
        return Proof((*checks, *compared), comparison, against)
    other = read_model_bytes(config.against)
    difference = _compare_with_model(model, classifier, other)
    against |= {
        "model_sha256": hashlib.sha256(other).hexdigest(),
        "verdict": difference.verdict,
        "where": list(difference.where),
    }
    return Proof((*checks, difference.check), difference.comparison, against)


def _compare_with_model(model: bytes, classifier: Classifier, other: bytes) -> parity.Difference:
    second = Classifier(other, provider=classifier.session.provider)
    shapes = [side.contract.image_shape for side in (classifier, second)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"the models take images of {shapes[0]} and {shapes[1]}",
            expected="two models for the same images",
            next_step="name another model with --against",
        )
    images = data.load_test_set().images
    return parity.compare_models((model, other), (classifier, second), images)


def _compare_with_checkpoint(
    classifier: Classifier, checkpoint_path: Path
) -> tuple[parity.Comparison, list[Check]]:
    from ..networks import checkpoint  # torch: only this path needs it
    from ..networks.convnet import reference_logits

    model, trained = checkpoint.load_model(checkpoint_path)
    test = data.load_test_set()
    if trained.image_shape[1:] != classifier.contract.image_shape:
        raise InputError(
            f"{checkpoint_path} is for images of {trained.image_shape}",
            expected=f"the model's {classifier.contract.image_shape}",
            next_step="name the checkpoint that the model was exported from",
        )
    return parity.compare_all(classifier, reference_logits(model, test.images))
