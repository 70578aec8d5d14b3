import json
import random
import struct
import subprocess
import sys
import time
import warnings
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from tiny import encode

from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.pictures import decode, preprocess
from convnet_edge.runtime.pictures.preprocess import FASHION_MNIST, Preprocessing

SHAPE = (28, 28)
GREY = Preprocessing(SHAPE, 1, "keep", "border", "pad", filter="area")
RNG = np.random.default_rng(0)


def pixels_of(picture, how=GREY, **more):
    return preprocess.decode_picture(picture, how, **more).pixels


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
    pixels = pixels_of(data)
    assert np.abs(pixels.astype(int) - dark_image).max() <= deviation


@pytest.fixture
def square():
    return np.pad(np.full((12, 12), 255, np.uint8), 8)


@pytest.mark.parametrize("mode", ["YCbCr", "RGBX"])  # others: test_resize
def test_decode_picture_of_a_rare_mode_gives_nearly_the_same(square, mode):
    data = encode(Image.fromarray(square).convert("RGB").convert(mode), "TIFF")
    assert np.abs(pixels_of(data).astype(int) - square).max() <= 1


def test_a_mode_that_is_slow_to_set_up_is_converted_once():
    data = encode(Image.new("RGB", (200_000, 2)).convert("LAB"), "TIFF")
    start = time.process_time()
    assert pixels_of(data).max() <= 1
    assert time.process_time() - start < 1


@pytest.mark.parametrize("steps", [("HSV",), ("RGBA", "RGBa"), ("P", "PA")])
def test_modes_that_only_decoders_make_are_grey_too(square, monkeypatch, steps):
    picture = Image.fromarray(square).convert("RGB")
    for mode in steps:
        picture = picture.convert(mode)
    monkeypatch.setattr(Image, "open", lambda *_, **__: picture)
    assert np.abs(pixels_of(b"").astype(int) - square).max() <= 1


def test_decode_picture_of_a_very_dark_16_bit_picture_stays_dark():
    deep = Image.fromarray(np.full(SHAPE, 200, np.uint16))
    assert pixels_of(encode(deep)).max() == 1


def test_decode_picture_dark_on_light_is_inverted_unless_overruled(dark_image):
    photo = encode(Image.fromarray(255 - dark_image).convert("RGB"))
    found = preprocess.decode_picture(photo, GREY)
    np.testing.assert_array_equal(found.pixels, dark_image)
    assert found.is_inverted
    np.testing.assert_array_equal(pixels_of(photo, invert=False), 255 - dark_image)
    np.testing.assert_array_equal(pixels_of(photo, replace(GREY, invert="never")), 255 - dark_image)
    plain = encode(Image.fromarray(dark_image))
    np.testing.assert_array_equal(pixels_of(plain, invert=True), 255 - dark_image)


