"""Open any picture, however it is given, within bounds of time and memory; Pillow decodes.

What becomes of its pixels is the business of `preprocess`.
"""

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from ..errors import InputError, MissingPackageError
from ..files import MIB

if TYPE_CHECKING:
    from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
Picture: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Array"

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
PILLOW = re.compile(r"PIL\.")
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB as RGB
MAX_SIDE = 10**7
MAX_FULL_SCANS, JPEG_SCAN = 50, b"\xff\xda"
MAX_PICTURE_BYTES = 256 * MIB
MAX_COUNTED_BYTES = 4 * MIB  # a million frames of a GIF, in 3 s
EXPECTED = f"{', '.join(FORMATS)} of at most {MAX_PIXELS // 10**6} million pixels"


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn what Pillow raises meanwhile into an InputError on the picture `name`.

    Raises:
        InputError: not a picture, truncated, too large, or Pillow is missing.
    """
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
        yield
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


def open_picture(source: "bytes | Image.Image | Array", name: str, limit: int) -> "Image.Image":
    """Return the picture that `source` is, not yet decoded, unless it is too large for that.

    limit: of its pixels; those that take more time or memory each may have fewer.
    """
    from PIL import Image

    if isinstance(source, bytes):
        picture: Image.Image = Image.open(io.BytesIO(source), formats=_formats(source, name))
    else:
        picture = Image.fromarray(source) if isinstance(source, np.ndarray) else source
    _require_bounded(picture, source, limit)
    return picture


def count_frames(picture: "Image.Image", source: Any) -> int:
    """Return how many frames a file's bytes hold; 2 for several where counting may take minutes."""
    if not isinstance(source, bytes) or picture.format == "MPO":  # a phone's: one and its preview
        return 1
    if picture.format == "TIFF" or len(source) > MAX_COUNTED_BYTES:
        return 1 + bool(getattr(picture, "is_animated", False))
    return int(getattr(picture, "n_frames", 1))


def frames_note(n_frames: int) -> str:
    """Return what to say of a picture of so many frames, as counted above: of one, nothing."""
    n = "several" if n_frames == 2 else f"{n_frames:,}"  # 2: not counted
    return f"the first of {n} frames is taken" if n_frames > 1 else ""


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
