"""Read a decoded picture's values, made smaller or larger: by Pillow, or by exact averages.

Which part of it, and to what size, is the business of `preprocess`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .decode import Array

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[float, float, float, float]  # left, upper, right, lower, as Pillow's
Tile = tuple[int, int, int, int]

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
EXIF_ORIENTATION = 0x0112
BEYOND_16_BITS = "values outside 0 to 65535"
MAX_TILE_PIXELS, MAX_TILE_WIDTH, MAX_TILE_HEIGHT = 1 << 16, 2048, 4096  # for a processor's cache


@dataclass(frozen=True)
class Source:
    """A decoded picture as it is stored.

    multiplier: by what to multiply its values to have 0 to 255. orientation: how to turn it to be
    shown, by EXIF.
    """

    picture: "Image.Image"
    multiplier: float = 1.0
    orientation: int = 1

    @classmethod
    def of(cls, picture: "Image.Image") -> "Source":
        """Decode `picture`."""
        picture.load()
        orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
        if picture.mode == "LAB":  # 20 ms a conversion, however small the part
            picture = picture.convert("RGB")
        return cls(picture, _multiplier(picture), orientation)

    @property
    def is_transposed(self) -> bool:
        """Whether its rows are shown as columns."""
        return self.orientation in (5, 6, 7, 8)

    def resized(self, box: Box, size: tuple[int, int], *, by: str, channels: int) -> Array:
        """Return `box` of it as values (h, w, channels), 0 to 255 and turned as they are shown.

        size: (h, w) as it is stored, for there are fewer averages than pixels to be turned. by: the
        filter.
        """
        if by == "area":
            values = _average(self.picture, box, size, to_grey=channels == 1)
        else:
            transposed = self.is_transposed
            values = _filtered(self.picture, box, size, by=by, is_transposed=transposed)
        values = self._scaled(_as_channels(values, channels))
        values = values[:: -1 if self.orientation in (3, 4, 6, 7) else 1]
        values = values[:, :: -1 if self.orientation in (2, 3, 7, 8) else 1]
        return values.swapaxes(0, 1) if self.is_transposed else values

    def border(self, channels: int) -> Array:
        """Return the medians (channels,) of the outermost pixels, corners once."""
        w, h = self.picture.size
        sides = [(0, 0, w - 1, 1), (w - 1, 0, w, h - 1), (1, h - 1, w, h), (0, 1, 1, h)]
        sides = sides if min(w, h) > 1 else [(0, 0, w, h)]
        # tile by tile: as floats, the colours of ten million pixels are half a gigabyte
        tiles = [tile for side in sides for tile in _tiles(side)]
        n_pixels = [(right - left) * (lower - upper) for left, upper, right, lower in tiles]
        dtype = _as_channels(_read(self.picture, tiles[0]), channels).dtype
        ring: Array = np.empty((sum(n_pixels), channels), dtype)
        for end, n, tile in zip(np.cumsum(n_pixels), n_pixels, tiles, strict=True):
            values = _as_channels(_read(self.picture, tile), channels)
            ring[end - n : end] = values.reshape(-1, channels)
        return self._scaled(np.median(ring, axis=0, overwrite_input=True))

    def _scaled(self, values: Array) -> Array:
        if not np.isfinite(values).all():  # NaN, which `getextrema` overlooks
            raise ValueError(BEYOND_16_BITS)
        return values * self.multiplier


def is_grey(picture: "Image.Image") -> bool:
    """Whether the picture can hold nothing but opaque grey values."""
    if picture.mode in ("1", "L"):
        return not picture.has_transparency_data
    return picture.mode.startswith("I") or picture.mode == "F"


def area_weights(span: tuple[float, float], n: int, pixels: range) -> tuple[slice, Array]:
    """Return in which of the `n` equal parts of `span` these pixels lie, and how much of each.

    The weights are (k, len(pixels)); over all pixels those of a part add up to 1.
    """
    length = (span[1] - span[0]) / n
    first, last = ((side - span[0]) / length for side in (pixels.start, pixels.stop))
    touched = slice(max(0, math.floor(first)), min(n, math.ceil(last)))
    edges = span[0] + np.arange(touched.start, touched.stop + 1) * length
    starts = np.arange(pixels.start, pixels.stop)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return touched, np.clip(overlap, 0, None) / length


def _average(picture: "Image.Image", box: Box, size: tuple[int, int], *, to_grey: bool) -> Array:
    """Return the averages (H, W, 1 or 3) of equal parts of `box`, without holding all values.

    to_grey: colours are not needed; those of a large picture are weighed by Pillow, which rounds.
    """
    left, upper, right, lower = box
    rows, end = range(math.floor(upper), math.ceil(lower)), math.ceil(right)
    if size[0] > len(rows):  # a few rows, which become many at last
        whole = (left, rows.start, right, rows.stop)
        few = _average(picture, whole, (len(rows), size[1]), to_grey=to_grey)
        widened: Array = np.tensordot(area_weights((upper, lower), size[0], rows)[1], few, 1)
        return widened
    is_small = (right - left) * len(rows) <= MAX_TILE_PIXELS
    to_grey = to_grey and not is_small
    n = 1 if to_grey or is_grey(picture) else 3
    # of the large: float32 errs by 0.0002 of 255, in half the time
    averages: Array = np.zeros((*size, n), np.float64 if is_small else np.float32)
    # few rows have few averages; BLAS's threads would wait for each other at every tile
    n_rows = len(rows) if is_small else max(1, 3 * len(rows) // size[0])
    weigh = np.matmul if is_small else partial(np.einsum, "kh,hx->kx")
    for x in range(math.floor(left), end, MAX_TILE_WIDTH):
        block = range(x, min(x + MAX_TILE_WIDTH, end))
        sums: Array = np.zeros((size[0], len(block) * n), averages.dtype)
        for tile in _tiles((block.start, rows.start, block.stop, rows.stop), n_rows):
            touched, weights = area_weights((upper, lower), size[0], range(tile[1], tile[3]))
            values = _read(picture, tile, to_grey=to_grey).astype(sums.dtype)
            values = values.reshape(len(values), -1)
            sums[touched] += weigh(weights.astype(sums.dtype), values)
        touched, weights = area_weights((left, right), size[1], block)
        sums, weights = sums.reshape(size[0], len(block), n), weights.astype(averages.dtype)
        averages[:, touched] += np.tensordot(sums, weights, (1, 1)).swapaxes(1, 2)
    return averages


def _filtered(
    picture: "Image.Image", box: Box, size: tuple[int, int], *, by: str, is_transposed: bool
) -> Array:
    """Return the values (H, W, 1 or 3) of Pillow's own resizing with antialias, across first."""
    from PIL import Image

    mode = "RGB" if not is_grey(picture) else "L" if picture.mode in ("1", "L") else "F"
    if mode == "RGB" and picture.has_transparency_data:
        opaque = Image.new(mode, picture.size)
        for tile in _tiles((0, 0, *picture.size)):  # all at once would take three times its memory
            opaque.paste(_part(picture, tile), tile[:2])
        picture = opaque
    picture = picture if picture.mode == mode else picture.convert(mode)
    resample, order = Image.Resampling[by.upper()], [1, 0] if is_transposed else [0, 1]
    grows = [new > box[axis + 2] - box[axis] for axis, new in enumerate(size[::-1])]
    if grows[order[0]] and not grows[order[1]]:  # a tall picture would be large in between
        order.reverse()
    for axis in order:  # pass by pass, as Pillow's versions differ in which comes first
        (width, height), (left, upper, right, lower) = picture.size, box
        new_size, part = (size[1], height), (left, 0.0, right, float(height))
        if axis == 1:
            new_size, part = (width, size[0]), (0.0, upper, float(width), lower)
        picture = picture.resize(new_size, resample, part)
    return np.asarray(picture, np.float64).reshape(*size, -1)


