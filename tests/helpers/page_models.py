"""A model of forty colours, for pages that show more than the shipped models can."""

from __future__ import annotations

import base64
import hashlib
import io
import zlib
from pathlib import Path

import numpy as np
import onnx
import tiny
from onnx import numpy_helper
from PIL import Image

from convnet_edge.bundling import site
from convnet_edge.runtime import archive, contract
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.runtime.pictures import decode
from convnet_edge.runtime.pictures.preprocess import Preprocessing

COLOURS = tuple(
    f"{light} {hue}"
    for light in ("pale", "light", "middling", "strong", "dark")
    for hue in ("red", "orange", "yellow", "green", "cyan", "blue", "violet", "pink")
)
SIZE = (32, 24)  # H, W
CROP = Preprocessing(SIZE, 3, share=0.9)


def colour_values():
    """Return (40, 3) of 0 to 1, in the order of COLOURS."""
    values = []
    for light in (0.9, 0.75, 0.55, 0.4, 0.2):
        for i in range(8):
            turn = 2 * np.pi * (i / 8 - np.arange(3) / 3)
            values.append(np.clip(light + 0.3 * np.cos(turn), 0, 1))
    return np.array(values)


def colour_set(n: int, seed: int = 0) -> ImageSet:
    """Return images (n, H, W, 3), each of one colour with grains in it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(COLOURS)
    values = colour_values()[labels][:, None, None]
    noisy = values + rng.normal(0, 0.25, (n, *SIZE, 3))
    images = (np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    return ImageSet(images, labels, hashlib.sha256(images.tobytes()).hexdigest(), "colours")


def colour_model(test) -> bytes:
    """Return a sealed model for (3, 32, 24): the colour nearest to the picture's mean."""
    values = colour_values()
    weights, bias = 200 * values.T, -100 * (values**2).sum(axis=1)
    proto = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 18]>
        colours (float[batch, 3, {SIZE[0]}, {SIZE[1]}] images)
            => (float[batch, {len(values)}] logits) {{
            means = GlobalAveragePool (images)
            flat = Flatten <axis = 1> (means)
            logits = Gemm (flat, weights, bias)
        }}""")
    arrays = {"weights": weights, "bias": bias}
    proto.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    images = colour_set(6, seed=1).images
    logits = (images / 255).mean(axis=(1, 2)) @ weights + bias
    document = {
        "class_labels": list(COLOURS),
        "input": {"name": "images", "dtype": "float32", "shape": [3, *SIZE]},
        "output": {"name": "logits"},
        "decision": tiny.DECISION | {"threshold": 0.5},
        "measured": {"sha256": test.sha256},
        "goldens": {"images": packed(images), "logits": logits.tolist(), "tolerance": 1e-3},
        "preprocessing": CROP.document()
        | {"samples": [sample("wide.png"), sample("turned.jpg")]},
    }  # fmt: skip
    return contract.seal(proto.SerializeToString(), document)


def sample(name: str):
    """Return an encoded picture with its pixels by Pillow, across first and then down."""
    y, x = np.mgrid[:90, :160]
    shades = np.stack([x * 255 / 159, y * 255 / 89, 128 + 100 * np.sin(x / 9)], axis=-1)
    picture, exif, stored = Image.fromarray(shades.astype(np.uint8)), Image.Exif(), io.BytesIO()
    if name.endswith(".jpg"):
        exif[0x0112] = 6
        picture.save(stored, "JPEG", exif=exif, quality=95)
        picture = Image.open(stored).transpose(Image.Transpose.ROTATE_270)
    else:
        picture.save(stored, "PNG")
    encoded = base64.b64encode(stored.getvalue()).decode()
    return {"name": name, "encoded": encoded, "pixels": packed(np.asarray(crop(picture)))}


def crop(picture: Image.Image) -> Image.Image:
    """Return what `CROP` makes of a picture, by Pillow."""
    scale = CROP.share * min(picture.height / SIZE[0], picture.width / SIZE[1])
    x, y = (picture.width - SIZE[1] * scale) / 2, (picture.height - SIZE[0] * scale) / 2
    bilinear, (width, height) = Image.Resampling.BILINEAR, picture.size
    narrow = picture.resize((SIZE[1], height), bilinear, (x, 0, width - x, height))
    return narrow.resize(SIZE[::-1], bilinear, (0, y, SIZE[1], height - y))


def oddities(folder: Path, n_each: int) -> list[Path]:
    """Write PNG and JPEG of random sizes: grey, RGB and RGBA, turned by EXIF in all ways."""
    rng, paths = np.random.default_rng(0), []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for i, mode in enumerate(("L", "RGB", "RGBA") * n_each):
            height, width = (int(2**side) for side in rng.uniform(1, 7, 2))
            cells = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, len(mode)), np.uint8)
            values = cells.repeat(3, 0).repeat(3, 1)[:height, :width]
            suffix = "jpg" if mode != "RGBA" and i % 2 else "png"
            paths.append(folder / f"{orientation}-{i}-{mode}-{width}x{height}.{suffix}")
            Image.fromarray(values[..., 0] if mode == "L" else values).save(
                paths[-1], exif=exif, quality=90
            )
    return paths


def refused_pictures() -> dict[str, bytes]:
    """Return encoded pictures that page and Node refuse, by what each is called."""
    names = {one: one for one in decode.FORMATS} | {"WEBP": "WebP"}
    refused = {
        f"a {name} file": encoded("L", file_format)
        for file_format, name in names.items()
        if file_format not in ("PNG", "JPEG")
    }
    for name, start in (
        ("HEIC", b"\0\0\0\x20ftypheic"), ("AVIF", b"\0\0\0\x20ftypavif"), ("PDF", b"%PDF-1.7"),
        ("SVG", b"<svg xmlns"),
    ):  # fmt: skip
        refused[f"a {name} file"] = start + bytes(60)
    profile = bytes(100_000)  # as those of CMYK: the frame's header comes late
    cmyk = encoded("CMYK", "JPEG", icc_profile=profile)
    refused["a CMYK JPEG file"] = cmyk[:2] + b"\xff" + cmyk[2:]  # which may fill any gap
    return refused


def encoded(mode: str, file_format: str, **options) -> bytes:
    stored = io.BytesIO()
    Image.new(mode, (28, 28), 77).save(stored, file_format, **options)
    return stored.getvalue()


def packed(pixels):
    return base64.b64encode(zlib.compress(pixels.tobytes())).decode()


def colour_page(out: Path, ort_web: Path, *, has_tests: bool = True) -> Path:
    """Write a page of the model of colours."""
    test = colour_set(200)
    content = {f"{archive.MODELS}colours.onnx": colour_model(test)}
    if has_tests:
        content[archive.TEST_SET] = archive.encode_test_set(test)
    about = {
        "convnet_edge": "0",
        "class_labels": list(COLOURS),
        "models": [{"name": "colours.onnx"}],
    }
    site.write(out, content, about, ort_web)
    return out
