"""The page's own resizing against Pillow's and against exact averages, run by Node."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from emulated import REPOSITORY
from PIL import Image

from convnet_edge.runtime.pictures import background

WEB = REPOSITORY / "convnet_edge" / "web"
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])
DRIVER = """
import { readFileSync } from "node:fs";
import { fit } from "./fit.js";
const { cases, path } = JSON.parse(readFileSync(0, "utf8"));
const bytes = readFileSync(path);
const answers = cases.map(({ at, width, height, isGrey, how, invert }) => {
  const pixels = bytes.subarray(at, at + 3 * width * height);
  const read = (left, top, columns, rows) => {
    const line = 3 * columns;
    const at = (i) => 3 * ((top + Math.floor(i / line)) * width + left) + (i % line);
    return Uint8Array.from({ length: line * rows }, (_, i) => pixels[at(i)]);
  };
  const picture = { width, height, stride: 3, channels: 3, isGrey, read };
  const { pixels: found, ...more } = fit(picture, how, invert);
  return { ...more, pixels: [...found] };
});
console.log(JSON.stringify(answers));
"""


def how(size, channels=3, **other):
    """Return a contract's `preprocessing`."""
    given = {"background": "keep", "invert": "never", "fit": "stretch", "share": 1.0}
    return {"size": list(size), "channels": channels, "filter": "bilinear"} | given | other


@pytest.fixture
def fit(tmp_path):
    """Return a function that fits (h, w, 3) uint8 pictures in Node, each as its own `how` says."""
    if not shutil.which("node"):
        pytest.skip("no Node.js here")

    def fit(pictures, hows, *, is_grey=False, invert=None):
        path, at, cases = tmp_path / "pictures", 0, []
        path.write_bytes(b"".join(picture.tobytes() for picture in pictures))
        for picture, one in zip(pictures, hows, strict=True):
            height, width = picture.shape[:2]
            cases.append({"at": at, "width": width, "height": height, "how": one})
            cases[-1] |= {"isGrey": is_grey, "invert": invert}
            at += picture.size
        done = subprocess.run(
            ["node", "--input-type=module", "-e", DRIVER],
            input=json.dumps({"cases": cases, "path": str(path)}),
            cwd=WEB, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        for answer, one in zip(answers, hows, strict=True):
            shape = one["size"] if one["channels"] == 1 else [*one["size"], 3]
            answer["pixels"] = np.array(answer["pixels"]).reshape(shape)
        return answers

    return fit


def drawn(rng, height, width):
    """Return a picture with edges and shades: noise hides what a wrong weight does."""
    y, x = np.mgrid[:height, :width]
    shades = [x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), rng.integers(0, 256)]
    picture = np.stack(np.broadcast_arrays(*shades), axis=-1)
    top, left = rng.integers(0, height), rng.integers(0, width)
    picture[top : top + height // 3, left : left + width // 3] = rng.integers(0, 256, 3)
    return np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)


def sizes(rng, n):
    """Return `n` pairs of sizes: up, down, both, and the narrowest."""
    pairs = rng.integers(1, 60, (n, 2, 2)).tolist()
    return [*pairs, [[1, 4000], [20, 30]], [[700, 3], [8, 8]], [[3, 3], [28, 28]]]


def by_pillow(picture, size, kind, box):
    """Return Pillow's pixels, across first and then down: its versions differ in that order."""
    left, top, right, bottom = box
    height, width = size
    narrow = Image.fromarray(picture).resize(
        (width, len(picture)), PILLOW[kind], (left, 0, right, len(picture))
    )
    return np.asarray(narrow.resize((width, height), PILLOW[kind], (0, top, width, bottom)), int)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("share", [1.0, 0.875, 0.4])
def test_crop_is_pillows_resize_of_a_box_in_fractions_of_pixels(fit, kind, share):
    rng = np.random.default_rng(0)
    pairs = sizes(rng, 25)
    pictures = [drawn(rng, *old) for old, _ in pairs]
    found = fit(pictures, [how(new, fit="crop", share=share, filter=kind) for _, new in pairs])
    for picture, (old, new), one in zip(pictures, pairs, found, strict=True):
        scale = max(new[0] / old[0], new[1] / old[1]) / share
        top, left = (max(0, (a - b / scale) / 2) for a, b in zip(old, new, strict=True))
        expected = by_pillow(picture, new, kind, (left, top, old[1] - left, old[0] - top))
        assert np.abs(one["pixels"] - expected).max() <= 2, (old, new)


def averages(values, new_size):
    """Return the exact averages of equal spans along the first axis."""
    n = len(values)
    sums = np.concatenate(
        [np.zeros_like(values[:1], float), np.cumsum(values, axis=0, dtype=float)]
    )
    edges = np.linspace(0, n, new_size + 1)
    at = np.minimum(edges.astype(int), n - 1)
    whole = sums[at] + (edges - at).reshape(-1, *[1] * (values.ndim - 1)) * values[at]
    return np.diff(whole, axis=0) / (n / new_size)


