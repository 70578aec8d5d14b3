"""Prove the models that are handed over: what fails its self-test here goes nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.measure.result import Check
from ..sealing.default_model import choose_model

REINSTALL = "pip install --force-reinstall convnet-edge"  # where our own files are missing


@dataclass(frozen=True)
class Proved:
    """A model that passed its self-test on this machine's CPU. name: of its file."""

    name: str
    classifier: Classifier
    checks: tuple[Check, ...]


def prove(paths: Sequence[Path]) -> tuple[Proved, ...]:
    """Open the models at `paths`, without any the default one, and run their self-tests.

    Raises:
        InputError: a model is unreadable or altered, or does not fit the others.
        CheckFailedError: a model does not pass its self-test here.
    """
    models = tuple(_prove(choose_model(path)) for path in paths or (None,))
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise InputError(
            f"models of one name among {', '.join(names)}",
            expected="models of different names",
            next_step="rename one of them",
        )
    if len({model.classifier.contract.class_labels for model in models}) > 1:
        raise InputError(
            f"{' and '.join(names)} have other classes",
            expected="models of one task",
            next_step="bundle them apart",
        )
    return models


def describe(models: Sequence[Proved]) -> dict[str, Any]:
    """Return what the manifest of a bundle or page says of its models."""
    return {
        "class_labels": list(models[0].classifier.contract.class_labels),
        "models": [_entry(model) for model in models],
    }


def _prove(path: Path) -> Proved:
    classifier = Classifier(path)
    checks = selftest.run_selftest(classifier)
    selftest.require(
        checks,
        what=f"{path} was not bundled",
        next_step=f"check it with `convnet-edge verify {path}`",
    )
    return Proved(path.name, classifier, checks)


def _entry(model: Proved) -> dict[str, Any]:
    file, contract = model.classifier.file, model.classifier.contract
    measured, quantization = contract.document["measured"], contract.quantization
    return {
        "name": model.name,
        "model_bytes": len(file.data),
        "model_sha256": file.sha256,
        "input_dtype": contract.input_dtype,
        "layout": quantization["layout"] if quantization else None,
        "accuracy": measured["accuracy"],
        "n_test_images": measured["n"],
        "n_goldens": len(contract.goldens.images),
        "sample_pictures": [sample.name for sample in contract.samples],
    }
