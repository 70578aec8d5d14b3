import gzip
import hashlib
import http.server
import shutil
import struct
import threading

import numpy as np
import pytest

from convnet_edge.data import fashion_mnist as data
from convnet_edge.runtime.errors import InputError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 1], np.uint8)


def test_test_set_is_the_official_one(test_set):
    assert test_set.images.shape == (10_000, 28, 28)
    assert (test_set.images_sha256, test_set.labels_sha256) == data.TEST_SHA256


def test_sample_is_10_000_training_images_in_ten_classes(tmp_path):
    sample = data.load_training_set("sample", tmp_path)
    assert sample.images.shape == (10_000, 28, 28)
    assert set(sample.labels) == set(range(10))


def test_test_images_are_no_training_images(test_set, tmp_path):
    sample = data.load_training_set("sample", tmp_path)

    def hashes(images):
        return {hashlib.sha256(image.tobytes()).digest() for image in images}

    assert hashes(test_set.images).isdisjoint(hashes(sample.images))


def test_folder_with_other_content_is_refused_by_hash(data_dir):
    with pytest.raises(InputError, match="Fashion-MNIST's own"):
        data.load_training_set("fashion-mnist", data_dir)


@pytest.mark.parametrize("subdir", ["", data.TORCHVISION_SUBDIR])
@pytest.mark.parametrize("plain", [False, True])
def test_folder_is_found_in_every_layout(data_dir, tmp_path, monkeypatch, subdir, plain):
    monkeypatch.setattr(data, "TRAIN_SHA256", data.SAMPLE_SHA256)
    monkeypatch.setattr(data, "PACKAGED_DIR", tmp_path / "no package")
    folder = tmp_path / "named" / subdir
    folder.mkdir(parents=True)
    for file in data_dir.iterdir():
        content = file.read_bytes()
        name = file.stem if plain else file.name
        (folder / name).write_bytes(gzip.decompress(content) if plain else content)
    loaded = data.load_training_set("fashion-mnist", tmp_path / "named")
    assert loaded.source == str(folder)
    assert len(loaded) == 10_000


def test_package_folder_is_used_without_a_data_dir(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "TRAIN_SHA256", data.SAMPLE_SHA256)
    monkeypatch.setattr(data, "PACKAGED_DIR", data_dir)
    assert len(data.load_training_set("fashion-mnist", tmp_path / "absent")) == 10_000


def test_half_a_folder_is_an_error_and_no_reason_to_look_elsewhere(data_dir):
    (data_dir / f"{data.TRAIN_FILES[1]}.gz").unlink()
    with pytest.raises(InputError, match=r"train-labels.*does not exist"):
        data.load_training_set("fashion-mnist", data_dir)


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture
def pair(tmp_path):
    images, labels = tmp_path / "images.gz", tmp_path / "labels.gz"
    images.write_bytes(gzip.compress(idx(IMAGES)))
    labels.write_bytes(gzip.compress(idx(LABELS)))
    return images, labels


def test_gzip_and_plain_files_hold_the_same_images(pair):
    images, labels = pair
    loaded = data.read_image_set(images, labels)
    np.testing.assert_array_equal(loaded.images, IMAGES)
    np.testing.assert_array_equal(loaded.labels, LABELS)
    images.write_bytes(gzip.decompress(images.read_bytes()))
    again = data.read_image_set(images, labels)
    assert again.images_sha256 == loaded.images_sha256 == hashlib.sha256(idx(IMAGES)).hexdigest()


def within(change):
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: content[:20] + bytes([content[20] ^ 255]) + content[21:], "damaged"),
        (within(lambda content: content[:6]), "requires a buffer"),
        (within(lambda content: b"\x01\x02\x03\x04" + content[4:]), "starts with 01020304"),
        (within(lambda content: content[:-1]), "23 values for 2 x 3 x 4"),
        (within(lambda content: content + b"x"), "25 values for 2 x 3 x 4"),
        (lambda content: idx(np.zeros((0, 28, 28), np.uint8)), "0 values for 0 x 28 x 28"),
    ],
)
def test_damaged_images_are_refused_with_the_reason(pair, damage, reason):
    images, labels = pair
    images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(InputError, match=reason):
        data.read_image_set(images, labels)


def test_swapped_files_and_counts_that_differ_are_named(pair):
    images, labels = pair
    with pytest.raises(InputError, match="swapped"):
        data.read_image_set(labels, images)
    labels.write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(InputError, match=r"2 images.*3 labels"):
        data.read_image_set(images, labels)


def test_decompression_bomb_is_refused(pair, monkeypatch):
    monkeypatch.setattr(data, "MAX_FILE_BYTES", 1000)
    pair[0].write_bytes(gzip.compress(bytes(100_000)))
    with pytest.raises(InputError, match="without end"):
        data.read_image_set(*pair)


@pytest.fixture
def mirror(data_dir):
    """Serve the folder on the loopback address, as the download's mirror."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(data_dir))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_download_by_torchvision_ends_in_the_data_dir(data_dir, mirror, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(data, "TRAIN_SHA256", data.SAMPLE_SHA256)
    monkeypatch.setattr(data, "PACKAGED_DIR", tmp_path / "no package")
    for name in data.TEST_FILES:
        shutil.copy(data.SAMPLE_DIR / f"{name}.gz", data_dir)
    resources = [(file.name, hashlib.md5(file.read_bytes()).hexdigest())
                 for file in sorted(data_dir.iterdir())]  # fmt: skip
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [mirror])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    loaded = data.load_training_set("fashion-mnist", tmp_path / "new")
    assert len(loaded) == 10_000
    assert (tmp_path / "new" / data.TORCHVISION_SUBDIR).is_dir()


def test_failed_download_names_every_other_way(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(data, "PACKAGED_DIR", tmp_path / "no package")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(InputError, match="download failed") as caught:
        data.load_training_set("fashion-mnist", tmp_path / "absent")
    assert "--data sample" in caught.value.next_step


@pytest.mark.slow
def test_package_data_is_the_official_training_set(tmp_path):
    loaded = data.load_training_set("fashion-mnist", tmp_path)
    assert loaded.images.shape == (60_000, 28, 28)
    sample = data.read_image_set(*(data.SAMPLE_DIR / f"{n}.gz" for n in data.TRAIN_FILES))
    assert (loaded.images[:10_000] == sample.images).all()
