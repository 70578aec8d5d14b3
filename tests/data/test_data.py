import gzip
import hashlib
import http.server
import shutil
import threading

import pytest

from convnet_edge.data import fashion_mnist as data
from convnet_edge.runtime import idx
from convnet_edge.runtime.errors import InputError


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


def test_swapped_files_in_a_folder_are_named(data_dir):
    images, labels = (data_dir / f"{name}.gz" for name in data.TRAIN_FILES)
    shutil.move(images, data_dir / "x")
    shutil.move(labels, images)
    shutil.move(data_dir / "x", labels)
    with pytest.raises(InputError, match="swapped"):
        data.load_training_set("fashion-mnist", data_dir)


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
    sample = idx.read_image_set(*(data.SAMPLE_DIR / f"{n}.gz" for n in data.TRAIN_FILES))
    assert (loaded.images[:10_000] == sample.images).all()
