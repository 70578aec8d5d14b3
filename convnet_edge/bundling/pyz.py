"""Put models, the runtime that proves them and its manifest into one file for a device.

How its bytes are laid out is `runtime.archive`'s business, what it does there `runtime.__main__`'s.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.fashion_mnist import load_test_set
from ..runtime import archive
from ..runtime.classifier import Classifier
from ..runtime.files import MIB, read_bytes, write_atomically

PACKAGE_DIR = Path(__file__).resolve().parents[1]
REINSTALL = "pip install --force-reinstall convnet-edge"  # where our own files are missing


def write(
    out: Path, models: Mapping[str, Classifier], about: dict[str, Any], *, with_test_set: bool
) -> dict[str, Any]:
    """Write NAME.pyz; return what there is to say of it. about: the models, for its manifest."""
    manifest = {"schema": archive.SCHEMA, **about, "test_set": with_test_set}
    paths = [PACKAGE_DIR / "__init__.py", *(PACKAGE_DIR / "runtime").rglob("*.py")]
    own = {path.relative_to(PACKAGE_DIR.parent).as_posix(): path for path in paths}
    own["__main__.py"] = Path(__file__).with_name("start.py")
    members = {name: read_bytes(own[name], limit=MIB, next_step=REINSTALL) for name in own}
    members |= {archive.MODELS + name: model.file.data for name, model in models.items()}
    if with_test_set:
        members[archive.TEST_SET] = archive.encode_test_set(load_test_set())
    members[archive.MANIFEST] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    packed = archive.pack(members)
    write_atomically(out, packed)
    out.chmod(0o755)
    return {
        "path": str(out),
        "bundle_bytes": len(packed),
        "bundle_sha256": hashlib.sha256(packed).hexdigest(),
        "manifest": manifest,
    }
