"""Turn any picture into the model's input, by steps that every language can repeat within ±2.

The steps are part of the contract: photographs are dark on light, Fashion-MNIST is light on dark.
Pillow decodes; the arithmetic is ours, because resizers differ between libraries.
"""

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from .contract import Array
from .errors import InputError, MissingPackageError
from .files import MIB, as_path, read_bytes

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Array"
Box = tuple[int, int, int, int]  # left, upper, right, lower, as Pillow's
GreyReader = Callable[[Box], Array]

FORMATS = {  # Pillow's names, and how files are called; all others stay shut: PostScript runs gs
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),  # and phones' MPO
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
PHONE_SUFFIXES = (".heic", ".heif", ".avif")  # looked at, to say what to do with them
PHONE_BRANDS = dict.fromkeys((b"avif", b"avis"), "an AVIF") | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "a HEIC"
)
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
BRIGHT_BORDER = 127.5
EXIF_ORIENTATION = 0x0112
PILLOW = re.compile(r"PIL\.")
BEYOND_16_BITS = "values outside 0 to 65535"
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB as RGB
MAX_SIDE = 10**7
MAX_FULL_SCANS, JPEG_SCAN = 50, b"\xff\xda"
MAX_PICTURE_BYTES = 256 * MIB
MAX_TILE_PIXELS, MAX_TILE_SIDE = 1 << 16, 4096  # what stays in a processor's cache
EXPECTED = f"{', '.join(FORMATS)} of at most {MAX_PIXELS // 10**6} million pixels"
STEPS = (
    "turn as EXIF orientation says",
    "16 bits to 8 by dividing by 257; transparency composited on white",
    "grey = 0.299 R + 0.587 G + 0.114 B",
    "invert (255 - grey) if the median of the outermost pixels is above 127.5",
    "area average so that the longer side fits, the shorter side rounded, at least 1 pixel",
    "centre on a canvas of the border's median (rounded down to the upper left)",
    "round half up to uint8",
)


def to_pixels(picture: Any, shape: tuple[int, int], *, name: str = "the picture") -> Array:
    """Return a `Picture`, given in any of its ways, as the (H, W) uint8 that the model takes.

    An array of exactly `shape` is those pixels; any other is a picture: grey, RGB or RGBA.

    Raises:
        InputError: no picture in any of these ways, or for a reason of `read_picture`.
    """
    if (path := as_path(picture)) is not None:
        return read_picture(path, shape)
    found = f"of type {type(picture).__name__}"
    if isinstance(picture, bytearray | memoryview):
        picture = bytes(picture)
    if callable(getattr(picture, "read", None)):
        found = "a file open for text"
        try:
            picture = picture.read(MAX_PICTURE_BYTES)
        except (OSError, ValueError) as error:  # ValueError: closed, or text that does not decode
            found = f"a file that cannot be read: {error}"
    usable = isinstance(picture, bytes) or hasattr(picture, "getexif")
    if isinstance(picture, np.ndarray):
        found = f"an array of shape {picture.shape} and type {picture.dtype}"
        usable = picture.dtype == np.uint8 and picture.size > 0
        if usable and picture.shape == shape:
            return picture
        usable = usable and (picture.ndim == 2 or picture.shape[2:] in ((3,), (4,)))
    if not usable:
        raise InputError(
            f"{name} is {found}",
            expected=f"(N, {shape[0]}, {shape[1]}) uint8 pixels as they are; or pictures, each a "
            "path, bytes, a file open in binary, a PIL image, or uint8 (h, w), (h, w, 3) or "
            "(h, w, 4)",
            next_step="pass one of these, or a list of them",
        )
    return decode_picture(picture, shape, name=name)


def read_picture(path: Path, shape: tuple[int, int], *, invert: bool | None = None) -> Array:
    """Read the picture file `path` as the (H, W) uint8 pixels that the model takes.

    `invert`: True or False overrule the look at the border; None lets it decide.

    Raises:
        InputError: missing, empty, not a picture, truncated, too large, or Pillow is missing.
    """
    data = read_bytes(path, limit=MAX_PICTURE_BYTES, next_step="name a picture file")
    return decode_picture(data, shape, name=str(path), invert=invert)


