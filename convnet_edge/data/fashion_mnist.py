"""Find Fashion-MNIST, read it, and prove by its content that it is the right one.

Images stay (N, H, W) uint8 up to the model's edge. Its files are IDX, gzip or plain: a header, then
the values (http://yann.lecun.com/exdb/mnist/). Their digest proves them whole, so nothing of the
header is checked beside it.
"""

import contextlib
import gzip
import hashlib
import io
import os
import zlib
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError, first_line
from ..runtime.files import MIB, read_bytes
from ..runtime.measure.accuracy import ImageSet, digest
from ..runtime.options import require

CLASS_LABELS = (
    "T-Shirt", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle Boot",
)  # fmt: skip

SAMPLE_DIR = Path(__file__).resolve().parents[1] / "sample"
DEFAULT_DIR = Path("data")
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
REFETCH = (
    "fetch the file again (the four originals are at github.com/zalandoresearch/fashion-mnist), or "
    "name another folder with --data-dir"
)
SIDE = 28  # pixels
IMAGES_HEADER, LABELS_HEADER = 16, 8  # bytes


def load_test_set() -> ImageSet:
    """Load the 10,000 test images: embedded, identical to the official ones, offline.

    Raises:
        InputError: the installed files are missing or damaged.
    """
    return _load(SAMPLE_DIR, TEST_FILES, TEST_SHA256)


def load_training_set(name: str, data_dir: Path | None) -> ImageSet:
    """Load the training images of `name`: "fashion-mnist" (60,000) or "sample" (10,000 embedded).

    Looks for "fashion-mnist" in `data_dir` alone; with None in `DEFAULT_DIR`, then where Debian's
    package puts it, then downloads it into `DEFAULT_DIR`. The sample never takes its place.

    Raises:
        InputError: not in the folder named, not found and not downloadable, or found with the
            wrong content; or a folder named for the sample.
    """
    if name == "sample":
        require(
            data_dir is None, f"--data-dir {data_dir}", "none: the sample is here", "--data-dir"
        )
        return _load(SAMPLE_DIR, TRAIN_FILES, SAMPLE_SHA256)
    first = data_dir or DEFAULT_DIR
    folders = (first, first / TORCHVISION_SUBDIR, *(() if data_dir else (PACKAGED_DIR,)))
    holding = (one for one in folders if any(_find(one, file) for file in TRAIN_FILES))
    found = next(holding, None)
    if data_dir and not found:
        raise InputError(
            f"--data-dir {data_dir} holds neither {' nor '.join(TRAIN_FILES)}",
            expected=f"both, plain or .gz, in that folder or in its {TORCHVISION_SUBDIR}",
            next_step=f"copy them there, or leave --data-dir out: then {DEFAULT_DIR} and "
            f"{PACKAGED_DIR} are searched, and what is missing is downloaded",
        )
    return _load(found or _download(), TRAIN_FILES, TRAIN_SHA256)


def _find(folder: Path, file: str) -> Path | None:
    paths = (folder / file, folder / f"{file}.gz")
    # unlike Path.exists, not an error in a folder that may not be entered: it has nothing for us
    return next((path for path in paths if os.access(path, os.F_OK)), None)


def _load(folder: Path, files: tuple[str, str], sha256: tuple[str, str]) -> ImageSet:
    images, labels = (
        _read(_find(folder, file) or folder / f"{file}.gz", digest)
        for file, digest in zip(files, sha256, strict=True)
    )
    pixels = np.frombuffer(images, np.uint8, offset=IMAGES_HEADER).reshape(-1, SIDE, SIDE)
    classes = np.frombuffer(labels, np.uint8, offset=LABELS_HEADER).astype(np.int64)
    pictures = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    return ImageSet(pixels, classes, digest(pictures, classes, CLASS_LABELS), str(folder))


def _read(path: Path, sha256: str) -> bytes:
    """Return the content of a file, decompressed, that must have this digest."""
    data = read_bytes(path, limit=MAX_FILE_BYTES, next_step=REFETCH)
    try:
        if data[:2] == b"\x1f\x8b":  # told by content, not by name
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_FILE_BYTES)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ValueError(f"content sha256 {found[:16]}…")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is another file or damaged: {error}",
            expected=f"Fashion-MNIST's own, sha256 {sha256[:16]}… once decompressed",
            next_step=REFETCH,
        ) from error
    return data


def _download() -> Path:
    try:
        from torchvision import datasets

        with contextlib.redirect_stdout(io.StringIO()):
            datasets.FashionMNIST(root=str(DEFAULT_DIR), train=True, download=True)
        return DEFAULT_DIR / TORCHVISION_SUBDIR
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise InputError(
            f"Fashion-MNIST is neither in {DEFAULT_DIR} nor in {PACKAGED_DIR}, and the download "
            f"failed: {first_line(error)}",
            expected="its four IDX files, or a network",
            next_step="apt install dataset-fashion-mnist, or copy the files into a folder and "
            "name it with --data-dir, or try --data sample (10,000 images)",
        ) from error