@pytest.mark.parametrize("how", [GREY, FASHION_MNIST, replace(GREY, fit="crop", share=0.5)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_grey_picture_of_the_networks_size_is_untouched_unless_asked(how, orientation):
    bright = np.linspace(140, 250, 28 * 28).reshape(SHAPE).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.rot90(bright).copy() if orientation == 6 else bright)
    found = preprocess.decode_picture(encode(stored, exif=exif), how)
    np.testing.assert_array_equal(found.pixels, bright)
    assert (found.is_inverted, found.unevenness) == (False, None)
    asked = preprocess.decode_picture(encode(stored, exif=exif), how, invert=True)
    assert asked.is_inverted
    assert not np.array_equal(asked.pixels, bright)


@pytest.mark.parametrize(("height", "width"), [(56, 28), (28, 100), (1, 1), (1, 300), (300, 1)])
def test_fit_keeps_proportions_and_centres(height, width):
    grey = np.zeros((height, width), np.uint8)
    pixels = pixels_of(Image.fromarray(grey), invert=True)
    assert pixels.shape == SHAPE
    assert (pixels == 255).all(), "the canvas takes the border's colour"
    grey[height // 2, width // 2] = 255
    marked = pixels_of(Image.fromarray(grey), invert=False)
    assert marked[13:15, 13:15].max() == marked.max() > 0


def test_canvas_takes_the_borders_median_with_corners_once():
    grey = np.array([[1, 2, 3], [4, 100, 6], [7, 8, 9]], np.uint8)
    found = pixels_of(Image.fromarray(grey), replace(GREY, size=(3, 5)))
    assert found[0].tolist() == [5, 1, 2, 3, 5]


def bomb(side):
    """Return a PNG of one pixel that says it has side x side."""
    data = encode(Image.new("L", (1, 1)))
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def slow_scans(mode):
    """Return a progressive JPEG whose last scan comes a thousand times."""
    data = encode(Image.new(mode, (3000, 3000)), "JPEG", progressive=True)
    last = data[data.rindex(decode.JPEG_SCAN) : -2]
    return data[:-2] + 1000 * last + data[-2:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: bomb(50_000),
        lambda: bomb(10_000),
        lambda: b"P5 1 10000001 255\n",
        lambda: b"P3 1200 1200 255\n" + bytes(9),
        lambda: b"P6 1200 1200 9\n" + bytes(9),
        lambda: slow_scans("L"),
        lambda: slow_scans("CMYK"),
    ],
    ids=["bomb", "many pixels", "long", "plain PPM", "odd PPM", "many scans", "of four inks"],
)
def test_what_takes_too_long_or_too_much_is_refused_before_it_unfolds(make):
    data, start = make(), time.process_time()
    with pytest.raises(InputError, match=r"too large: .* pixels"):
        pixels_of(data)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(("mode", "file_format"), [("RGB", "WEBP"), ("CMYK", "TIFF")])
def test_what_takes_more_a_pixel_may_have_half_as_many(mode, file_format):
    for side, made in ((90, "PNG"), (70, file_format)):
        picture = Image.new("L" if made == "PNG" else mode, (side, side))
        assert pixels_of(encode(picture, made), max_pixels=10_000).shape == SHAPE
    with pytest.raises(InputError, match="90 x 90, more than 5,000 pixels"):
        pixels_of(encode(Image.new(mode, (90, 90)), file_format), max_pixels=10_000)


WATCHED = """
import re, sys
from pathlib import Path
from convnet_edge.runtime.pictures.preprocess import FASHION_MNIST, Preprocessing, to_pixels

def peak_kib():  # not ru_maxrss, which starts at the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

ways = [FASHION_MNIST, Preprocessing((224, 224), 3, "keep", "border", "stretch", filter="bicubic")]
ways += [Preprocessing((224, 224), 3, "keep", "border", fit, filter="area")
         for fit in ("pad", "crop", "stretch")]
for how in ways:
    to_pixels(Path(sys.argv[1]), how)
before = peak_kib()
for path in sys.argv[2:]:
    for how in ways:
        assert (to_pixels(Path(path), how).pixels == 0).all()
print(peak_kib() - before)
"""


@pytest.mark.slow
def test_memory_stays_bounded_whatever_the_proportions(tmp_path):
    command = [sys.executable, "-c", WATCHED]
    for width, height in ((9, 9), (4_000_000, 2), (1, 5_000_000), (3000, 2700)):
        command.append(str(tmp_path / f"{width}.png"))
        Image.new("RGB", (width, height), "black").save(command[-1], compress_level=1)
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 300 * 1024, "8 million pixels are 32 MB in Pillow"


@pytest.mark.parametrize("file_format", [*decode.FORMATS, "MPO"])
def test_damage_of_every_kind_is_an_error_of_three_parts(square, file_format):
    whole, rng = encode(Image.fromarray(square).convert("RGB"), file_format), random.Random(0)
    refused = 0
    for number in range(150):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(min(len(data), 200 if number % 2 else len(data)))] = rng.choice(
                (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))
            )
        if number % 3 == 0:
            del data[rng.randrange(len(data)) :]
        try:
            assert pixels_of(bytes(data)).shape == SHAPE
        except InputError as error:
            refused += 1
            assert error.expected in ("a whole picture", decode.EXPECTED)
    assert refused > 20


