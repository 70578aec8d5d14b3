"""Write what is said of a file, and what proves it: the document inside it, the report beside it.

Which golden vectors it holds is decided in `goldens`; reading the document and replaying them is
the runtime's business.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from .. import __version__
from ..runtime import admission, contract, selftest
from ..runtime.contract import Array, Goldens
from ..runtime.files import as_json, write_atomically, write_json
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from ..runtime.model_file import open_model
from ..runtime.pictures import preprocess
from ..runtime.pictures.preprocess import Preprocessing
from .goldens import make_pictures

InputDtype = Literal["float32", "uint8"]

RANGES: dict[InputDtype, dict[str, Any]] = {
    "float32": {"range": [0.0, 1.0], "scale": "uint8 value / 255"},
    "uint8": {"range": [0, 255], "scale": "the uint8 value; the graph scales it"},
}
REFERENCE_DECIMALS = 9


def seal(graph: bytes, document: dict[str, Any]) -> bytes:
    """Return the final file: `graph` (a ModelProto) with `document` and what it costs inside.

    Raises:
        InputError: a device would refuse the graph.
    """
    unknown = document | {"cost": asdict(contract.Cost(0, 1, {}))}
    found = admission.cost(open_model(contract.seal(graph, unknown)))
    return contract.seal(graph, document | {"cost": asdict(found)})


def describe_input(dtype: InputDtype, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what the graph takes: `images` of `image_shape` (C, H, W)."""
    return {
        "name": "images",
        "dtype": dtype,
        "shape": list(image_shape),
        "layout": "NCHW, batch axis free",
        **RANGES[dtype],
    }


def describe_preprocessing(images: Array, how: Preprocessing) -> dict[str, Any]:
    """Return what makes pixels of pictures, with samples made of three `images`."""
    samples = []
    for name, encoded in make_pictures(images).items():
        pixels = preprocess.decode_picture(encoded, how, name=name).pixels
        encodings = contract.encode_bytes(encoded), contract.encode_pixels(pixels)
        samples.append({"name": name, "encoded": encodings[0], "pixels": encodings[1]})
    return how.document() | {"pixel_tolerance": selftest.PIXEL_TOLERANCE, "samples": samples}


def describe_proof(
    what: str, logits: Array, test: ImageSet, goldens: Goldens, class_labels: Sequence[str]
) -> dict[str, Any]:
    """Return how many test images `what` classified right, and the golden vectors.

    logits: (N, C) its logits of the test images.
    """
    score = accuracy.score(logits.argmax(axis=1), test.labels, tuple(class_labels))
    return {
        "measured": {"what": f"{what} on the test images", **accuracy.describe(score, test)},
        "goldens": {
            "indices": goldens.indices.tolist(),
            "images": contract.encode_pixels(goldens.images),
            "logits": _rounded(goldens.logits).tolist(),
            "floor": goldens.floor,
            "tolerance": goldens.tolerance,
        },
    }


def _rounded(logits: Array) -> Array:
    """Return logits without digits that mean nothing; of small ones, as of a new network, more."""
    largest = float(np.abs(logits).max()) or 1.0
    return logits.round(REFERENCE_DECIMALS - min(0, math.floor(math.log10(largest))))


def versions(*modules: ModuleType) -> dict[str, str]:
    """Return the versions of this program and of what it used."""
    return {"convnet-edge": __version__} | {m.__name__: m.__version__ for m in modules}


def beside(path: Path, kind: str, *, passed: bool) -> Path:
    """Return where the report on the model `path` goes: NAME.parity.json, of a model that is there.

    A failed run leaves that to the older model, and writes NAME.parity.failed.json.
    """
    return path.with_suffix(f".{kind}.json" if passed else f".{kind}.failed.json")


def hand_over(path: Path, model: bytes, report: Any, kind: str, *, next_step: str) -> Path:
    """Write `report` `beside` `path`, then `model` to it if each of the report's checks held.

    Returns where the report is; those of runs that failed before are removed.

    Raises:
        CheckFailedError: a check failed; what `path` held before is untouched, with its report.
    """
    report_path = beside(path, kind, passed=report.passed)
    write_json(report_path, as_json(report))
    older = " (the older file of that name is untouched, and its report)" if path.exists() else ""
    selftest.require(
        report.checks,
        what=f"{path} was not written{older}",
        next_step=f"read {report_path}; {next_step}",
        listed=True,
    )
    write_atomically(path, model)
    for suffix in (".json", ".png"):
        beside(path, kind, passed=False).with_suffix(suffix).unlink(missing_ok=True)
    return report_path
