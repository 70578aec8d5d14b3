"""Put models, the runtime that proves them and its manifest into one file for a device.

How its bytes are laid out is `runtime.archive`'s business, what it does there `runtime.__main__`'s.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.fashion_mnist import load_test_set
from ..runtime import archive
from ..runtime.files import MIB, read_bytes, write_atomically
from ..runtime.measure.result import Check
from .options import BundleOptions
from .prove import REINSTALL, describe, prove

PACKAGE_DIR = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bundle:
    """What was written. checks: of each model, by name, on this machine's CPU."""

    path: Path
    n_bytes: int
    sha256: str
    checks: dict[str, tuple[Check, ...]]
    manifest: dict[str, Any]


def bundle(options: BundleOptions) -> Bundle:
    """Write NAME.pyz, byte for byte the same each time.

    Raises:
        InputError: a model is unreadable, or does not fit the others, or nothing can be written.
        CheckFailedError: a model does not pass its self-test here.
    """
    models = prove(options.models)
    out = options.out or Path(models[0].name).with_suffix(".pyz")
    manifest = {
        "schema": archive.SCHEMA,
        "convnet_edge": __version__,
        **describe(models),
        "test_set": options.with_test_set,
    }
    members = _runtime() | {
        archive.MODELS + model.name: model.classifier.file.data for model in models
    }
    if options.with_test_set:
        members[archive.TEST_SET] = archive.encode_test_set(load_test_set())
    members[archive.MANIFEST] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    packed = archive.pack(members)
    write_atomically(out, packed)
    out.chmod(0o755)
    checks = {model.name: model.checks for model in models}
    return Bundle(out, len(packed), hashlib.sha256(packed).hexdigest(), checks, manifest)


def _runtime() -> dict[str, bytes]:
    """Return the runtime's own files, verbatim, and what starts them."""
    paths = [PACKAGE_DIR / "__init__.py", *(PACKAGE_DIR / "runtime").rglob("*.py")]
    files = {path.relative_to(PACKAGE_DIR.parent).as_posix(): path for path in paths}
    files["__main__.py"] = Path(__file__).with_name("start.py")
    return {name: read_bytes(path, limit=MIB, next_step=REINSTALL) for name, path in files.items()}
