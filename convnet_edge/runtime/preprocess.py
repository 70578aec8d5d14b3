"""Turn any picture into the model's input, by steps that every language can repeat within ±2.

The steps are part of the contract: photographs are dark on light, Fashion-MNIST is light on dark.
Pillow decodes; the arithmetic is ours, because resizers differ between libraries.
"""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .contract import Array
from .errors import InputError, MissingPackageError
from .files import MIB, read_bytes

if TYPE_CHECKING:
    from PIL import Image

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
BRIGHT_BORDER = 127.5
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB as RGB
MAX_PICTURE_BYTES = 256 * MIB
STEPS = (
    "turn as EXIF orientation says",
    "16 bits to 8 by dividing by 257; transparency composited on white",
    "grey = 0.299 R + 0.587 G + 0.114 B",
    "invert (255 - grey) if the median of the outermost pixels is above 127.5",
    "area average so that the longer side fits, the shorter side rounded, at least 1 pixel",
    "centre on a canvas of the border's median (rounded down to the upper left)",
    "round half up to uint8",
)


def read_picture(path: Path, shape: tuple[int, int], *, invert: bool | None = None) -> Array:
    """Read the picture file `path` as the (H, W) uint8 pixels that the model takes.

    `invert`: True or False overrule the look at the border; None lets it decide.

    Raises:
        InputError: missing, empty, not a picture, truncated, too large, or Pillow is missing.
    """
    data = read_bytes(path, limit=MAX_PICTURE_BYTES, next_step="name a picture file")
    return decode_picture(data, shape, name=str(path), invert=invert)


def decode_picture(
    data: bytes, shape: tuple[int, int], *, name: str = "the picture", invert: bool | None = None
) -> Array:
    """Decode an encoded picture (PNG, JPEG, …) as the (H, W) uint8 pixels that the model takes.

    Raises:
        InputError: not a picture, truncated, more than 89 million pixels, or Pillow is missing.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingPackageError(
            "pillow is not installed",
            expected="pillow to open picture files",
            next_step="pip install pillow",
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sizes are checked here; damage is an exception
            with Image.open(io.BytesIO(data)) as picture:
                n_pixels = picture.width * picture.height
                if n_pixels > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{picture.width} x {picture.height} pixels")
                grey = _grey(picture)
    except (
        OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        found = f"{name} is damaged: {error}"
        if isinstance(error, UnidentifiedImageError):
            found = f"{name} is not a picture"
        elif isinstance(error, Image.DecompressionBombError):
            found = f"{name} is too large: {error}"
        raise InputError(
            found,
            expected=f"a picture for Pillow, of at most {MAX_PIXELS // 10**6} million pixels",
            next_step="name a picture file; save it again if damaged, or smaller if too large",
        ) from error
    return fit(grey, shape, invert=invert)


def fit(grey: Array, shape: tuple[int, int], *, invert: bool | None = None) -> Array:
    """Bring `grey`, (h, w) of values 0 to 255, to `shape` (H, W) uint8, light on dark."""
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    background = float(np.median(grey[border]))
    if background > BRIGHT_BORDER if invert is None else invert:
        grey, background = 255.0 - grey, 255.0 - background
    height, width = grey.shape
    scale = min(shape[0] / height, shape[1] / width)
    new_height = min(shape[0], max(1, int(height * scale + 0.5)))
    new_width = min(shape[1], max(1, int(width * scale + 0.5)))
    small = area_weights(height, new_height) @ grey @ area_weights(width, new_width).T
    canvas = np.full(shape, background)
    top, left = (shape[0] - new_height) // 2, (shape[1] - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = small
    pixels: Array = np.floor(np.clip(canvas, 0, 255) + 0.5).astype(np.uint8)
    return pixels


def area_weights(size: int, new_size: int) -> Array:
    """Return the (new_size, size) matrix whose row i averages the span of output pixel i."""
    edges = np.arange(new_size + 1) * (size / new_size)
    starts = np.arange(size)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    overlap = np.clip(overlap, 0, None)
    weights: Array = overlap / overlap.sum(axis=1, keepdims=True)
    return weights


def _grey(picture: "Image.Image") -> Array:
    """Return (h, w) float64 grey values, 0 to 255, of a picture of any mode."""
    from PIL import Image, ImageOps

    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":  # more than 8 bits
        deep = np.asarray(picture, np.float64)
        if not np.isfinite(deep).all() or deep.min() < 0 or deep.max() > 65535:
            raise ValueError("values outside 0 to 65535")
        if picture.mode.startswith("I;16") or deep.max() > 255:
            return deep / 257
        return deep * 255 if picture.mode == "F" and deep.max() <= 1 else deep
    if picture.mode in ("L", "1") and not picture.has_transparency_data:
        return np.asarray(picture.convert("L"), np.float64)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    rgb = np.asarray(picture.convert("RGB"), np.float64)
    grey: Array = rgb @ np.array(GREY_WEIGHTS)
    return grey
