"""Turn any picture into the model's pixels, by steps that every language can repeat within ±2.

The steps are data, and stand in the contract: photographs are dark on light, Fashion-MNIST is light
on dark; others want colours. Opening files is the business of `decode`.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import numpy as np

from ..errors import InputError
from ..files import as_path, read_bytes
from . import background
from .decode import MAX_PICTURE_BYTES, MAX_PIXELS, count_frames, decoding, open_picture
from .decode import Array as Array
from .decode import Picture as Picture
from .resize import GREY_WEIGHTS, Box, Source, is_grey

if TYPE_CHECKING:
    from PIL import Image

BRIGHT_BORDER = 127.5


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes pixels, as it stands in the contract.

    size: (H, W) in pixels. channels: 1 for grey, 3 for RGB. background: "remove" takes one object
    off it. invert: whether a bright border makes dark light. fit: how a picture of other
    proportions is brought to the size. share: of `fit` "crop", how much of the largest crop is
    taken. filter: how it is made smaller or larger.

    Raises:
        ValueError: nonsense.
    """

    size: tuple[int, int]
    channels: Literal[1, 3]
    background: Literal["keep", "remove"] = "keep"
    invert: Literal["border", "never"] = "never"
    fit: Literal["pad", "crop", "stretch"] = "crop"
    share: float = 1.0
    filter: Literal["area", "bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        for one in fields(self):
            value, known = getattr(self, one.name), get_args(one.type)
            is_known = type(value) in (int, str) and value in known
            if get_origin(one.type) is Literal and not is_known:
                raise ValueError(f"{one.name} {str(value)[:80]!r}, not of {known}")
        if len(self.size) != 2 or not all(type(side) is int and side >= 1 for side in self.size):
            raise ValueError(f"size {str(self.size)[:80]}, not two numbers of pixels")
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 1:
            raise ValueError(f"share {str(self.share)[:80]}, not above 0 and at most 1")
        if self.background == "remove" and self.channels != 1:
            raise ValueError("background 'remove' is for grey pixels alone")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the pixels: (H, W) of grey, (H, W, 3) of RGB."""
        return self.size if self.channels == 1 else (*self.size, 3)

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done, in this order, in words."""
        height, width = self.size
        grey = "grey = {} R + {} G + {} B".format(*GREY_WEIGHTS)
        steps = [
            "take the first frame, and turn it as EXIF orientation says",
            "16 bits to 8 by dividing by 257; transparency composited on white",
            f"{grey if self.channels == 1 else 'RGB'}; colour profiles are ignored",
        ]
        if self.channels == 1:
            steps += [f"a grey picture of {height} x {width} is taken as it is, any other goes on"]
        if self.background == "remove":
            sides = "lighter or darker" if self.invert == "border" else "lighter"
            side = background.WORK_SIDE
            steps += [
                f"area average so that no side is above {side}; subtract a bowl a + b x + c y + "
                "d (x² + y²) fitted to the outermost pixels, and fitted anew "
                f"{background.N_REFITS} times with those far from it trusted less; keep what is "
                f"{sides}, light on dark, stretched to 0 to 255; crop to it"
            ]
        elif self.invert == "border":
            luma = "" if self.channels == 1 else f", of {grey}"
            steps += [
                f"invert (255 - value) if the median of the outermost pixels{luma} is above "
                f"{BRIGHT_BORDER}"
            ]
        resized = "area average" if self.filter == "area" else f"{self.filter} with antialias"
        median = "the border's median" + ", channel by channel" * (self.channels == 3)
        canvas = "black" if self.background == "remove" else median
        steps += {
            "pad": [
                f"{resized} so that the longer side fits {height} x {width}, the shorter side "
                "rounded, at least 1 pixel",
                f"centre on a canvas of {canvas} (rounded down to the upper left)",
            ],
            "crop": [
                f"the largest centred crop of the proportions {height} x {width}, {self.share:g} "
                "of its sides, not rounded",
                f"{resized} to {height} x {width}",
            ],
            "stretch": [f"{resized} to {height} x {width}, whatever the proportions"],
        }[self.fit]
        return (*steps, "round half up to uint8")

    def document(self) -> dict[str, Any]:
        """Return this as plain JSON, its steps in words with it."""
        return {**asdict(self), "size": list(self.size), "steps": list(self.steps)}

    @classmethod
    def read(cls, document: dict[str, Any]) -> "Preprocessing":
        """Return what `document` describes; other keys in it are ignored.

        Raises:
            ValueError, TypeError, KeyError: nonsense, or something is missing.
        """
        stated = {field.name: document[field.name] for field in fields(cls)}
        return cls(**stated | {"size": tuple(stated["size"])})


FASHION_MNIST = Preprocessing((28, 28), 1, "remove", "border", "pad", filter="area")


@dataclass(frozen=True)
class Prepared:
    """The pixels of a picture, uint8 (H, W) or (H, W, 3), and what was found on the way.

    unevenness: of the background, as in `background.Cleared`; None where none was removed.
    n_frames: of which this is the first; 2 where there are several that were not counted.
    """

    pixels: Array
    is_inverted: bool = False
    unevenness: float | None = None
    n_frames: int = 1


def to_pixels(
    picture: Any, how: Preprocessing, *, name: str = "the picture", invert: bool | None = None
) -> Prepared:
    """Prepare a `Picture`, given in any of its ways; a path names itself in errors.

    An array of exactly `how.shape` is pixels as they are; any other is a picture: grey, RGB or
    RGBA. `invert`: True or False overrule the look at the border; None lets it decide.

    Raises:
        InputError: no picture in any of these ways, missing, empty, damaged, too large, or Pillow
            is missing.
    """
    if (path := as_path(picture)) is not None:
        name = str(path)
        picture = read_bytes(path, limit=MAX_PICTURE_BYTES, next_step="name a picture file")
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
        if usable and picture.shape == how.shape:
            return Prepared(picture)
        usable = usable and (picture.ndim == 2 or picture.shape[2:] in ((3,), (4,)))
    if not usable:
        raise InputError(
            f"{name} is {found}",
            expected=f"(N, {', '.join(map(str, how.shape))}) uint8 pixels as they are; or "
            "pictures, each a path, bytes, a file open in binary, a PIL image, or uint8 (h, w), "
            "(h, w, 3) or (h, w, 4)",
            next_step="pass one of these, or a list of them",
        )
    return decode_picture(picture, how, name=name, invert=invert)


def decode_picture(
    source: "bytes | Image.Image | Array",
    how: Preprocessing,
    *,
    name: str = "the picture",
    invert: bool | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Prepared:
    """Prepare an encoded picture (PNG, JPEG, …), or a decoded one.

    Raises:
        InputError: not a picture, truncated, too large, or Pillow is missing.
    """
    with decoding(name):
        picture = open_picture(source, name, max_pixels)
        n_frames = count_frames(picture, source)
        found = prepare(picture, how, invert=invert)
        return found if n_frames == 1 else replace(found, n_frames=n_frames)


def prepare(picture: "Image.Image", how: Preprocessing, *, invert: bool | None = None) -> Prepared:
    """Bring a picture that is not too large to pixels, by the steps of `how`."""
    from PIL import Image

    source, unevenness = Source.of(picture), None
    shown = picture.size if source.is_transposed else picture.size[::-1]
    if how.channels == 1 and is_grey(picture) and shown == how.size and invert is None:
        if picture.mode == "L" and source.orientation == 1:
            return Prepared(np.array(picture))
        box, size = (0, 0, *picture.size), picture.size[::-1]
        values = source.resized(box, size, by="area", channels=1)
        return Prepared(_rounded_off(values, how))
    if how.invert == "never" and invert is None:
        invert = False
    if how.background == "remove":
        cleared = background.remove(_reduced(source, background.WORK_SIDE), invert=invert)
        source = Source(Image.fromarray(cleared.values.astype(np.float32)))
        is_inverted, unevenness = cleared.is_inverted, cleared.unevenness
    else:
        is_inverted = source.border(1)[0] > BRIGHT_BORDER if invert is None else invert
    values = _fitted(source, how)
    if is_inverted and how.background == "keep":
        values = 255 - values
    return Prepared(_rounded_off(values, how), bool(is_inverted), unevenness)


def _rounded_off(values: Array, how: Preprocessing) -> Array:
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8).reshape(how.shape)


def _reduced(source: Source, side: int) -> Array:
    """Return the grey values (h, w) of a picture with no side above `side`."""
    width, height = source.picture.size
    scale = min(1, side / max(width, height))
    size = _rounded(height * scale), _rounded(width * scale)
    box = (0, 0, width, height)
    return source.resized(box, size, by="area", channels=1)[..., 0]


def _fitted(source: Source, how: Preprocessing) -> Array:
    """Return the values (H, W, channels) of what `how` takes of the picture."""
    width, height = source.picture.size
    box: Box = (0, 0, width, height)
    size = how.size[::-1] if source.is_transposed else how.size
    if how.fit == "crop":
        scale = how.share * min(height / size[0], width / size[1])
        x, y = max(0, width - size[1] * scale) / 2, max(0, height - size[0] * scale) / 2
        box = (x, y, width - x, height - y)
    elif how.fit == "pad":
        scale = min(size[0] / height, size[1] / width)
        size = min(size[0], _rounded(height * scale)), min(size[1], _rounded(width * scale))
    values = source.resized(box, size, by=how.filter, channels=how.channels)
    if values.shape[:2] == how.size:
        return values
    level = np.zeros(1) if how.background == "remove" else source.border(how.channels)
    canvas = np.tile(level, (*how.size, 1))
    top, left = (how.size[0] - values.shape[0]) // 2, (how.size[1] - values.shape[1]) // 2
    canvas[top : top + values.shape[0], left : left + values.shape[1]] = values
    return canvas


def _rounded(side: float) -> int:
    return max(1, int(side + 0.5))
