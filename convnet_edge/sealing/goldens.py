"""Choose what travels inside the file as proof: golden vectors and sample pictures.

The images come from the test set, which is embedded everywhere; the reference logits are computed
by the model part. Replaying them is the runtime's self-test.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from ..runtime import preprocess
from ..runtime.contract import SamplePicture, encode_pixels

Array = np.ndarray[Any, np.dtype[Any]]

MAX_GOLDENS = 16
REFERENCE_DECIMALS = 9


def choose_goldens(labels: Array, activity: Array, images: Array, *, n_classes: int) -> Array:
    """Return the indices of a few images that cover every class and many hidden units.

    labels: (N,) class indices; activity: (N, U) bool, which units an image activates; images:
    (N, H, W) uint8. Greedy set cover: for each class the image that adds most units, then the best
    of all, 16 at most; of those that add as many, the one that takes the fewest bytes in the file.
    """
    covered = np.zeros(activity.shape[1], bool)
    chosen: list[int] = []
    smallest_first = np.argsort([len(encode_pixels(image)) for image in images], kind="stable")
    by_class = [smallest_first[labels[smallest_first] == label] for label in range(n_classes)]
    for candidates in (*by_class, *[smallest_first] * MAX_GOLDENS):
        gains = (activity[candidates] & ~covered).sum(axis=1)
        full = len(chosen) >= MAX_GOLDENS or gains.max(initial=0) == 0
        if len(candidates) and not (full and candidates is smallest_first):
            chosen.append(int(candidates[gains.argmax()]))
            covered |= activity[chosen[-1]]
    return np.array(chosen)


def make_pictures(images: Array) -> tuple[SamplePicture, ...]:
    """Encode three of `images` (N, H, W) uint8 as people's pictures are, with expected pixels.

    A colour PNG in landscape, dark on light; a JPEG that EXIF turns by 90°; a transparent PNG in
    portrait. Each exercises steps of `preprocess.STEPS` that the others do not.
    """
    encoded = {
        "landscape.png": _landscape(images[0]),
        "turned.jpg": _turned(images[1]),
        "transparent.png": _transparent(images[2]),
    }
    shape = (images.shape[1], images.shape[2])
    return tuple(
        SamplePicture(name, data, preprocess.decode_picture(data, shape, name=name))
        for name, data in encoded.items()
    )


def _landscape(image: Array) -> bytes:
    height, width = image.shape
    canvas = np.full((height + 6, width * 3 // 2, 3), 255, np.uint8)
    canvas[3 : 3 + height, 9 : 9 + width] = 255 - image[..., None]
    canvas[..., 2] = np.maximum(canvas[..., 2], 64)  # a blue tint: grey weights matter
    return _encode(Image.fromarray(canvas), "PNG", optimize=True)


def _turned(image: Array) -> bytes:
    turned = Image.fromarray(np.rot90(255 - image).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn 90° clockwise to show
    return _encode(turned, "JPEG", quality=80, optimize=True, exif=exif)


def _transparent(image: Array) -> bytes:
    height, width = image.shape
    canvas = np.zeros((height + 14, width + 3, 4), np.uint8)
    canvas[7 : 7 + height, 1 : 1 + width, 3] = image
    return _encode(Image.fromarray(canvas), "PNG", optimize=True)


def _encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()
