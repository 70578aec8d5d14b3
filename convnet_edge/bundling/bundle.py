"""Hand models over: prove them here, then write them as one file, a page, or ONNX's test data.

How the file's bytes are laid out is `runtime.archive`'s business, what it does on a device that of
`runtime.__main__`; the page is `site`'s.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from .. import __version__
from ..data import dataset
from ..runtime import archive, selftest
from ..runtime.classifier import Classifier
from ..runtime.contract import Array
from ..runtime.errors import InputError
from ..runtime.files import brief, json_text, require_writable, write_atomically
from ..runtime.measure.check import Check
from ..runtime.model_file import ELEMENT_TYPES
from ..runtime.options import require
from ..runtime.protobuf import field
from ..runtime.session import Settings
from ..sealing.default_model import choose_model
from . import site
from .options import BundleOptions

MODEL = "model.onnx"  # as ONNX's test runners want it


@dataclass(frozen=True)
class Bundle:
    """What was written. checks: of each model, by name, on this machine's CPU.

    document: where, how large, with which digest, as plain JSON values. n_test_images: in it.
    """

    path: Path
    checks: dict[str, tuple[Check, ...]]
    document: dict[str, Any]
    n_test_images: int = 0

    __repr__ = brief


def bundle(options: BundleOptions) -> Bundle:
    """Write what `options.target` asks for, byte for byte the same each time.

    Example: `ce.bundle(ce.BundleOptions(["exported/convnet.onnx"], out="convnet.pyz")).path`

    Raises:
        InputError: a model is unreadable, altered, or does not fit the others; onnxruntime-web is
            missing or of another version; the place holds something else or cannot be written.
        CheckFailedError: a model does not pass its self-test here.
    """
    paths = [choose_model(path) for path in options.models or (None,)]
    suffix = ".pyz" if options.target == "pyz" else f"-{options.target}"
    out = options.out or Path(f"{paths[0].stem}{suffix}")
    if options.target != "web":  # whose folder `site` looks into
        require_writable(out if options.target == "pyz" else out / MODEL)
    settings = Settings(ceiling=options.ceiling)
    for path in paths:
        named = path.name.isprintable()  # which bytes that are no text are not, either
        require(named, f"the name {path.name!r}", "letters that every device can show", str(path),
                verb="rename")  # fmt: skip
    models = {path.name: Classifier(path, settings=settings) for path in paths}
    apart = len(models) == len(paths)
    tasks = {(one.contract.class_labels, one.contract.preprocessing) for one in models.values()}
    if not apart or len(tasks) > 1:
        raise InputError(
            f"{', '.join(models)}: models of {'other classes or images' if apart else 'one name'}",
            expected="models of one task, each of its own name",
            next_step="bundle them apart" if apart else "rename one of them",
        )
    contract = models[paths[0].name].contract
    checks = {name: selftest.run_selftest(model) for name, model in models.items()}
    for path in paths:
        next_step = f"check it with `convnet-edge verify {quote(str(path))}`"
        selftest.require(checks[path.name], what=f"{path} was not bundled", next_step=next_step)
    about = {
        "convnet_edge": __version__,
        "class_labels": list(contract.class_labels),
        "models": [_about(name, model) for name, model in models.items()],
    }
    content = {archive.MODELS + name: model.file.data for name, model in models.items()}
    find = dataset.require_test_set if options.with_test_set else dataset.find_test_set
    test = None
    wanted = options.target == "web" if options.with_test_set is None else options.with_test_set
    if wanted:
        test = find(dataset.Task.of(contract), options)
        content |= {archive.TEST_SET: archive.encode_test_set(test)} if test else {}
    if options.target == "testdata":
        document = _write_test_data(out, *models.values())
    elif options.target == "web":
        document = site.write(out, content, about, options.ort_web)
    else:
        document = _write_pyz(out, content, about)
    return Bundle(out, checks, document, len(test) if test else 0)


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


def _write_pyz(out: Path, content: dict[str, bytes], about: dict[str, Any]) -> dict[str, Any]:
    """Put models, the runtime that proves them and their manifest into one file for a device."""
    manifest = {"schema": archive.SCHEMA, **about, "test_set": archive.TEST_SET in content}
    own = [site.PACKAGE_DIR / "__init__.py", *(site.PACKAGE_DIR / "runtime").rglob("*.py")]
    members = content | {
        path.relative_to(site.PACKAGE_DIR.parent).as_posix(): site.read_own(path) for path in own
    }
    members["__main__.py"] = site.read_own(Path(__file__).with_name("bootstrap.py"))
    members[archive.MANIFEST] = f"{json_text(manifest)}\n".encode()
    packed = archive.pack(members)
    write_atomically(out, packed)
    out.chmod(0o755)
    return {
        "path": str(out),
        "bundle_bytes": len(packed),
        "bundle_sha256": hashlib.sha256(packed).hexdigest(),
        "manifest": manifest,
    }


def _write_test_data(out: Path, model: Classifier) -> dict[str, Any]:
    """Write a model and its golden vectors as ONNX's backend tests are laid out, into a folder.

    data.json: the tolerance, which ONNX's loader takes instead of its own. input_0.pb: the golden
    images as the model takes them, (K, 1, H, W); output_0.pb: their reference logits, (K, C)
    float32. Source: https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md and
    onnx/backend/test/loader.
    """
    contract, goldens = model.contract, model.contract.goldens
    images, logits = model.to_input(goldens.images), goldens.logits.astype(np.float32)
    contents = {
        MODEL: model.file.data,
        "data.json": json.dumps({"atol": goldens.tolerance, "rtol": 0.0}).encode(),
        "test_data_set_0/input_0.pb": _encode_tensor(contract.input_name, images),
        "test_data_set_0/output_0.pb": _encode_tensor(contract.output_name, logits),
    }
    for name, content in contents.items():
        write_atomically(out / name, content)
    return {"files": [str(out / name) for name in contents]}


def _encode_tensor(name: str, values: Array) -> bytes:
    """Return `values`, float32 or uint8 of any shape, as a serialised TensorProto."""
    little_endian = values.astype(values.dtype.newbyteorder("<"))
    fields = (
        *(field(1, size) for size in values.shape),  # dims
        field(2, ELEMENT_TYPES[values.dtype.name]),  # data_type
        field(8, name.encode()),  # name
        field(9, little_endian.tobytes()),  # raw_data
    )
    return b"".join(fields)
