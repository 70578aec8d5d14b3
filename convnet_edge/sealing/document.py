"""Write what is said of a file, and what proves it: the document inside it, the report beside it.

Golden vectors and sample pictures are made of the test images; reading the document and replaying
them is the runtime's business.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from PIL import Image

from .. import __version__
from ..runtime import contract, preprocess, selftest
from ..runtime.contract import Array
from ..runtime.files import write_atomically, write_json
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.result import as_json
from .parity import Reference

InputDtype = Literal["float32", "uint8"]

RANGES: dict[InputDtype, dict[str, Any]] = {
    "float32": {"range": [0.0, 1.0], "scale": "uint8 grey value / 255"},
    "uint8": {"range": [0, 255], "scale": "the uint8 grey value; the graph scales it"},
}
MAX_GOLDENS = 16
REFERENCE_DECIMALS = 9


def describe_input(dtype: InputDtype, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what the graph takes: `images` of `image_shape` (C, H, W)."""
    return {
        "name": "images",
        "dtype": dtype,
        "shape": list(image_shape),
        "layout": "NCHW, batch axis free",
        **RANGES[dtype],
    }


def describe_preprocessing(images: Array) -> dict[str, Any]:
    """Return what makes pixels of pictures, with samples made of three `images` (N, H, W)."""
    samples = []
    for name, encoded in make_pictures(images).items():
        pixels = preprocess.decode_picture(encoded, images.shape[1:], name=name)
        encodings = contract.encode_bytes(encoded), contract.encode_pixels(pixels)
        samples.append({"name": name, "encoded": encodings[0], "pixels": encodings[1]})
    return {
        "steps": list(preprocess.STEPS),
        "pixel_tolerance": selftest.PIXEL_TOLERANCE,
        "samples": samples,
    }


def make_pictures(images: Array) -> dict[str, bytes]:
    """Encode three of `images` (N, H, W) uint8, light on dark, as people's pictures are, by name.

    A colour PNG in landscape, dark on light; a JPEG that EXIF turns by 90°; a transparent PNG in
    portrait. Each exercises steps of `preprocess.STEPS` that the others do not.
    """
    height, width = images.shape[1:]
    landscape = np.full((height + 6, width * 3 // 2, 3), 255, np.uint8)
    landscape[3 : 3 + height, 9 : 9 + width] = 255 - images[0, ..., None]
    landscape[..., 2] = np.maximum(landscape[..., 2], 64)  # a blue tint: grey weights matter
    turned = np.rot90(255 - images[1]).copy()
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn 90° clockwise to show
    transparent = np.zeros((height + 14, width + 3, 4), np.uint8)
    transparent[7 : 7 + height, 1 : 1 + width, 3] = images[2]
    return {
        "landscape.png": _encode(landscape, "PNG"),
        "turned.jpg": _encode(turned, "JPEG", quality=80, exif=exif),
        "transparent.png": _encode(transparent, "PNG"),
    }


def _encode(pixels: Array, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, optimize=True, **options)
    return buffer.getvalue()


def choose_goldens(labels: Array, activity: Array, images: Array, *, n_classes: int) -> Array:
    """Return the indices of a few images that cover every class and many hidden units.

    labels: (N,) class indices; activity: (N, U) bool, which units an image activates; images:
    (N, H, W) uint8. Greedy set cover: for each class the image that adds most units, then the best
    of all, 16 at most; of those that add as many, the one that takes the fewest bytes in the file.
    """
    covered = np.zeros(activity.shape[1], bool)
    chosen: list[int] = []
    sizes = [len(contract.encode_pixels(image)) for image in images]
    smallest_first = np.argsort(sizes, kind="stable")
    by_class = [smallest_first[labels[smallest_first] == label] for label in range(n_classes)]
    for candidates in (*by_class, *[smallest_first] * MAX_GOLDENS):
        gains = (activity[candidates] & ~covered).sum(axis=1)
        full = len(chosen) >= MAX_GOLDENS or gains.max(initial=0) == 0
        if len(candidates) and not (full and candidates is smallest_first):
            chosen.append(int(candidates[gains.argmax()]))
            covered |= activity[chosen[-1]]
    return np.array(chosen)


def describe_proof(
    what: str, reference: Reference, test: ImageSet, chosen: Array, class_labels: Sequence[str]
) -> dict[str, Any]:
    """Return how many test images `what` classified right, and the golden vectors.

    reference: its logits of the test images. chosen: (K,) the golden images, by index.
    """
    score = accuracy.score(reference.logits.argmax(axis=1), test.labels, tuple(class_labels))
    return {
        "measured": {"what": f"{what} on the test images", **accuracy.describe(score, test)},
        "goldens": {
            "indices": chosen.tolist(),
            "images": contract.encode_pixels(test.images[chosen]),
            "logits": reference.logits[chosen].round(REFERENCE_DECIMALS).tolist(),
            "floor": reference.floor,
            "tolerance": reference.tolerance,
        },
    }


def versions(*modules: ModuleType) -> dict[str, str]:
    """Return the versions of this program and of what it used."""
    return {"convnet-edge": __version__} | {m.__name__: m.__version__ for m in modules}


def hand_over(path: Path, model: bytes, report: Any, kind: str, *, next_step: str) -> Path:
    """Write `report` beside `path`, then `model` to it if each of the report's checks held.

    Returns where the report is. `kind` stands in its name: NAME.parity.json.

    Raises:
        CheckFailedError: a check failed; what `path` held before is untouched.
    """
    report_path = path.with_suffix(f".{kind}.json")
    write_json(report_path, as_json(report))
    older = " (the older file of that name is untouched)" if path.exists() else ""
    selftest.require(
        report.checks,
        what=f"{path} was not written{older}",
        next_step=f"read {report_path}; {next_step}",
        listed=True,
    )
    write_atomically(path, model)
    return report_path
