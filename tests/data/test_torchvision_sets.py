"""Files in the formats of torchvision's sets, made here, opened by torchvision's own classes."""

import bz2
import hashlib
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from convnet_edge.data import cache, dataset, torchvision_sets
from convnet_edge.data.options import PreparationOptions
from convnet_edge.data.torchvision_sets import open_set
from convnet_edge.runtime.errors import InputError, MissingPackageError

N_TRAIN, N_TEST = 5, 3


@pytest.fixture
def datasets():
    return pytest.importorskip("torchvision.datasets")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def write_idx(folder, random, prefix=""):
    """MNIST's files, with images as (part, image, label)."""
    folder.mkdir(parents=True)
    expected = []
    for part, name, n in (("train", "train", N_TRAIN), ("test", "t10k", N_TEST)):
        images = random.integers(0, 256, (n, 28, 28), np.uint8)
        labels = random.integers(0, 10, n, np.uint8)
        header = struct.pack(">IIII", 0x803, n, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 0x801, n)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
        expected += [
            (part, image, label) for image, label in zip(images, labels.tolist(), strict=True)
        ]
    return expected


def require_equal(found, expected, names):
    """Prove that a set yields these pictures, in order, with the names of their classes."""
    assert len(found) == len(expected)
    for (picture, name, part), (expected_part, image, label) in zip(found, expected, strict=True):
        assert (part, name) == (expected_part, names[label])
        np.testing.assert_array_equal(np.asarray(picture), image)


@pytest.mark.parametrize("name", ["KMNIST", "kmnist"])
def test_set_in_idx_files_gives_its_pictures_with_their_classes_and_splits(
    tmp_path, datasets, random, name
):
    expected = write_idx(tmp_path / "KMNIST/raw", random)
    found = open_set(name, tmp_path)
    assert found.name == "KMNIST"
    require_equal(found, expected, datasets.KMNIST.classes)


def test_set_of_several_variants_is_opened_by_the_one_named(tmp_path, datasets, random):
    raw = tmp_path / "EMNIST/raw"
    expected = write_idx(raw, random)
    for path in sorted(raw.iterdir()):
        part, *rest = path.name.split("-")
        path.rename(raw / "-".join(["emnist-letters", part.replace("t10k", "test"), *rest]))
    require_equal(
        open_set("EMNIST-letters", tmp_path), expected, ["N/A", *"abcdefghijklmnopqrstuvwxyz"]
    )


def test_set_in_pickles_gives_its_pictures(tmp_path, datasets, random, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names, expected = [f"class {n}" for n in range(10)], []

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name, part, n):
        pixels, labels = random.integers(0, 256, (n, 3, 32, 32), np.uint8), [*range(n)]
        expected.extend((part, one.transpose(1, 2, 0), at) for at, one in enumerate(pixels))
        return write(name, {"data": pixels.reshape(n, -1), "labels": labels})

    made = datasets.CIFAR10
    monkeypatch.setattr(made, "train_list", [batch(f"data_batch_{n}", "train", n) for n in (1, 2)])
    monkeypatch.setattr(made, "test_list", [batch("test_batch", "test", N_TEST)])
    md5 = write("batches.meta", {"label_names": names})[1]
    monkeypatch.setattr(
        made, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5}
    )
    require_equal(open_set("cifar10", tmp_path), expected, names)


def test_set_without_names_of_classes_has_their_numbers(tmp_path, datasets, random):
    expected = []
    for part, name, n in (("train", "usps.bz2", N_TRAIN), ("test", "usps.t.bz2", N_TEST)):
        images = random.integers(0, 256, (n, 16, 16), np.uint8)
        rows = (
            " ".join(
                [str(at + 1), *(f"{i}:{v / 127.5 - 1:.9f}" for i, v in enumerate(one.ravel()))]
            )
            for at, one in enumerate(images)
        )
        (tmp_path / name).write_bytes(bz2.compress("\n".join(rows).encode()))
        # torchvision cuts what it reads off after the point
        expected += [(part, image, at) for at, image in enumerate(images)]
    for (picture, name, part), (expected_part, image, label) in zip(
        open_set("USPS", tmp_path), expected, strict=True
    ):
        assert (part, name) == (expected_part, str(label))
        assert np.abs(np.asarray(picture, int) - image).max() <= 1


