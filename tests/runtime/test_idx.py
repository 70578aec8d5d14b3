import gzip
import struct

import numpy as np
import pytest

from convnet_edge.runtime import idx
from convnet_edge.runtime.errors import InputError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 1], np.uint8)


@pytest.fixture
def pair(tmp_path):
    images, labels = tmp_path / "images.gz", tmp_path / "labels.gz"
    images.write_bytes(idx.compress(IMAGES))
    labels.write_bytes(idx.compress(LABELS))
    return images, labels


def test_read_image_set_round_trips_gzip_and_plain(pair):
    images, labels = pair
    loaded = idx.read_image_set(images, labels)
    np.testing.assert_array_equal(loaded.images, IMAGES)
    np.testing.assert_array_equal(loaded.labels, LABELS)
    images.write_bytes(gzip.decompress(images.read_bytes()))
    again = idx.read_image_set(images, labels)
    assert again.images_sha256 == loaded.images_sha256


def test_compress_twice_gives_the_same_bytes():
    assert idx.compress(IMAGES) == idx.compress(IMAGES)


def cut(data):
    return data[: len(data) // 2]


def header_only(data):
    return gzip.compress(gzip.decompress(data)[:6])


def wrong_magic(data):
    return gzip.compress(b"\x01\x02\x03\x04" + gzip.decompress(data)[4:])


def short_inside(data):
    return gzip.compress(gzip.decompress(data)[:-1])


def too_long_inside(data):
    return gzip.compress(gzip.decompress(data) + b"x")


def nothing_inside(data):
    return gzip.compress(struct.pack(">4sIII", b"\0\0\x08\x03", 0, 28, 28))


def flipped(data):
    return data[:20] + bytes([data[20] ^ 255]) + data[21:]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "truncated"),
        (header_only, "ends within its header"),
        (wrong_magic, "starts with 01020304"),
        (short_inside, "holds 23 bytes"),
        (too_long_inside, "holds 25 bytes"),
        (nothing_inside, "more than none"),
        (flipped, "damaged|declares"),
    ],
)
def test_read_image_set_of_damaged_images_gives_its_own_error(pair, damage, reason):
    images, labels = pair
    images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(InputError, match=reason):
        idx.read_image_set(images, labels)


def test_read_image_set_of_swapped_files_says_so(pair):
    images, labels = pair
    with pytest.raises(InputError, match="swapped"):
        idx.read_image_set(labels, images)


def test_read_image_set_with_counts_that_differ_is_refused(pair):
    images, labels = pair
    labels.write_bytes(idx.compress(np.zeros(3, np.uint8)))
    with pytest.raises(InputError, match=r"2 images.*3 labels"):
        idx.read_image_set(images, labels)


def test_read_image_set_of_a_decompression_bomb_is_refused(pair, monkeypatch):
    images, labels = pair
    monkeypatch.setattr(idx, "MAX_FILE_BYTES", 1000)
    images.write_bytes(gzip.compress(bytes(100_000)))
    with pytest.raises(InputError, match="without end"):
        idx.read_image_set(images, labels)
