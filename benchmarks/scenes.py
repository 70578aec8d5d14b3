"""Draw photographs: garments on paper that is lit in several ways, and what is no garment.

For `photographs.py`, which measures a model on them. Every scene is (h, w, 3) or (h, w, 1) of 0 to
255 and follows from its random generator alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from convnet_edge.runtime.contract import Array

Rng = np.random.Generator
Draw = Callable[[tuple[int, int], Rng], Array]
INK = 25.0


def cloudy(size: tuple[int, int], rng: Rng, n_cells: int = 3) -> Array:
    """Return fractal noise, 0 to 1: some `n_cells` hills along a side, and finer ones on them."""
    total = np.zeros(size, np.float32)
    for k in range(5):
        cells = Image.fromarray(rng.random((n_cells * 2**k,) * 2, np.float32) / 2**k)
        total += np.asarray(cells.resize(size[::-1], Image.Resampling.BILINEAR))
    return (total - total.min()) / np.ptp(total)


def plain(low: int, high: int, tint: float = 0.0) -> Draw:
    """Return what draws an even background of a grey between `low` and `high`, tinted."""
    return lambda size, rng: (
        np.ones((*size, 1), np.float32)
        * np.clip(rng.integers(low, high + 1) * (1 + tint * rng.uniform(-1, 1, 3)), 0, 255)
    )


def one_side(size: tuple[int, int], rng: Rng) -> Array:
    """Draw light paper that a window lights from one side: a third darker on the other, or half."""
    y, x = np.mgrid[-0.5 : 0.5 : size[0] * 1j, -0.5 : 0.5 : size[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)) / (abs(np.cos(angle)) + abs(np.sin(angle)))
    return (rng.uniform(205, 250) * (1 - rng.uniform(0.2, 0.5) * (along + 0.5)))[..., None]


def lamp(size: tuple[int, int], rng: Rng) -> Array:
    """Draw light paper under a lamp, from which the corners are farther and lit aslant."""
    (h, w), (middle_y, middle_x) = size, rng.uniform(0.3, 0.7, 2)
    y, x = np.mgrid[:h, :w] / max(size)
    far = (y - middle_y * h / max(size)) ** 2 + (x - middle_x * w / max(size)) ** 2
    return (rng.uniform(205, 250) / (1 + far / rng.uniform(0.8, 1.6) ** 2) ** 1.5)[..., None]


def landscape(size: tuple[int, int], rng: Rng) -> Array:
    """Draw a sky with clouds, ridges in the haze, and a meadow or water with trees."""
    (h, w), horizon = size, rng.uniform(0.35, 0.7)
    y = np.linspace(0, 1, h)[:, None]
    zenith, haze = rng.uniform((40, 90, 150), (120, 160, 230)), rng.uniform((170,) * 3, (250,) * 3)
    canvas = zenith + (haze - zenith) * np.clip(y / horizon, 0, 1)[..., None] * np.ones((h, w, 1))
    clouds = np.clip((cloudy(size, rng) - rng.uniform(0.4, 0.65)) * 3, 0, 1)[..., None]
    canvas += (rng.uniform(215, 255) - canvas) * clouds
    ground = rng.uniform((30, 60, 15), (140, 140, 80))
    n_ridges = int(rng.integers(1, 4))
    for ridge in range(n_ridges):
        profile = cloudy((1, w), rng, int(rng.integers(2, 5)))[0] - 0.5
        top = horizon - (0.35 * profile + 0.08) * (1 - 0.5 * ridge / n_ridges)
        near = (ridge + 1) / (n_ridges + 1)
        texture = 0.75 + 0.5 * cloudy(size, rng, 12)[..., None]
        colour = (haze * 0.6 * (1 - near) + ground * near) * texture
        canvas = np.where((y > top)[..., None], colour, canvas)
    field = ground * rng.uniform(0.8, 1.5) if rng.random() < 0.7 else zenith * 0.8
    grain = 0.6 + 0.8 * cloudy(size, rng, 24)[..., None]
    canvas = np.where((y > horizon)[..., None], field * grain, canvas)
    return _trees(np.clip(canvas, 0, 255), horizon, rng)


def _trees(canvas: Array, horizon: float, rng: Rng) -> Array:
    h, w = canvas.shape[:2]
    picture = Image.fromarray(canvas.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 14))):
        foot, x = rng.uniform(horizon, 0.5 + horizon / 2) * h, rng.uniform(0, w)
        tall, leaf = rng.uniform(0.1, 0.35) * h, rng.uniform((10, 40, 5), (60, 100, 40))
        pen.rectangle((x - tall / 30, foot - tall / 2, x + tall / 30, foot), fill=(50, 35, 25))
        for part in range(12):
            up, wide = foot - tall * (0.25 + 0.75 * part / 12), tall * 0.3 * (1 - part / 13)
            shade = tuple(int(value) for value in leaf * rng.uniform(0.8, 1.4))
            pen.ellipse((x - wide, up - wide / 2, x + wide, up + wide / 2), fill=shade)
    return np.asarray(picture, np.float32)


def noise(size: tuple[int, int], rng: Rng) -> Array:
    """Draw noise: grains of one pixel up to a tenth of the picture, grey or coloured."""
    grain, n_channels = int(2 ** rng.uniform(0, 6.5)), int(rng.choice([1, 3]))
    cells = rng.integers(0, 256, (size[0] // grain + 1, size[1] // grain + 1, n_channels))
    return np.repeat(np.repeat(cells, grain, 0), grain, 1)[: size[0], : size[1]] * np.ones(3)


def gradient(size: tuple[int, int], rng: Rng) -> Array:
    """Draw a gradient from one colour to another, straight or round, and no object."""
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle) if rng.random() < 0.5 else np.hypot(x, y)
    share = ((along - along.min()) / np.ptp(along))[..., None]
    return rng.uniform(0, 255, 3) * share + rng.uniform(0, 255, 3) * (1 - share)


def text(size: tuple[int, int], rng: Rng) -> Array:
    """Draw a page of text, cut anywhere."""
    page = Image.new("RGB", size[::-1], (int(rng.integers(225, 256)),) * 3)
    height = int(rng.integers(12, 60))
    font, pen = ImageFont.load_default(height), ImageDraw.Draw(page)
    for y in range(int(rng.integers(-20, 60)), size[0], int(height * 1.4)):
        words = "".join(rng.choice(list("etaoinshrdlu    "), int(rng.integers(20, 120))))
        pen.text((int(rng.integers(-30, 60)), y), words, font=font, fill=(20, 20, 20))
    return np.asarray(page, np.float32)


FULL_FRAME = "full frame, light grey"
BACKGROUNDS: dict[str, Draw] = {
    "pure white": plain(255, 255),
    "even light grey": plain(200, 230),
    FULL_FRAME: plain(200, 230),
    "mid grey": plain(110, 160),
    "light from one side": one_side,
    "light from a lamp": lamp,
    "slight tint": plain(190, 235, tint=0.08),
}
NEGATIVES: dict[str, Draw] = {
    "landscapes": landscape,
    "noise": noise,
    "flat": plain(0, 255, tint=0.2),
    "gradients": gradient,
    "text": text,
}


def photograph(kind: str, rng: Rng, garment: Array) -> Image.Image:
    """Draw a scene, `garment` lying on it if it is a background: with blur, noise, as a JPEG."""
    height, width = (int(n) for n in rng.integers(600, 1001, 2))
    size = (height, height if kind == FULL_FRAME else width)
    scene = (BACKGROUNDS | NEGATIVES)[kind](size, rng)
    if kind in BACKGROUNDS:
        side = int(min(size) * (1 if kind == FULL_FRAME else rng.uniform(0.45, 0.95)))
        top, left = (int(rng.integers(0, n - side + 1)) for n in size)
        ink = np.asarray(Image.fromarray(garment).resize((side, side), Image.Resampling.BICUBIC))
        scene[top : top + side, left : left + side] *= 1 - ink[..., None] / 255 * (1 - INK / 255)
    scene = scene + rng.standard_normal(size, np.float32)[..., None] * rng.uniform(1, 5)
    picture = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8).squeeze())
    encoded = io.BytesIO()
    picture.filter(ImageFilter.BoxBlur(rng.uniform(0, 2))).save(encoded, "JPEG", quality=85)
    return Image.open(encoded)
