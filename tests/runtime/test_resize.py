"""Any picture, any fit and filter, against slow float64 arithmetic of its own."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageCms
from tiny import encode

from convnet_edge.runtime.pictures.preprocess import Preprocessing, decode_picture

LUMA = np.array([0.299, 0.587, 0.114])
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (9, 11, 4), np.uint8).repeat(5, 0).repeat(4, 1)[:41, :43]
COLOURS[..., 3] = np.linspace(0, 255, 43).astype(np.uint8)
GREY, RGB = COLOURS[..., 0], COLOURS[..., :3]
WAYS = [
    Preprocessing(size, channels, fit=fit, filter=name, share=0.8)
    for size, channels, fit, name in product(
        [(16, 20)], [1, 3], ["pad", "crop", "stretch"], ["area", "bilinear", "bicubic"]
    )
]


def area(size, span, n):
    """Return (n, size): how much of each pixel lies in each part."""
    edges = np.linspace(*span, n + 1)
    pixels = np.arange(size)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return shares.clip(0)


def kernel(name, x):
    x = np.abs(x)
    if name == "bilinear":
        return (1 - x).clip(0)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(name, size, span, n):
    scale = (span[1] - span[0]) / n
    centres = span[0] + (np.arange(n) + 0.5) * scale
    distances = np.arange(size) + 0.5 - centres[:, None]
    shares = area(size, span, n) if name == "area" else kernel(name, distances / max(scale, 1))
    return shares / shares.sum(axis=1, keepdims=True)


def oracle(shown, how, *, is_clipped=True):
    """Return the (H, W[, 3]) float64 values of `shown`, (h, w, 4) of 0 to 255."""
    alpha = shown[..., 3:] / 255
    values = shown[..., :3] * alpha + 255 * (1 - alpha)
    h, w = values.shape[:2]
    new, spans = list(how.size), [(0, h), (0, w)]
    if how.fit == "pad":
        scale = min(how.size[0] / h, how.size[1] / w)
        new = [max(1, int(side * scale + 0.5)) for side in (h, w)]
    if how.fit == "crop":
        side = min(h / how.size[0], w / how.size[1]) * how.share / 2
        spans = [
            (n / 2 - side * m, n / 2 + side * m) for n, m in zip((h, w), how.size, strict=True)
        ]
    down, across = (weights(how.filter, *a) for a in zip((h, w), spans, new, strict=True))
    # the first pass is stored as pixels, which clips where bicubic overshoots
    limits = (0, 255) if is_clipped else (None, None)
    if new[1] > spans[1][1] - spans[1][0] and new[0] < spans[0][1] - spans[0][0]:
        shorter = np.einsum("ih,hwc->iwc", down, values).clip(*limits)
        small = np.einsum("iwc,jw->ijc", shorter, across)
    else:
        narrower = np.einsum("hwc,jw->hjc", values, across).clip(*limits)
        small = np.einsum("ih,hjc->ijc", down, narrower)
    small = small.clip(0, 255)
    ring = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    ring = ring if min(h, w) > 1 else values.reshape(-1, 3)
    if how.channels == 1:
        ring, small = ring @ LUMA, small @ LUMA
    canvas = np.full(how.shape, np.median(ring, 0))
    top, left = (how.size[0] - new[0]) // 2, (how.size[1] - new[1]) // 2
    canvas[top : top + new[0], left : left + new[1]] = small
    return canvas


def opaque(values):
    """Return grey or RGB values as (h, w, 4)."""
    colours = values if values.ndim == 3 else np.stack([values] * 3, 2)
    return np.dstack([colours, np.full(values.shape[:2], 255)]).astype(np.float64)


def palette(*, transparent):
    picture = Image.fromarray(RGB).quantize(16)
    shown = opaque(np.asarray(picture.convert("RGB")))
    if not transparent:
        return encode(picture), shown
    shown[np.asarray(picture) == 3, 3] = 0
    return encode(picture, transparency=3), shown


def inks():
    picture = Image.fromarray(COLOURS, "CMYK")
    black = 255 - COLOURS[..., 3:].astype(np.float64)
    return encode(picture, "TIFF"), opaque((255 - RGB.astype(np.float64)) * black / 255)


def transparent_grey():
    shown = np.dstack([GREY, GREY, GREY, COLOURS[..., 3]]).astype(np.float64)
    return encode(Image.fromarray(np.dstack([GREY, COLOURS[..., 3]]))), shown


def profiled():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encode(Image.fromarray(RGB), icc_profile=profile), opaque(RGB)


def deep():
    values = RNG.integers(0, 65536, (31, 29), np.uint16)
    return encode(Image.fromarray(values)), opaque(values / 257)


def tall_float():
    values = RNG.uniform(1, 255, (3500, 20)).astype(np.float32)
    return encode(Image.fromarray(values), "TIFF"), opaque(values)


def frames():
    first = Image.fromarray(GREY).convert("P", palette=Image.Palette.WEB)
    more = [Image.new("P", first.size, 200)] * 2
    shown = opaque(np.asarray(first.convert("RGB")))
    return encode(first, "GIF", save_all=True, append_images=more), shown


def plain(values):
    return encode(Image.fromarray(values)), opaque(values)


ODDITIES = {  # what is encoded, and how it is to be seen
    "grey": plain(GREY),
    "colours": plain(RGB),
    "portrait": plain(np.ascontiguousarray(RGB[:, :17])),
    "3 x 3": plain(RGB[::15, ::17]),
    "1 x 4000": plain(RNG.integers(0, 256, (1, 4000, 3), np.uint8)),
    "4000 x 1": plain(RNG.integers(0, 256, (4000, 1), np.uint8)),
    "two blocks": plain(RNG.integers(0, 256, (40, 2100, 3), np.uint8)),
    "1 x 70000": plain(RNG.integers(0, 256, (1, 70_000, 3), np.uint8)),
    "3500 x 20": plain(RNG.integers(0, 256, (3500, 20, 3), np.uint8)),
    "one row to many": plain(RNG.integers(0, 256, (2, 3000, 3), np.uint8)),
    "RGBA": (encode(Image.fromarray(COLOURS)), COLOURS.astype(np.float64)),
    "LA": transparent_grey(),
    "palette": palette(transparent=False),
    "palette with transparency": palette(transparent=True),
    "CMYK": inks(),
    "16 bits": deep(),
    "1 bit": (encode(Image.fromarray(GREY > 99)), opaque((GREY > 99) * 255)),
    "float": (encode(Image.fromarray(GREY / np.float32(255)), "TIFF"), opaque(GREY)),
    "tall float": tall_float(),
    "profile": profiled(),
    "several frames": frames(),
}
EXACT = ("grey", "colours", "portrait", "3 x 3", "1 x 4000", "4000 x 1", "16 bits")


@pytest.mark.parametrize("name", ODDITIES)
def test_picture_of_any_kind_is_what_slow_arithmetic_makes_of_it(name):
    data, shown = ODDITIES[name]
    for how in WAYS:
        found = decode_picture(data, how).pixels
        assert found.shape == how.shape
        is_clipped = name not in ("16 bits", "float", "tall float")
        error = np.abs(found - oracle(shown, how, is_clipped=is_clipped)).max()
        limit = 1.5  # Pillow rounds once or twice on the way
        if how.filter == "area":
            limit = 0.51 if name in EXACT else 1.01
        assert error <= limit, (how, error)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_by_exif_commutes_with_every_fit_and_filter(orientation):
    turn = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(turn(RGB))), exif=exif)
    for how in WAYS:
        error = np.abs(decode_picture(data, how).pixels - oracle(opaque(RGB), how)).max()
        assert error <= (0.51 if how.filter == "area" else 1.5), how


@pytest.mark.parametrize("filter_name", ["area", "bilinear", "bicubic"])
def test_a_picture_of_many_tiles_is_the_average_of_all_of_it(filter_name):
    """Its values are sums of one of the row and one of the column: so are averages."""
    down, across = RNG.integers(0, 120, 1600), RNG.integers(0, 120, 2400)
    picture = (down[:, None] + across).astype(np.uint8)
    how = Preprocessing((224, 200), 3, fit="stretch", filter=filter_name)
    expected = (weights(filter_name, 1600, (0, 1600), 224) @ down)[:, None] + (
        weights(filter_name, 2400, (0, 2400), 200) @ across
    )
    found = decode_picture(np.stack([picture] * 3, 2), how).pixels
    assert np.abs(found - expected[..., None]).max() <= (0.51 if filter_name == "area" else 1.01)
    grey = decode_picture(picture, replace(how, channels=1)).pixels
    assert np.abs(found[..., 0].astype(int) - grey).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_border_of_bright_luma_inverts_every_channel(channels):
    for border, is_inverted in (((255, 160, 0), True), ((255, 30, 255), False)):
        picture = np.full((20, 30, 3), border, np.uint8)
        picture[5:15, 5:20] = (10, 20, 200)
        how = Preprocessing((8, 12), channels, invert="border", fit="stretch")
        found = decode_picture(picture, how)
        kept = decode_picture(picture, replace(how, invert="never")).pixels
        assert found.is_inverted == is_inverted
        expected = 255 - kept if is_inverted else kept
        assert np.abs(found.pixels.astype(int) - expected).max() <= 1