def test_stretch_by_area_is_the_exact_average(fit):
    rng = np.random.default_rng(1)
    pairs = sizes(rng, 25)
    pictures = [drawn(rng, *old) for old, _ in pairs]
    for channels in (1, 3):
        found = fit(pictures, [how(new, channels, filter="area") for _, new in pairs])
        for picture, (_, new), one in zip(pictures, pairs, found, strict=True):
            values = picture @ GREY_WEIGHTS if channels == 1 else picture
            narrow = averages(values.swapaxes(0, 1), new[1]).swapaxes(0, 1)
            assert np.abs(one["pixels"] - averages(narrow, new[0])).max() <= 0.51


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("invert", [None, True, False])
def test_pad_centres_on_the_borders_median_and_inverts_by_its_brightness(fit, channels, invert):
    rng = np.random.default_rng(2)
    pictures = [drawn(rng, *old) for old, _ in sizes(rng, 20)]
    asked = how((24, 20), channels, fit="pad", filter="bicubic", invert="border")
    for picture, one in zip(pictures, fit(pictures, [asked] * 23, invert=invert), strict=True):
        height, width = picture.shape[:2]
        edge = np.ones((height, width), bool)
        edge[1:-1, 1:-1] = False
        luma = np.median(picture[edge] @ GREY_WEIGHTS)
        scale = min(24 / height, 20 / width)
        rows, columns = (max(1, int(side * scale + 0.5)) for side in (height, width))
        small = by_pillow(picture, (rows, columns), "bicubic", (0, 0, width, height))
        canvas = np.empty((24, 20, channels))
        canvas[:] = [luma] if channels == 1 else np.median(picture[edge], axis=0)
        top, left = (24 - rows) // 2, (20 - columns) // 2
        small = (small @ GREY_WEIGHTS)[..., None] if channels == 1 else small
        canvas[top : top + rows, left : left + columns] = small
        assert one["isInverted"] == (luma > 127.5 if invert is None else invert)
        expected = 255 - canvas if one["isInverted"] else canvas
        assert np.abs(one["pixels"].reshape(canvas.shape) - expected).max() <= 2


def test_never_inverts_and_grey_of_the_networks_size_passes_untouched(fit):
    rng = np.random.default_rng(3)
    grey = np.repeat(rng.integers(0, 256, (9, 7, 1), np.uint8), 3, axis=2)
    bright = np.full_like(grey, 250)
    asked = how((9, 7), 1, fit="pad", filter="area", invert="border", background="remove")
    for picture in (grey, bright):
        (one,) = fit([picture], [asked], is_grey=True)
        np.testing.assert_array_equal(one["pixels"], picture[..., 0])
        assert (one["isInverted"], one["unevenness"]) == (None, None)
    (asked_for,) = fit([bright], [asked | {"background": "keep"}], is_grey=True, invert=True)
    assert (asked_for["pixels"] == 5).all()
    (never,) = fit([bright], [how((5, 5), 1)])
    assert (never["pixels"] == 250).all()
    assert not never["isInverted"]


def object_picture(rng, height, width, dark):
    """Return an object on a background that the light falls on from a side, with grains."""
    y, x = np.mgrid[:height, :width]
    light = 150 + 40 * x / width + 25 * y / height
    values = light if dark else 220 - light
    inside = abs(y - height * 0.45) < height * 0.2
    inside &= abs(x - width * 0.55) < width * 0.25 * (1 + y / height) / 2
    values = np.where(inside, values + (-90 if dark else 90), values)
    values = values + rng.normal(0, 2, values.shape)
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("invert", [None, True, False])
def test_background_is_removed_as_in_python(fit, invert):
    rng = np.random.default_rng(4)
    sizes = [(1, 1), (1, 9), (12, 1), (40, 30), (97, 191), (192, 110)]
    pictures = [object_picture(rng, *size, dark) for size in sizes for dark in (True, False)]
    pictures += [drawn(rng, 80, 60), np.full((20, 30, 3), 200, np.uint8)]
    asked = how((28, 28), 1, fit="pad", filter="area", invert="border", background="remove")
    for picture, one in zip(
        pictures, fit(pictures, [asked] * len(pictures), invert=invert), strict=True
    ):
        cleared = background.remove(picture @ GREY_WEIGHTS, invert=invert)
        assert one["isInverted"] == cleared.is_inverted
        assert one["unevenness"] == pytest.approx(cleared.unevenness, abs=1e-9)
        height, width = cleared.values.shape
        scale = min(28 / height, 28 / width)
        rows, columns = (max(1, int(side * scale + 0.5)) for side in (height, width))
        narrow = averages(cleared.values.T, columns).T
        top, left = (28 - rows) // 2, (28 - columns) // 2
        expected = np.zeros((28, 28))
        expected[top : top + rows, left : left + columns] = averages(narrow, rows)
        assert np.abs(one["pixels"] - expected).max() <= 0.51
