"""Prove a model file on this machine and provider; with a checkpoint, against PyTorch itself.

Needs only numpy and onnxruntime unless a checkpoint is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import data, parity
from .config import EXPORTED_DIR, VerifyConfig
from .locate import choose_model
from .runtime import machine, selftest
from .runtime.classifier import Classifier
from .runtime.errors import InputError
from .runtime.files import write_json
from .runtime.onnxfile import read_model_bytes
from .runtime.selftest import Check

REPORT_SCHEMA = "convnet-edge/verify/1"


@dataclass(frozen=True)
class VerifyResult:
    """What was proved. comparison: with all test images, None unless a checkpoint was named."""

    model_path: Path
    report_path: Path
    provider: str
    checks: tuple[Check, ...]
    comparison: parity.Comparison | None
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every check that could run here held."""
        return all(check.passed or check.skipped for check in self.checks)


def verify(config: VerifyConfig, step: Callable[[str], None] = lambda _: None) -> VerifyResult:
    """Run every check, write the report, and return both; `passed` is the caller's to act on.

    Raises:
        InputError: the model, the provider or the checkpoint cannot be opened.
    """
    path = choose_model(config.model)
    model = read_model_bytes(path)
    step(f"opening {path} on {config.provider}")
    classifier = Classifier(model, provider=config.provider)
    step("replaying the golden vectors")
    checks = list(selftest.run_selftest(model, classifier))
    comparison = None
    if config.against is not None:
        step(f"computing float64 reference logits of {config.against}")
        comparison, compared = _compare_with_checkpoint(classifier, config.against)
        checks += compared
    report_path = config.out or EXPORTED_DIR / f"{path.stem}.verify.json"
    report: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "passed": all(check.passed or check.skipped for check in checks),
        "model": path.name,
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "provider": config.provider,
        "against": str(config.against) if config.against else None,
        "comparison": comparison.as_json() if comparison else None,
        "checks": selftest.as_json(checks),
        "machine": machine.passport(),
    }
    write_json(report_path, report)
    return VerifyResult(path, report_path, config.provider, tuple(checks), comparison, report)


def _compare_with_checkpoint(
    classifier: Classifier, checkpoint_path: Path
) -> tuple[parity.Comparison, list[Check]]:
    from . import checkpoint  # torch: only this path needs it
    from .model import reference_logits

    model, trained = checkpoint.load_model(checkpoint_path)
    test = data.load_test_set()
    if trained.image_shape[1:] != classifier.contract.image_shape:
        raise InputError(
            f"{checkpoint_path} is for images of {trained.image_shape}",
            expected=f"the model's {classifier.contract.image_shape}",
            next_step="name the checkpoint that the model was exported from",
        )
    return parity.compare_all(classifier, reference_logits(model, test.images))
