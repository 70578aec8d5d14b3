"""Choose what travels inside a file as proof: golden vectors and sample pictures."""

import io
from typing import Any

import numpy as np
from PIL import Image

from ..runtime.contract import Array, encode_pixels

MAX_GOLDENS = 16  # beyond one for each class
MAX_BYTES = 512 << 10  # in the file: of their pixels, and of their logits as text
MAX_PIXELS = 1 << 20  # which take the work and the memory that a device admits for a proof
LOGIT_BYTES = 14


def choose_goldens(labels: Array, activity: Array, images: Array, *, n_classes: int) -> Array:
    """Return the indices of a few images that cover every class and many hidden units.

    labels: (N,) class indices; activity: (N, U) bool, which units an image activates, of none where
    bytes alone decide; images: uint8. Greedy set cover: for each class the image that adds most
    units, then the best of all, 16 at most; of those that add as many, the one that takes the
    fewest bytes in the file. All of them take at most `MAX_BYTES` and `MAX_PIXELS`, but for the
    first: of many classes not each has one.
    """
    n_most = MAX_PIXELS // (images.shape[1] * images.shape[2])
    covered = np.zeros(activity.shape[1], bool)
    chosen: list[int] = []
    sizes = [len(encode_pixels(image)) + LOGIT_BYTES * n_classes for image in images]
    smallest_first = np.argsort(sizes, kind="stable")
    by_class = [smallest_first[labels[smallest_first] == label] for label in range(n_classes)]
    for candidates in (*by_class, *[smallest_first] * MAX_GOLDENS):
        gains = (activity[candidates] & ~covered).sum(axis=1)
        full = len(chosen) >= MAX_GOLDENS or gains.max(initial=0) == 0
        if not len(candidates) or (full and candidates is smallest_first):
            continue
        best = int(candidates[gains.argmax()])
        n_bytes = sum(sizes[one] for one in (*chosen, best))
        if not chosen or (n_bytes <= MAX_BYTES and len(chosen) < n_most):
            chosen.append(best)
            covered |= activity[best]
    return np.array(chosen)


def make_pictures(images: Array) -> dict[str, bytes]:
    """Encode three of `images` as people's pictures are, by name.

    images: (N, H, W) uint8, light on dark, which are drawn dark on light, or (N, H, W, 3) as they
    are. A colour PNG in landscape; a JPEG that EXIF turns by 90°; a transparent PNG in portrait.
    Each exercises steps of preprocessing that the others do not, and none has the network's size.
    """
    wide, turned, tall = (images[place % len(images)] for place in range(3))
    height, width = wide.shape[:2]
    is_grey = images.ndim == 3
    landscape = np.full((height + 6, width * 3 // 2, 3), 255, np.uint8)
    shown = 255 - wide[..., None] if is_grey else wide
    landscape[3 : 3 + height, width // 3 : width // 3 + width] = shown
    landscape[..., 2] = np.maximum(landscape[..., 2], 64)  # a blue tint: grey weights matter
    paper = 255 - turned if is_grey else turned
    edges = [(2, 2), (2, 2), (0, 0)][: paper.ndim]
    stored = np.rot90(np.pad(paper, edges, constant_values=255)).copy()
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn 90° clockwise to show
    transparent = np.zeros((height + 14, width + 3, 4), np.uint8)
    inner = transparent[7 : 7 + height, 1 : 1 + width]
    inner[..., 3] = tall if is_grey else tall.max(axis=2)
    if not is_grey:
        inner[..., :3] = tall
    return {
        "landscape.png": _encode(landscape, "PNG"),
        # subsampled colours are smoothed in more than one way
        "turned.jpg": _encode(stored, "JPEG", quality=80, exif=exif, subsampling=0),
        "transparent.png": _encode(transparent, "PNG"),
    }


def _encode(pixels: Array, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, optimize=True, **options)
    return buffer.getvalue()
