import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from convnet_edge.runtime import preprocess
from convnet_edge.runtime.errors import InputError

SHAPE = (28, 28)
RNG = np.random.default_rng(0)


def encode(picture, file_format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def dark_image():
    """Anything with a dark border, as most images of the data set have."""
    image = np.zeros(SHAPE, np.uint8)
    image[2:-2, 2:-2] = RNG.integers(0, 256, (24, 24))
    return image


def transparent(image):
    canvas = np.zeros((*SHAPE, 4), np.uint8)
    canvas[..., 3] = image  # black ink, as opaque as the garment is bright
    return canvas


@pytest.mark.parametrize(
    ("store", "file_format", "deviation"),
    [
        (lambda image: image, "PNG", 0),
        (lambda image: image.astype(np.uint16) * 257, "PNG", 0),
        (lambda image: (image / 255).astype(np.float32), "TIFF", 1),
        (lambda image: image.astype(np.float32), "TIFF", 1),
        (transparent, "PNG", 1),
    ],
)
def test_decode_picture_of_any_type_gives_the_image(dark_image, store, file_format, deviation):
    data = encode(Image.fromarray(store(dark_image)), file_format)
    pixels = preprocess.decode_picture(data, SHAPE)
    assert np.abs(pixels.astype(int) - dark_image).max() <= deviation


@pytest.fixture
def square():
    return np.pad(np.full((12, 12), 255, np.uint8), 8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK", "YCbCr", "RGBX"])
def test_decode_picture_of_any_mode_gives_nearly_the_same(square, mode):
    picture = Image.fromarray(square).convert("RGB").convert(mode)
    data = encode(picture, "TIFF" if mode in ("CMYK", "YCbCr", "RGBX") else "PNG")
    assert np.abs(preprocess.decode_picture(data, SHAPE).astype(int) - square).max() <= 1


@pytest.mark.parametrize("steps", [("HSV",), ("RGBA", "RGBa"), ("P", "PA")])
def test_modes_that_only_decoders_make_are_grey_too(square, monkeypatch, steps):
    picture = Image.fromarray(square).convert("RGB")
    for mode in steps:
        picture = picture.convert(mode)
    monkeypatch.setattr(Image, "open", lambda _: picture)
    assert np.abs(preprocess.decode_picture(b"", SHAPE).astype(int) - square).max() <= 1


def test_decode_picture_of_a_very_dark_16_bit_picture_stays_dark():
    deep = Image.fromarray(np.full(SHAPE, 200, np.uint16))
    assert preprocess.decode_picture(encode(deep), SHAPE).max() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_picture_turns_as_exif_says(dark_image, orientation):
    turns = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.T, 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turns[orientation](dark_image))
    pixels = preprocess.decode_picture(encode(Image.fromarray(stored), exif=exif), SHAPE)
    np.testing.assert_array_equal(pixels, dark_image)


def test_decode_picture_dark_on_light_is_inverted_unless_overruled(dark_image):
    photo = encode(Image.fromarray(255 - dark_image))
    np.testing.assert_array_equal(preprocess.decode_picture(photo, SHAPE), dark_image)
    kept = preprocess.decode_picture(photo, SHAPE, invert=False)
    np.testing.assert_array_equal(kept, 255 - dark_image)
    plain = encode(Image.fromarray(dark_image))
    turned = preprocess.decode_picture(plain, SHAPE, invert=True)
    np.testing.assert_array_equal(turned, 255 - dark_image)


def test_palette_transparency_counts(dark_image):
    picture = Image.fromarray(dark_image).convert("P")
    data = encode(picture, transparency=0)
    pixels = preprocess.decode_picture(data, SHAPE, invert=False)
    assert pixels[0, 0] == 255


@pytest.mark.parametrize(("height", "width"), [(56, 28), (28, 100), (1, 1), (1, 300), (300, 1)])
def test_fit_keeps_proportions_and_centres(height, width):
    grey = np.zeros((height, width))
    pixels = preprocess.fit(grey, SHAPE, invert=True)
    assert pixels.shape == SHAPE
    assert (pixels == 255).all(), "the canvas takes the border's colour"
    grey[height // 2, width // 2] = 255
    marked = preprocess.fit(grey, SHAPE, invert=False)
    assert marked[13:15, 13:15].max() == marked.max() > 0


def test_area_average_agrees_with_a_slow_oracle():
    grey = RNG.uniform(0, 255, (45, 31))
    fast = preprocess.area_weights(45, 28) @ grey @ preprocess.area_weights(31, 19).T
    # a fine grid on which both sizes divide
    fine = grey.repeat(28, axis=0).repeat(19, axis=1)
    slow = fine.reshape(28, 45, 19, 31).mean(axis=(1, 3))
    np.testing.assert_allclose(fast, slow, atol=1e-9)


def test_canvas_takes_the_borders_median_with_corners_once():
    grey = np.array([[1.0, 2, 3], [4, 100, 6], [7, 8, 9]])
    assert preprocess.fit(grey, (3, 5))[0].tolist() == [5, 1, 2, 3, 5]


def bomb(side):
    """Return a PNG of one pixel that says it has side x side."""
    data = encode(Image.new("L", (1, 1)))
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("side", [50_000, 10_000])
def test_decode_picture_of_a_bomb_is_refused_before_it_unfolds(side):
    with pytest.raises(InputError, match="too large"):
        preprocess.decode_picture(bomb(side), SHAPE)


def test_decode_picture_of_damage_says_which(dark_image):
    data = encode(Image.fromarray(dark_image))
    with pytest.raises(InputError, match="not a picture"):
        preprocess.decode_picture(b"hello", SHAPE)
    with pytest.raises(InputError, match="damaged"):
        preprocess.decode_picture(data[: len(data) // 2], SHAPE)