def eurosat(tmp_path, random):
    expected = []
    for at, name in enumerate(("Forest", "River")):
        folder = tmp_path / "eurosat/2750" / name
        folder.mkdir(parents=True)
        for n in range(2):
            pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_{n}.png")
            expected.append((None, pixels, at))
    return expected


def test_set_without_splits_publishes_none(tmp_path, datasets, random):
    expected = eurosat(tmp_path, random)
    found = open_set("EuroSAT", tmp_path)
    require_equal(found, expected, ["Forest", "River"])
    assert open_set("EuroSAT", tmp_path).state == found.state
    path = tmp_path / "eurosat/2750/River/River_0.png"
    path.write_bytes(path.read_bytes() + b"more")
    assert open_set("EuroSAT", tmp_path).state != found.state


def test_set_is_decoded_once_for_all_starts(tmp_path, datasets, random, monkeypatch):
    expected = eurosat(tmp_path / "data", random)
    options = PreparationOptions(
        data="torchvision:eurosat", data_dir=tmp_path / "data", cache=tmp_path / "cache"
    )
    found = [dataset.load(options)]
    monkeypatch.setattr(cache, "to_pixels", None)
    found.append(dataset.load(options))
    for one in found:
        assert (one.class_labels, one.preprocessing.shape) == (("Forest", "River"), (64, 64, 3))
        sides = [(i, n) for side in (one.train, one.validation, one.test)
                 for i, n in zip(side.images, side.labels, strict=True)]  # fmt: skip
        pixels = {(image.tobytes(), label) for image, label in sides}
        assert pixels == {(image.tobytes(), label) for _, image, label in expected}


def test_picture_of_a_set_that_is_damaged_is_an_error_that_says_which(tmp_path, datasets, random):
    eurosat(tmp_path, random)
    path = tmp_path / "eurosat/2750/River/River_0.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="picture 2 of EuroSAT cannot be read"):
        list(open_set("EuroSAT", tmp_path))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: b"", lambda data: b"x" * 99]
)
def test_set_that_is_damaged_or_not_there_is_an_error(tmp_path, datasets, random, damage):
    with pytest.raises(InputError, match=r"KMNIST in .* cannot be read: Dataset not found"):
        open_set("KMNIST", tmp_path)
    write_idx(tmp_path / "KMNIST/raw", random)
    path = tmp_path / "KMNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"KMNIST in .* cannot be read") as raised:
        open_set("KMNIST", tmp_path)
    assert "download=True" not in str(raised.value)
    assert "--data-dir" in raised.value.next_step


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError("no network"), InputError, "no network"),
        (RuntimeError(), InputError, "RuntimeError"),
        (ModuleNotFoundError("No module", name="scipy"), MissingPackageError, "pip install scipy"),
    ],
)
def test_set_is_downloaded_only_where_no_folder_is_named(
    tmp_path, datasets, monkeypatch, error, kind, said
):
    calls = []

    def download(self):
        calls.append(str(self.root))
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.MNIST, "download", download)
    with pytest.raises(InputError):
        open_set("mnist", tmp_path)
    assert calls == []
    with pytest.raises(kind, match=said):
        open_set("mnist", None)
    assert calls == ["data"]


def test_unknown_set_is_an_error_that_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean CIFAR100 or CIFAR10") as raised:
        open_set("cifar-1000", tmp_path)
    assert "EuroSAT" in raised.value.expected
    with pytest.raises(InputError, match="name one of these"):
        open_set("", tmp_path)


def test_class_names_that_two_classes_share_are_told_apart():
    class Pictures:
        classes = (("crane", "bird"), ("maillot",), ("crane", "bird"))

    expected = ["crane, bird (0)", "maillot", "crane, bird (2)"]
    assert torchvision_sets._class_labels(Pictures()) == expected


def test_every_set_that_is_named_exists_and_takes_its_splits(datasets):
    from inspect import signature

    for name, words in torchvision_sets.KNOWN.values():
        takes = signature(getattr(datasets, name.partition("-")[0])).parameters
        assert bool(words) == bool({"train", "split"} & set(takes)), name
        assert ("download" in takes or "kwargs" in takes) or name in torchvision_sets.NO_DOWNLOAD


def test_torch_is_imported_only_where_a_set_is_opened():
    code = "import sys, convnet_edge.data.torchvision_sets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