def _read(picture: "Image.Image", tile: Tile, *, to_grey: bool = False) -> Array:
    """Return the values (h, w, 1 or 3) of a part of a picture of any mode."""
    part = _part(picture, tile)
    if to_grey and part.mode == "RGB":
        part = part.convert("L")
    return np.asarray(part).reshape(part.height, part.width, -1)


def _part(picture: "Image.Image", tile: Tile) -> "Image.Image":
    """Return a part of a picture of any mode: of one band if it is grey, else RGB on white."""
    from PIL import Image

    part = picture.crop(tile)
    if is_grey(picture):
        return part.convert("L") if part.mode == "1" else part
    if part.has_transparency_data:
        white = Image.new("RGBA", part.size, "white")
        part = Image.alpha_composite(white, part.convert("RGBA"))
    return part if part.mode == "RGB" else part.convert("RGB")


def _as_channels(values: Array, channels: int) -> Array:
    """Return (..., 1 or 3) values as (..., channels)."""
    if values.shape[-1] == channels:
        return values
    if channels == 3:
        return values.repeat(3, axis=-1)
    grey: Array = values @ np.array(GREY_WEIGHTS)
    return grey[..., None]


def _multiplier(picture: "Image.Image") -> float:
    """Return by what to multiply values to have 0 to 255, from more than 8 bits too."""
    if picture.mode.startswith("I;16"):
        return 1 / 257
    if picture.mode not in ("I", "F"):
        return 1.0
    extrema: Any = picture.getextrema()  # of one band
    darkest, brightest = extrema
    if not 0 <= darkest <= brightest <= 65535:
        raise ValueError(BEYOND_16_BITS)
    if brightest > 255:
        return 1 / 257
    return 255.0 if picture.mode == "F" and brightest <= 1 else 1.0


def _tiles(area: Tile, max_rows: int = MAX_TILE_HEIGHT) -> Iterator[Tile]:
    """Yield the parts of `area`, small enough for a processor's cache, column by column."""
    left, upper, right, lower = area
    n_columns = min(right - left, MAX_TILE_WIDTH)
    n_rows = min(MAX_TILE_PIXELS // n_columns, max_rows)
    for x in range(left, right, n_columns):
        for y in range(upper, lower, n_rows):
            yield x, y, min(x + n_columns, right), min(y + n_rows, lower)
