"""Read and write NAME.pyz: one file with models, the runtime that proves them, and a manifest.

A zip that Python runs, read into memory and never unpacked; its comment is the SHA-256 of all bytes
before it. What its commands do is the device's business; what goes into it, the host's.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CheckFailedError, InputError
from .files import MIB, read_bytes

if TYPE_CHECKING:
    from .measure.accuracy import ImageSet

SCHEMA = "convnet-edge/bundle/1"
# Python that finds no whole zip behind these lines takes the file for its source: the second line,
# an encoding that there is not, stops it before the binary part, with these words and exit 1. Cut
# off within its first 30 bytes the file is a comment, which does nothing and exits 0: a shebang
# that carries the encoding would need `env -S`, which not every device has
START = (
    b"#!/usr/bin/env python3\n"
    b"#coding:FAIL--the-file-is-incomplete--expected-the-bytes-that-were-bundled--next--copy-it-again\n"
)
MANIFEST, MODELS, TEST_SET = "manifest.json", "models/", "test-set.npz"
ARRAYS = ("images", "labels", "sha256")  # of the test set
COMMENT_PREFIX = b"sha256:"  # what starts a bundle knows it too: bundling/bootstrap.py
COMMENT_BYTES = len(COMMENT_PREFIX) + 64
MAX_ARCHIVE_BYTES = 1024 * MIB
MAX_MEMBER_BYTES = 512 * MIB
DAMAGE = (  # what Python raises of one that is none; a RuntimeError: encrypted, or deeply nested
    zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError, EOFError, RuntimeError,
    MemoryError,
)  # fmt: skip
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state: the same for every build
NEXT_STEP = "copy the file again, or bundle it anew with `convnet-edge bundle`"


@dataclass(frozen=True)
class Archive:
    """An archive's content by member name, and its manifest."""

    path: Path
    members: Mapping[str, bytes]
    manifest: dict[str, Any]

    def models(self) -> dict[str, bytes]:
        """Return the model files by name, in the manifest's order."""
        names = [entry["name"] for entry in self.manifest["models"]]
        return {name: self.members[MODELS + name] for name in names}

    def test_set(self) -> "ImageSet | None":
        """Return the test images, None if the archive has none."""
        from .measure.accuracy import ImageSet  # most commands do without

        if TEST_SET not in self.members:
            return None
        try:
            content = _unzip(self.members[TEST_SET])
            images, labels, sha256 = (
                np.lib.format.read_array(io.BytesIO(content[f"{name}.npy"]), allow_pickle=False)
                for name in ARRAYS
            )
            kinds = [(str(array.dtype), array.ndim) for array in (images, labels)]
            known = [[("uint8", n_axes), ("int64", 1)] for n_axes in (3, 4)]
            if kinds not in known or len(images) != len(labels):
                raise ValueError(f"test set of shapes {images.shape} and {labels.shape}, {kinds}")
            return ImageSet(images, labels, str(sha256), self.path.name)
        except DAMAGE as error:
            raise _no_bundle(self.path, error) from error


def encode_test_set(test: "ImageSet") -> bytes:
    """Return test images as a member of an archive, the same bytes every time."""
    out = io.BytesIO()
    np.savez_compressed(out, **{name: getattr(test, name) for name in ARRAYS})
    return out.getvalue()


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return a sealed archive of `members`: the same bytes for the same content."""
    out = io.BytesIO()
    out.write(START)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members, key=lambda name: (name != "__main__.py", name)):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            # what starts it is stored as it is: damage elsewhere cannot keep it from saying so
            plain = name in ("__main__.py", TEST_SET)
            info.compress_type = zipfile.ZIP_STORED if plain else zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name], compresslevel=9)
        archive.comment = bytes(COMMENT_BYTES)
    body = out.getvalue()[:-COMMENT_BYTES]
    return body + _comment(body)


def read_archive(path: Path) -> Archive:
    """Read the archive at `path` into memory, after checking its bytes.

    A bundle's own start has done that, `python -m convnet_edge.runtime NAME.pyz` has not.
    """
    data = read_bytes(path, limit=MAX_ARCHIVE_BYTES, next_step=NEXT_STEP)
    if data[-COMMENT_BYTES:] != _comment(memoryview(data)[:-COMMENT_BYTES]):
        raise CheckFailedError(
            f"{path.name} was altered or is incomplete",
            expected="the bytes that were bundled (SHA-256 in the archive's comment)",
            next_step=NEXT_STEP,
        )
    try:
        members = _unzip(data)
        found = Archive(path, members, json.loads(members[MANIFEST]))
        if found.manifest["schema"] != SCHEMA:
            raise ValueError(f"schema {found.manifest['schema']!r}, not {SCHEMA}")
        found.models()
    except DAMAGE as error:
        raise _no_bundle(path, error) from error
    return found


def _comment(body: bytes | memoryview) -> bytes:
    return COMMENT_PREFIX + hashlib.sha256(body).hexdigest().encode()


def _unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        n_bytes = sum(info.file_size for info in archive.infolist())
        if n_bytes > MAX_MEMBER_BYTES:
            raise ValueError(f"{n_bytes:,} bytes inside")
        return {name: archive.read(name) for name in archive.namelist()}


def _no_bundle(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path.name} is no bundle ({type(error).__name__}: {str(error)[:300]})",
        expected="what `convnet-edge bundle` writes",
        next_step=NEXT_STEP,
    )
