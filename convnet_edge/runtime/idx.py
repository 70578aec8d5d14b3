"""Read labelled images from IDX files, the format of MNIST and Fashion-MNIST.

Format: http://yann.lecun.com/exdb/mnist/ (big-endian magic 0, 0, type, n_dims; then the sizes).
Where the files lie and which content is the right one is the data part's business.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes

Array = np.ndarray[Any, np.dtype[Any]]

UINT8_TYPE = 0x08
MAX_FILE_BYTES = 256 * MIB
SAMPLE_DIR = Path(__file__).resolve().parent.parent / "sample"
REINSTALL = (
    "fetch the file again; the four originals are at github.com/zalandoresearch/fashion-mnist"
)

CLASS_LABELS = (
    "T-Shirt", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle Boot",
)  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels, as the files hold them.

    images: (N, H, W) uint8; labels: (N,) uint8, an index into the class labels.
    images_sha256, labels_sha256: of the decompressed IDX files. source: where they came from.
    """

    images: Array
    labels: Array
    images_sha256: str
    labels_sha256: str
    source: str

    def __len__(self) -> int:
        return len(self.labels)


def read_image_set(images_path: Path, labels_path: Path) -> ImageSet:
    """Read one IDX pair, gzip or plain (told by content, not by name).

    Raises:
        InputError: missing, truncated, wrong magic, swapped, or counts that do not match.
    """
    images = _read_idx(images_path, n_dims=3, holds="images")
    labels = _read_idx(labels_path, n_dims=1, holds="labels")
    return _image_set(images, labels, str(images_path.parent))


def _image_set(images: tuple[Array, str], labels: tuple[Array, str], source: str) -> ImageSet:
    if len(images[0]) != len(labels[0]):
        raise InputError(
            f"{len(images[0])} images and {len(labels[0])} labels in {source}",
            expected="one label an image",
            next_step="take both files from the same data set",
        )
    return ImageSet(images[0], labels[0], images[1], labels[1], source)


def parse_image_set(images: bytes, labels: bytes, *, source: str) -> ImageSet:
    """Parse IDX content, plain or gzip, as `read_image_set` does; source: where it is from.

    Raises:
        InputError: as there.
    """
    return _image_set(
        _parse_idx(Path("images"), images, n_dims=3, holds="images"),
        _parse_idx(Path("labels"), labels, n_dims=1, holds="labels"),
        source,
    )


def _read_idx(path: Path, *, n_dims: int, holds: str) -> tuple[Array, str]:
    data = read_bytes(path, limit=MAX_FILE_BYTES, next_step=REINSTALL)
    return _parse_idx(path, data, n_dims=n_dims, holds=holds)


def _parse_idx(path: Path, data: bytes, *, n_dims: int, holds: str) -> tuple[Array, str]:
    if data[:2] == b"\x1f\x8b":
        data = _decompress(path, data)
    header = 4 + 4 * n_dims
    magic = bytes((0, 0, UINT8_TYPE, n_dims))
    expected = f"an IDX file of {holds} (first bytes {magic.hex()})"
    if data[:4] != magic:
        swapped = data[:3] == magic[:3] and data[3:4] in (b"\x01", b"\x03")
        hint = "images and labels are swapped" if swapped else REINSTALL
        raise InputError(
            f"{path} starts with {data[:4].hex() or 'nothing'}", expected=expected, next_step=hint
        )
    if len(data) < header:
        raise InputError(f"{path} ends within its header", expected=expected, next_step=REINSTALL)
    shape = struct.unpack(f">{n_dims}I", data[4:header])
    n_values = 1
    for size in shape:
        n_values *= size
    if len(data) - header != n_values or n_values == 0:
        raise InputError(
            f"{path} declares {' x '.join(map(str, shape))} {holds} and holds "
            f"{len(data) - header:,} bytes of them",
            expected=f"{n_values:,} bytes after the header, and more than none",
            next_step=REINSTALL,
        )
    array = np.frombuffer(data, np.uint8, offset=header).reshape(shape)
    return array, hashlib.sha256(data).hexdigest()


def _decompress(path: Path, data: bytes) -> bytes:
    """Decompress one gzip stream, refusing to grow beyond MAX_FILE_BYTES."""
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(data, MAX_FILE_BYTES)
    except zlib.error as error:
        raise InputError(
            f"{path} is damaged: {error}", expected="a whole gzip file", next_step=REINSTALL
        ) from error
    if not stream.eof:
        too_large = len(content) >= MAX_FILE_BYTES
        raise InputError(
            f"{path} {'decompresses without end' if too_large else 'is truncated'}",
            expected=f"a whole gzip file of at most {MAX_FILE_BYTES // MIB} MiB inside",
            next_step=REINSTALL,
        )
    return content


def compress(array: Array) -> bytes:
    """Return `array` (uint8) as a gzip IDX file, the same bytes every time."""
    header = bytes((0, 0, UINT8_TYPE, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)
