import gzip
import hashlib
import http.server
import shutil
import struct
import threading
from functools import partial

import pytest

from convnet_edge.data import fashion_mnist as data
from convnet_edge.runtime.errors import InputError


@pytest.fixture
def data_dir(tmp_path):
    """A folder with the embedded training files under the names of the full ones."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for name in data.TRAIN_FILES:
        shutil.copy(data.SAMPLE_DIR / f"{name}.gz", folder)
    return folder


def load(data_dir=None, name="fashion-mnist"):
    return data.load_training_set(name, data_dir)


def idx(array):
    """Return what an official file holds of `array`."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The embedded training files take the place of the full ones, and no package is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "TRAIN_SHA256", data.SAMPLE_SHA256)
    monkeypatch.setattr(data, "PACKAGED_DIR", tmp_path / "no package")


def test_embedded_images_are_the_official_test_set_and_no_training_images(test_set):
    assert test_set.images.shape == (10_000, 28, 28)
    arrays = test_set.images, test_set.labels.astype("uint8")
    for array, digest in zip(arrays, data.TEST_SHA256, strict=True):
        assert hashlib.sha256(idx(array)).hexdigest() == digest
    names = [f"{data.CLASS_LABELS[label]}\0".encode() for label in test_set.labels]
    pictures = [hashlib.sha256(image).digest() for image in test_set.images]
    listed = b"".join(part for pair in zip(pictures, names, strict=True) for part in pair)
    assert test_set.sha256 == hashlib.sha256(listed).hexdigest()
    sample = load(name="sample")
    assert sample.images.shape == (10_000, 28, 28)
    assert set(sample.labels) == set(test_set.labels) == set(range(10))
    hashes = [
        {hashlib.sha256(image).digest() for image in one.images} for one in (test_set, sample)
    ]
    assert hashes[0].isdisjoint(hashes[1])


@pytest.mark.parametrize("subdir", ["", data.TORCHVISION_SUBDIR])
@pytest.mark.parametrize("plain", [False, True])
def test_folder_is_found_in_every_layout(small, data_dir, tmp_path, subdir, plain):
    folder = tmp_path / "named" / subdir
    folder.mkdir(parents=True)
    for file in data_dir.iterdir():
        content = file.read_bytes()
        name = file.stem if plain else file.name
        (folder / name).write_bytes(gzip.decompress(content) if plain else content)
    loaded = load(tmp_path / "named")
    assert loaded.source == str(folder)
    assert len(loaded) == 10_000


def test_half_a_folder_is_an_error_and_no_reason_to_look_elsewhere(data_dir):
    (data_dir / f"{data.TRAIN_FILES[0]}.gz").unlink()
    with pytest.raises(InputError, match=r"train-images.*does not exist"):
        load(data_dir)


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[: len(content) // 2], "ended before the end-of-stream"),
        (lambda content: flip(content, 1000), "damaged: "),
        (lambda content: flip(gzip.decompress(content), 3), "content sha256"),
        (lambda content: flip(gzip.decompress(content), -2), "content sha256"),
        (lambda content: gzip.decompress(content)[:-1], "content sha256"),
        (lambda content: gzip.compress(gzip.decompress(content) + b"x", 1), "content sha256"),
    ],
)
def test_damaged_images_are_refused_with_the_reason(small, data_dir, damage, reason):
    path = data_dir / f"{data.TRAIN_FILES[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=reason) as caught:
        load(data_dir)
    assert str(path) in caught.value.found


def test_another_data_set_is_refused(data_dir):
    with pytest.raises(InputError, match="Fashion-MNIST's own"):
        load(data_dir)


def test_decompression_bomb_is_refused(small, data_dir, monkeypatch):
    monkeypatch.setattr(data, "MAX_FILE_BYTES", 5_000_000)
    with pytest.raises(InputError, match="content sha256"):
        load(data_dir)


@pytest.mark.parametrize("made", [False, True])
def test_named_folder_without_the_files_is_an_error_and_nothing_else_is_searched(
    small, data_dir, tmp_path, monkeypatch, made
):
    monkeypatch.setattr(data, "PACKAGED_DIR", data_dir)
    monkeypatch.setattr(data, "_download", lambda *_: pytest.fail("downloaded"))
    named = tmp_path / "named"
    if made:
        named.mkdir()
    with pytest.raises(InputError, match=f"{named} holds neither train-images-idx3") as caught:
        load(named)
    assert "leave --data-dir out" in caught.value.next_step
    assert named.exists() == made
    assert load().source == str(data_dir)


def test_folder_named_for_the_sample_is_an_error(tmp_path):
    with pytest.raises(InputError, match="none: the sample is here"):
        load(tmp_path, "sample")


def test_download_by_torchvision_ends_in_the_data_dir(small, data_dir, tmp_path, monkeypatch):
    from torchvision import datasets

    for name in data.TEST_FILES:
        shutil.copy(data.SAMPLE_DIR / f"{name}.gz", data_dir)
    resources = [(file.name, hashlib.md5(file.read_bytes()).hexdigest())
                 for file in sorted(data_dir.iterdir())]  # fmt: skip
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(data_dir))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [mirror])
        assert len(load()) == 10_000
        server.shutdown()
    assert (tmp_path / "data" / data.TORCHVISION_SUBDIR).is_dir()


def test_failed_download_names_other_ways_that_work(small, data_dir, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(InputError, match="download failed") as caught:
        load()
    assert "--data sample" in caught.value.next_step
    assert "apt install dataset-fashion-mnist" in caught.value.next_step
    monkeypatch.setattr(data, "PACKAGED_DIR", data_dir)
    assert len(load()) == 10_000


@pytest.mark.slow
def test_package_data_is_the_official_training_set():
    loaded = load()
    assert loaded.images.shape == (60_000, 28, 28)
    assert (loaded.images[:10_000] == load(name="sample").images).all()