def test_only_pillows_own_warnings_are_silenced(square, monkeypatch):
    """In a thread, others' would be lost while a picture is read, or for good after it."""
    monkeypatch.setattr(
        preprocess, "prepare", lambda *_, **__: warnings.warn("another's", stacklevel=1)
    )
    with pytest.raises(UserWarning, match="another's"):
        pixels_of(encode(Image.fromarray(square)))


@pytest.mark.parametrize("suffix", [".eps", ".png"])
def test_postscript_of_any_name_is_not_a_picture_and_starts_nothing(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("gs was started"))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="not a picture"):
        preprocess.to_pixels(path, GREY)


@pytest.mark.parametrize("shut", ["ICO", "TGA", "DDS", "JPEG2000", "PCX", "SGI"])
def test_formats_that_people_do_not_name_stay_shut(square, shut):
    with pytest.raises(InputError, match="is not a picture; expected PNG, JPEG, GIF"):
        pixels_of(encode(Image.fromarray(square), shut))


def test_damaged_picture_is_to_be_whole_and_a_text_to_be_a_picture(square):
    damaged = encode(Image.fromarray(square), "JPEG")[:-40]
    with pytest.raises(
        InputError, match=r"is damaged: .*; expected a whole picture; next: save it"
    ):
        pixels_of(damaged)
    with pytest.raises(InputError, match=r"is not a picture; .*; next: name a picture file$"):
        pixels_of(b"plain text")


@pytest.mark.parametrize("file_format", [*decode.FORMATS, "MPO"])
def test_formats_that_people_name_are_open(square, file_format):
    options = {"quality": 100} if file_format in ("JPEG", "MPO", "WEBP") else {}
    data = encode(Image.fromarray(square).convert("RGB"), file_format, **options)
    assert np.abs(pixels_of(data).astype(int) - square).max() <= 5


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_counts(square, file_format):
    first = Image.fromarray(square).convert("RGB")
    more = {"save_all": True, "append_images": [Image.new("RGB", SHAPE, "red")]}
    found = pixels_of(encode(first, file_format, **more))
    assert np.abs(found.astype(int) - square).max() <= 24


@pytest.mark.parametrize(
    ("file_format", "n_frames"), [("GIF", 4), ("PNG", 4), ("WEBP", 4), ("TIFF", 2), ("MPO", 1)]
)
def test_frames_are_counted_where_that_is_quick(file_format, n_frames, monkeypatch):
    """A TIFF's are not: that takes the square of their number."""
    shades = [Image.new("RGB", SHAPE, shade) for shade in ("red", "blue", "green", "white")]
    data = encode(shades[0], file_format, save_all=True, append_images=shades[1:])
    assert preprocess.decode_picture(data, GREY).n_frames == n_frames
    assert preprocess.decode_picture(encode(shades[0], file_format), GREY).n_frames == 1
    monkeypatch.setattr(decode, "MAX_COUNTED_BYTES", 10)
    assert preprocess.decode_picture(data, GREY).n_frames == min(n_frames, 2)


@pytest.mark.parametrize("orientation", [1, 8])
def test_a_removed_background_leaves_the_object_as_it_is_shown_on_black(orientation):
    photo = np.full((600, 900), 230, np.uint8)
    photo[100:400, 300:500] = 90
    photo[100:200, 300:400] = 30
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo if orientation == 1 else np.rot90(photo, -1)
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    found = preprocess.decode_picture(data, FASHION_MNIST)
    assert found.is_inverted
    assert found.unevenness is not None
    assert found.pixels.max() == 255
    assert found.pixels.argmax() // 28 < 14, "the darkest is up and left"
    assert not found.pixels[:, [0, 1, -2, -1]].any(), "taller than wide, and cropped to that"
    plain = preprocess.decode_picture(255 - photo, FASHION_MNIST)
    assert not plain.is_inverted
    assert np.abs(plain.pixels.astype(int) - found.pixels).max() <= 2


