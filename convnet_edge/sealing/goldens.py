"""Choose what travels inside a file as proof: golden vectors and sample pictures."""

import io
from typing import Any

import numpy as np
from PIL import Image

from ..runtime.contract import Array, encode_pixels

MAX_GOLDENS = 16


def choose_goldens(labels: Array, activity: Array, images: Array, *, n_classes: int) -> Array:
    """Return the indices of a few images that cover every class and many hidden units.

    labels: (N,) class indices; activity: (N, U) bool, which units an image activates; images:
    (N, H, W) uint8. Greedy set cover: for each class the image that adds most units, then the best
    of all, 16 at most; of those that add as many, the one that takes the fewest bytes in the file.
    """
    covered = np.zeros(activity.shape[1], bool)
    chosen: list[int] = []
    sizes = [len(encode_pixels(image)) for image in images]
    smallest_first = np.argsort(sizes, kind="stable")
    by_class = [smallest_first[labels[smallest_first] == label] for label in range(n_classes)]
    for candidates in (*by_class, *[smallest_first] * MAX_GOLDENS):
        gains = (activity[candidates] & ~covered).sum(axis=1)
        full = len(chosen) >= MAX_GOLDENS or gains.max(initial=0) == 0
        if len(candidates) and not (full and candidates is smallest_first):
            chosen.append(int(candidates[gains.argmax()]))
            covered |= activity[chosen[-1]]
    return np.array(chosen)


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