def decode_picture(
    source: "bytes | Image.Image | Array",
    shape: tuple[int, int],
    *,
    name: str = "the picture",
    invert: bool | None = None,
    max_pixels: int | None = None,
) -> Array:
    """Turn an encoded picture (PNG, JPEG, …), or a decoded one, into the model's (H, W) uint8.

    Raises:
        InputError: not a picture, truncated, too large, or Pillow is missing.
    """
    picture: Any
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingPackageError(
            "pillow is not installed",
            expected="pillow to open picture files",
            next_step="pip install pillow",
        ) from error
    # the sizes are checked here, and damage is an exception. Not catch_warnings: of two threads in
    # it, the last to leave may leave all warnings off
    if not any(module == PILLOW for *_, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=PILLOW.pattern)
    try:
        picture = source
        if isinstance(source, bytes):
            picture = Image.open(io.BytesIO(source), formats=_formats(source, name))
        elif isinstance(source, np.ndarray):
            picture = Image.fromarray(source)
        _require_bounded(picture, source, max_pixels or MAX_PIXELS)
        return fit(picture, shape, invert=invert)
    except (
        OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError, LookupError,
        ArithmeticError, AttributeError, struct.error, zlib.error, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        found, expected = f"{name} is damaged: {error}", "a whole picture"
        next_step = "save it again, or name another"
        if isinstance(error, UnidentifiedImageError):
            found, expected = f"{name} is not a picture", EXPECTED
            next_step = "name a picture file"
        elif isinstance(error, Image.DecompressionBombError | MemoryError):
            found, expected = f"{name} is too large: {str(error) or 'no memory for it'}", EXPECTED
            next_step = "save it smaller"
        raise InputError(found, expected=expected, next_step=next_step) from error


def fit(picture: "Image.Image", shape: tuple[int, int], *, invert: bool | None = None) -> Array:
    """Bring `picture` to `shape` (H, W) uint8, light on dark, by the steps of the contract."""
    picture.load()
    orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    is_turned = orientation in (5, 6, 7, 8)
    (width, height), (max_height, max_width) = picture.size, shape[::-1] if is_turned else shape
    scale = min(max_height / height, max_width / width)
    new_height = min(max_height, max(1, int(height * scale + 0.5)))
    new_width = min(max_width, max(1, int(width * scale + 0.5)))
    grey = _grey_reader(picture)
    small = _area_average(grey, (height, width), (new_height, new_width))
    background = _border_median(grey, height, width)
    if background > BRIGHT_BORDER if invert is None else invert:
        small, background = 255.0 - small, 255.0 - background
    # averages turn as pixels do, and are fewer
    small = small[:: -1 if orientation in (3, 4, 6, 7) else 1]
    small = small[:, :: -1 if orientation in (2, 3, 7, 8) else 1]
    small = small.T if is_turned else small
    canvas = np.full(shape, background)
    top, left = (shape[0] - small.shape[0]) // 2, (shape[1] - small.shape[1]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    pixels: Array = np.floor(np.clip(canvas, 0, 255) + 0.5).astype(np.uint8)
    return pixels


def area_weights(size: int, new_size: int, start: int, stop: int) -> tuple[slice, Array]:
    """Return the k output pixels that pixels `start` to `stop` of `size` lie in, and how much.

    The weights are (k, stop - start); over all `size` pixels those of an output pixel add up to 1.
    """
    touched = slice(start * new_size // size, -(-stop * new_size // size))
    edges = np.arange(touched.start, touched.stop + 1) * (size / new_size)
    starts = np.arange(start, stop)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return touched, np.clip(overlap, 0, None) / (size / new_size)


def _area_average(grey: GreyReader, size: tuple[int, int], new_size: tuple[int, int]) -> Array:
    """Return the averages (H, W) of (h, w) grey values, without holding all of these."""
    (height, width), (new_height, new_width) = size, new_size
    averages: Array = np.zeros(new_size)
    for box in _tiles((0, 0, width, height)):
        left, upper, right, lower = box
        rows, row_weights = area_weights(height, new_height, upper, lower)
        columns, column_weights = area_weights(width, new_width, left, right)
        averages[rows, columns] += row_weights @ grey(box) @ column_weights.T
    if not np.isfinite(averages).all():  # NaN, which `getextrema` overlooks
        raise ValueError(BEYOND_16_BITS)
    return averages


def _border_median(grey: GreyReader, h: int, w: int) -> float:
    """Return the median of the outermost grey values, corners once."""
    sides = [(0, 0, w - 1, 1), (w - 1, 0, w, h - 1), (1, h - 1, w, h), (0, 1, 1, h)]
    tiles = [tile for side in (sides if min(w, h) > 1 else [(0, 0, w, h)]) for tile in _tiles(side)]
    border = np.concatenate([grey(tile).ravel() for tile in tiles])
    return float(np.median(border, overwrite_input=True))


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


def _tiles(area: Box) -> Iterator[Box]:
    """Yield the parts of `area`, small enough for a processor's cache, column by column."""
    left, upper, right, lower = area
    n_columns = min(right - left, MAX_TILE_SIDE)
    n_rows = min(MAX_TILE_PIXELS // n_columns, MAX_TILE_SIDE)
    for x in range(left, right, n_columns):
        for y in range(upper, lower, n_rows):
            yield x, y, min(x + n_columns, right), min(y + n_rows, lower)


def _grey_reader(picture: "Image.Image") -> GreyReader:
    """Return what reads a part of the picture's grey values; all at once where they are few."""
    if picture.mode == "LAB":  # 20 ms a conversion, however small the part
        picture = picture.convert("RGB")
    multiplier, whole = _multiplier(picture), (0, 0, *picture.size)
    if next(_tiles(whole)) != whole:
        return lambda box: _grey(picture, box, multiplier)
    values = _grey(picture, whole, multiplier)
    return lambda box: values[box[1] : box[3], box[0] : box[2]]


def _grey(picture: "Image.Image", box: Box, multiplier: float) -> Array:
    """Return the (h, w) float64 grey values, 0 to 255, of a part of a picture of any mode."""
    from PIL import Image

    part = picture.crop(box)
    if part.mode.startswith("I") or part.mode == "F":
        return np.asarray(part, np.float64) * multiplier
    if part.has_transparency_data:
        white = Image.new("RGBA", part.size, "white")
        part = Image.alpha_composite(white, part.convert("RGBA"))
    elif part.mode in ("L", "1"):
        return np.asarray(part.convert("L"), np.float64)
    grey: Array = np.asarray(part.convert("RGB")) @ np.array(GREY_WEIGHTS)
    return grey


def _formats(data: bytes, name: str) -> tuple[str, ...]:
    """Return what Pillow may take `data` for; phones' HEIC needs a package, AVIF stays shut."""
    brands = data[8:32] if data[4:8] == b"ftyp" else b""
    kind = next((kind for brand, kind in PHONE_BRANDS.items() if brand in brands), None)
    if kind is None:
        return tuple(FORMATS)
    next_step = "save it as PNG or JPEG"
    if kind == "a HEIC":
        try:
            import_module("pillow_heif").register_heif_opener()
            return ("HEIF",)
        except ImportError:
            next_step = f"pip install pillow-heif, or {next_step}"
    raise InputError(f"{name} is {kind} picture", expected=EXPECTED, next_step=next_step)


def _require_bounded(picture: "Image.Image", source: Any, limit: int) -> None:
    """Refuse, before it is decoded, what would take more than a gigabyte or ten seconds."""
    from PIL import Image

    n_pixels = picture.width * picture.height
    if not n_pixels:
        raise ValueError("it has no pixels")
    tiles = getattr(picture, "tile", ())
    if tiles and tiles[0][0] in Image.DECODERS:  # these are written in Python: 1 µs a value
        limit //= 64
    if picture.format == "WEBP" or picture.mode == "CMYK":  # 16 bytes a pixel while it decodes
        limit //= 2
    if picture.format in ("JPEG", "MPO") and isinstance(source, bytes):
        # a progressive one goes over all its pixels in each scan
        limit = limit * MAX_FULL_SCANS // max(MAX_FULL_SCANS, source.count(JPEG_SCAN))
    if n_pixels > limit or max(picture.size) > MAX_SIDE:
        raise Image.DecompressionBombError(
            f"{picture.width} x {picture.height}, more than {limit:,} pixels or {MAX_SIDE:,} a side"
        )