@pytest.mark.parametrize(
    "how",
    [FASHION_MNIST, GREY, Preprocessing((224, 192), 3, share=0.875, filter="bicubic"),
     Preprocessing((1, 4096), 3, "keep", "border", "stretch")],
)  # fmt: skip
def test_preprocessing_is_plain_json_that_reads_back(how):
    document = json.loads(json.dumps(how.document()))
    assert Preprocessing.read({**document, "samples": [], "pixel_tolerance": 2}) == how
    assert document["steps"] == list(how.steps)
    assert how.shape == (how.size if how.channels == 1 else (*how.size, 3))


def test_steps_in_words_differ_with_each_setting():
    how = Preprocessing((28, 20), 1)
    changes = [{}, {"size": (20, 28)}, {"channels": 3}, {"background": "remove"},
               {"background": "remove", "invert": "border"}, {"invert": "border"}, {"fit": "pad"},
               {"fit": "stretch"}, {"share": 0.5}, {"filter": "area"},
               {"filter": "bicubic"}]  # fmt: skip
    assert len({replace(how, **change).steps for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", [28]), ("size", [28, 0]), ("size", [28.0, 28]), ("size", None), ("size", "28"),
        ("channels", 2), ("channels", True), ("channels", [1]), ("background", "blur"),
        ("invert", None), ("fit", "PAD"), ("share", 0), ("share", 1.01), ("share", "1"),
        ("share", float("nan")), ("filter", "lanczos"), ("filter", {}),
    ],
)  # fmt: skip
def test_nonsense_in_place_of_preprocessing_is_refused(name, value):
    with pytest.raises((ValueError, TypeError)):
        Preprocessing.read({**GREY.document(), name: value})
    with pytest.raises(KeyError):
        Preprocessing.read({key: GREY.document()[key] for key in GREY.document() if key != name})


def test_background_of_colours_cannot_be_removed():
    with pytest.raises(ValueError, match="grey"):
        Preprocessing((28, 28), 3, "remove")


def test_arrays_of_the_pixels_own_shape_are_pixels_and_others_pictures():
    how = Preprocessing((8, 6), 3, "keep", "border", "pad")
    pixels = RNG.integers(128, 256, (8, 6, 3), np.uint8)
    found = preprocess.to_pixels(pixels, how)
    assert found.pixels is pixels
    assert preprocess.to_pixels(pixels[..., 0], how).pixels.shape == (8, 6, 3)
    see_through = np.dstack([pixels, np.zeros((8, 6), np.uint8)])
    assert not preprocess.to_pixels(see_through, how).pixels.any()  # white, so inverted
    with pytest.raises(InputError, match=r"expected \(N, 8, 6, 3\) uint8"):
        preprocess.to_pixels(pixels.astype(float), how)


def phone_picture(brand):
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(40)


@pytest.mark.parametrize(
    ("brand", "advice"),
    [
        (b"heic", "is a HEIC picture; .*pip install pillow-heif, or save it as PNG or JPEG"),
        (b"mif1", "is a HEIC picture; .*pillow-heif"),
        (b"avif", "is an AVIF picture; .*next: save it as PNG or JPEG"),
    ],
)
def test_phone_pictures_are_named_with_the_way_out(monkeypatch, brand, advice):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with pytest.raises(InputError, match=advice):
        pixels_of(phone_picture(brand))


def test_heic_is_opened_by_its_package_where_that_is_installed(square, monkeypatch):
    def register_heif_opener():
        Image.register_open("HEIF", lambda *_: Image.fromarray(square))

    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    package = SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    pixels_of(encode(Image.fromarray(square)))
    assert "HEIF" not in Image.OPEN, "only when such a file is met"
    np.testing.assert_array_equal(pixels_of(phone_picture(b"heic")), square)


@pytest.mark.parametrize("values", [[np.nan, 1], [1, np.nan], [np.inf, 1], [-1, 1], [70_000, 1]])
def test_values_beyond_16_bits_are_refused(values):
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    with pytest.raises(InputError, match="values outside 0 to 65535"):
        pixels_of(data)
