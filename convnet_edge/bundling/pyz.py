"""Put models, the runtime that proves them and its manifest into one file for a device.

What the file does there is `runtime.device`'s business.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..data import fashion_mnist as data
from ..runtime import archive, selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes, write_atomically
from ..runtime.idx import SAMPLE_DIR
from ..runtime.measure import tuning
from ..runtime.model_file import read_model_bytes
from ..sealing.default_model import choose_model
from .options import BundleOptions
from .site import Site, write_site
from .testdata import write_testdata

RUNTIME_DIR = Path(__file__).resolve().parents[1] / "runtime"
REINSTALL = "pip install --force-reinstall convnet-edge"


@dataclass(frozen=True)
class BundleResult:
    """What was written. checks: of each model, by name, on this machine's CPU."""

    path: Path
    n_bytes: int
    sha256: str
    checks: dict[str, tuple[selftest.Check, ...]]
    manifest: dict[str, Any]


def bundle(config: BundleOptions) -> BundleResult:
    """Write the bundle of `config`, byte for byte the same each time.

    Raises:
        InputError: a model is unreadable, or does not fit the others.
        CheckFailedError: a model does not pass its self-test here.
    """
    paths, models, checks, entries = _prove(config)
    out = config.out or Path(paths[0].name).with_suffix(".pyz")
    members = {archive.MODELS + name: model for name, model in models.items()}
    manifest = {
        "schema": archive.SCHEMA,
        "convnet_edge": __version__,
        "class_labels": entries[0]["class_labels"],
        "models": [{k: v for k, v in entry.items() if k != "class_labels"} for entry in entries],
        "test_set": config.with_test_set,
        "tunings": _tunings(paths),
    }
    members |= _runtime()
    if config.with_test_set:
        members |= _test_set()
    members[archive.MANIFEST] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    packed = archive.pack(members)
    write_atomically(out, packed)
    out.chmod(0o755)
    return BundleResult(out, len(packed), hashlib.sha256(packed).hexdigest(), checks, manifest)


def lay_out_testdata(config: BundleOptions) -> tuple[Path, ...]:
    """Write the model and its golden vectors as ONNX's own runners read them; return the files.

    Raises:
        InputError: the model is unreadable or altered, or the folder cannot be written.
    """
    path = choose_model(config.models[0] if config.models else None)
    out = config.out or Path(f"{path.stem}-testdata")
    return write_testdata(read_model_bytes(path), out)


def lay_out_page(config: BundleOptions) -> tuple[Site, dict[str, tuple[selftest.Check, ...]]]:
    """Write the folder of a page that runs the models in a browser; return it and the checks.

    Raises:
        InputError: as for `bundle`, or onnxruntime-web is missing, or the folder is not a page's.
        CheckFailedError: a model does not pass its self-test here.
    """
    paths, models, checks, entries = _prove(config)
    site = write_site(
        config.out or Path(f"{paths[0].stem}-web"),
        ort_web=config.ort_web,
        models=models,
        entries=entries,
        test_set=_test_set(),
    )
    return site, checks


class _Proved(NamedTuple):
    """Models that passed their self-test here, by name, with what the manifest says of them."""

    paths: list[Path]
    models: dict[str, bytes]
    checks: dict[str, tuple[selftest.Check, ...]]
    entries: list[dict[str, Any]]


def _prove(config: BundleOptions) -> _Proved:
    proved = _Proved([choose_model(model) for model in config.models or (None,)], {}, {}, [])
    for path in proved.paths:
        if path.name in proved.models:
            raise InputError(
                f"two models named {path.name}",
                expected="models of different names",
                next_step="rename one of them",
            )
        model = read_model_bytes(path)
        classifier = Classifier(model)
        proved.checks[path.name] = selftest.run_selftest(model, classifier)
        selftest.require(
            proved.checks[path.name],
            what=f"{path} was not bundled",
            next_step=f"check it with `convnet-edge verify {path}`",
        )
        proved.entries.append(_entry(path.name, model, classifier, proved.entries))
        proved.models[path.name] = model
    return proved


def _entry(
    name: str, model: bytes, classifier: Classifier, others: list[dict[str, Any]]
) -> dict[str, Any]:
    contract = classifier.contract
    labels = list(contract.class_labels)
    if others and labels != others[0]["class_labels"]:
        raise InputError(
            f"{name} has other classes than {others[0]['name']}",
            expected="models of one task",
            next_step="bundle them apart",
        )
    measured, quantization = contract.document["measured"], contract.quantization
    return {
        "name": name,
        "model_bytes": len(model),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "input_dtype": contract.input_dtype,
        "layout": quantization["layout"] if quantization else None,
        "accuracy": measured["accuracy"],
        "n_test_images": measured["n"],
        "n_goldens": len(contract.goldens.images),
        "sample_pictures": [sample.name for sample in contract.samples],
        "class_labels": labels,
    }


def _tunings(paths: list[Path]) -> dict[str, Any]:
    """Return what `bench --tune` kept beside the models; it holds for its own machine only."""
    found = {}
    for path in paths:
        kept = tuning.path_beside(path)
        if kept.exists():
            found[path.name] = json.loads(read_bytes(kept, limit=MIB, next_step=tuning.NEXT_STEP))
    return found


def _runtime() -> dict[str, bytes]:
    """Return the runtime's own files, verbatim, and what starts them."""
    files = {
        f"convnet_edge/{path.relative_to(RUNTIME_DIR.parent).as_posix()}": path
        for path in RUNTIME_DIR.rglob("*.py")
    }
    files["convnet_edge/__init__.py"] = RUNTIME_DIR.parent / "__init__.py"
    files["__main__.py"] = Path(__file__).with_name("start.py")
    return {name: read_bytes(path, limit=MIB, next_step=REINSTALL) for name, path in files.items()}


def _test_set() -> dict[str, bytes]:
    data.load_test_set()  # its hash is checked
    paths = [SAMPLE_DIR / f"{name}.gz" for name in data.TEST_FILES]
    contents = [read_bytes(path, limit=64 * MIB, next_step=REINSTALL) for path in paths]
    return dict(zip(archive.TEST_SET, contents, strict=True))
