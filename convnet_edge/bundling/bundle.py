"""Hand models over: prove them here, then write them as one file, a page, or ONNX's test data.

What each of these is made of is the business of pyz, site and testdata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.measure.result import Check
from ..sealing.default_model import choose_model
from . import pyz, site, testdata
from .options import BundleOptions


@dataclass(frozen=True)
class Bundle:
    """What was written. checks: of each model, by name, on this machine's CPU.

    document: where, how large, with which digest, as plain JSON values.
    """

    path: Path
    checks: dict[str, tuple[Check, ...]]
    document: dict[str, Any]


def bundle(options: BundleOptions) -> Bundle:
    """Write what `options.target` asks for, byte for byte the same each time.

    Raises:
        InputError: a model is unreadable, altered, or does not fit the others; onnxruntime-web is
            missing or of another version; the place holds something else or cannot be written.
        CheckFailedError: a model does not pass its self-test here.
    """
    paths = [choose_model(path) for path in options.models or (None,)]
    models = {path.name: Classifier(path) for path in paths}
    _require_fit(paths, models)
    checks = {path.name: _prove(path, models[path.name]) for path in paths}
    if options.target == "testdata":
        (model,) = models.values()
        out = options.out or Path(f"{paths[0].stem}-testdata")
        return Bundle(out, checks, testdata.write(out, model))
    about = {
        "convnet_edge": __version__,
        "class_labels": list(models[paths[0].name].contract.class_labels),
        "models": [_about(name, model) for name, model in models.items()],
    }
    if options.target == "web":
        out = options.out or Path(f"{paths[0].stem}-web")
        return Bundle(out, checks, site.write(out, models, about, options.ort_web))
    out = options.out or Path(f"{paths[0].stem}.pyz")
    document = pyz.write(out, models, about, with_test_set=options.with_test_set)
    return Bundle(out, checks, document)


def _require_fit(paths: Sequence[Path], models: dict[str, Classifier]) -> None:
    apart = len(models) == len(paths)
    if not apart or len({model.contract.class_labels for model in models.values()}) > 1:
        names = ", ".join(path.name for path in paths)
        raise InputError(
            f"{names}: models of {'other classes' if apart else 'one name'}",
            expected="models of one task, each of its own name",
            next_step="bundle them apart" if apart else "rename one of them",
        )


def _prove(path: Path, model: Classifier) -> tuple[Check, ...]:
    checks = selftest.run_selftest(model)
    next_step = f"check it with `convnet-edge verify {path}`"
    selftest.require(checks, what=f"{path} was not bundled", next_step=next_step)
    return checks


def _about(name: str, model: Classifier) -> dict[str, Any]:
    """Return what the manifest of a bundle or page says of a model."""
    contract = model.contract
    measured, quantization = contract.document["measured"], contract.quantization
    return {
        "name": name,
        "model_bytes": len(model.file.data),
        "model_sha256": model.file.sha256,
        "input_dtype": contract.input_dtype,
        "layout": quantization["layout"] if quantization else None,
        "accuracy": measured["accuracy"],
        "n_test_images": measured["n"],
        "n_goldens": len(contract.goldens.images),
        "sample_pictures": [sample.name for sample in contract.samples],
    }
