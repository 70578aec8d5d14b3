"""Find Fashion-MNIST, read it, and prove by its content that it is the right one.

Images stay (N, H, W) uint8 up to the model's edge. Its files are IDX, gzip or plain:
http://yann.lecun.com/exdb/mnist/ (big-endian magic 0, 0, type, n_dims; then the sizes; the values).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.measure.accuracy import ImageSet

Array = np.ndarray[Any, np.dtype[Any]]

CLASS_LABELS = (
    "T-Shirt", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle Boot",
)  # fmt: skip

SAMPLE_DIR = Path(__file__).resolve().parents[1] / "sample"
PACKAGED_DIR = Path("/usr/share/datasets/fashion-mnist")  # Debian and Ubuntu: dataset-fashion-mnist
TORCHVISION_SUBDIR = "FashionMNIST/raw"
TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

TRAIN_SHA256 = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
)
TEST_SHA256 = (
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
SAMPLE_SHA256 = (
    "ed2e37ed5a3a57d212141a69fe0a0de5a7126ffba14ac3f7e76f5f52cc04b1f0",
    "a69f2dad024ca220a8c4d85f621fdf929042d40c444abde2868903e9220ad517",
)

MAX_FILE_BYTES = 256 * MIB
REFETCH = "fetch the file again; the four originals are at github.com/zalandoresearch/fashion-mnist"
_UINT8 = 0x08
_N_DIMS = {"images": 3, "labels": 1}


def load_test_set() -> ImageSet:
    """Load the 10,000 test images: embedded, identical to the official ones, offline.

    Raises:
        InputError: the installed files are missing or damaged.
    """
    return _load(SAMPLE_DIR, TEST_FILES, TEST_SHA256)


def load_training_set(name: str, data_dir: Path) -> ImageSet:
    """Load the training images of `name`: "fashion-mnist" (60,000) or "sample" (10,000 embedded).

    Looks for "fashion-mnist" in `data_dir`, then where Debian's package puts it, then downloads it
    into `data_dir`. The sample never takes its place.

    Raises:
        InputError: not found and not downloadable, or found with the wrong content.
    """
    if name == "sample":
        return _load(SAMPLE_DIR, TRAIN_FILES, SAMPLE_SHA256)
    for folder in (data_dir, data_dir / TORCHVISION_SUBDIR, PACKAGED_DIR):
        if any(_find(folder, file) for file in TRAIN_FILES):
            return _load(folder, TRAIN_FILES, TRAIN_SHA256)
    _download(data_dir)
    return _load(data_dir / TORCHVISION_SUBDIR, TRAIN_FILES, TRAIN_SHA256)


def read_image_set(images_path: Path, labels_path: Path) -> ImageSet:
    """Read one IDX pair, gzip or plain (told by content, not by name).

    Raises:
        InputError: missing, truncated, wrong magic, swapped, or counts that do not match.
    """
    images, images_sha256 = _read_idx(images_path, "images")
    labels, labels_sha256 = _read_idx(labels_path, "labels")
    if len(images) != len(labels):
        raise InputError(
            f"{len(images)} images and {len(labels)} labels in {images_path.parent}",
            expected="one label an image",
            next_step="take both files from the same data set",
        )
    return ImageSet(images, labels, images_sha256, labels_sha256, str(images_path.parent))


def _find(folder: Path, file: str) -> Path | None:
    for path in (folder / file, folder / f"{file}.gz"):
        with contextlib.suppress(OSError):  # a folder that may not be entered has nothing for us
            if path.exists():
                return path
    return None


def _load(folder: Path, files: tuple[str, str], sha256: tuple[str, str]) -> ImageSet:
    images_path, labels_path = (_find(folder, file) or folder / f"{file}.gz" for file in files)
    images = read_image_set(images_path, labels_path)
    found = (images.images_sha256, images.labels_sha256)
    for path, is_hash, expected in zip((images_path, labels_path), found, sha256, strict=True):
        if is_hash != expected:
            raise InputError(
                f"{path} has content sha256 {is_hash[:16]}…",
                expected=f"{expected[:16]}…, Fashion-MNIST's own (after decompression)",
                next_step="remove the file, or name another folder with --data-dir",
            )
    return images


def _read_idx(path: Path, holds: str) -> tuple[Array, str]:
    """Return the values of an IDX file of "images" or "labels", and the SHA-256 of its content."""
    data = read_bytes(path, limit=MAX_FILE_BYTES, next_step=REFETCH)
    magic = bytes((0, 0, _UINT8, _N_DIMS[holds]))
    try:
        if data[:2] == b"\x1f\x8b":
            data = _decompress(data)
        if data[:4] != magic:
            raise ValueError(f"it starts with {data[:4].hex() or 'nothing'}")
        shape = struct.unpack_from(f">{_N_DIMS[holds]}I", data, 4)
        offset = 4 + 4 * len(shape)
        if len(data) - offset != math.prod(shape) or not len(data) > offset:
            raise ValueError(f"{len(data) - offset:,} values for {' x '.join(map(str, shape))}")
    except (ValueError, zlib.error, struct.error) as error:
        swapped = data[:3] == magic[:3] and data[3:4] in (b"\x01", b"\x03")
        raise InputError(
            f"{path} is damaged: {error}",
            expected=f"a whole IDX file of {holds} (first bytes {magic.hex()}), plain or gzip",
            next_step="images and labels are swapped" if swapped else REFETCH,
        ) from error
    array = np.frombuffer(data, np.uint8, offset=offset).reshape(shape)
    return array, hashlib.sha256(data).hexdigest()


def _decompress(data: bytes) -> bytes:
    """Decompress one gzip stream, refusing to grow beyond MAX_FILE_BYTES."""
    stream = zlib.decompressobj(wbits=31)
    content = stream.decompress(data, MAX_FILE_BYTES)
    if not stream.eof:
        raise ValueError("it grows without end" if stream.unconsumed_tail else "it is truncated")
    return content


def _download(data_dir: Path) -> None:
    try:
        from torchvision import datasets

        with contextlib.redirect_stdout(io.StringIO()):
            datasets.FashionMNIST(root=str(data_dir), train=True, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise InputError(
            f"Fashion-MNIST is neither in {data_dir} nor in {PACKAGED_DIR}, and the download "
            f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            expected="its four IDX files, or a network",
            next_step="apt install dataset-fashion-mnist, or copy the files into a folder and "
            "name it with --data-dir, or try --data sample (10,000 images)",
        ) from error
