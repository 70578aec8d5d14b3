"""Read and write NAME.pyz: one file with models, the runtime that proves them, and a manifest.

A zip that Python runs, read into memory and never unpacked. What its commands do is the device's
business; what goes into it, the host's.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundling import start
from .errors import CheckFailedError, InputError
from .files import MIB, read_bytes
from .idx import ImageSet, parse_image_set

SCHEMA = "convnet-edge/bundle/1"
SHEBANG = b"#!/usr/bin/env python3\n"
MANIFEST = "manifest.json"
MODELS = "models/"
TEST_SET = ("test-set/images.gz", "test-set/labels.gz")
MAX_ARCHIVE_BYTES = 1024 * MIB
MAX_MEMBER_BYTES = 512 * MIB
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state: the same for every build
NEXT_STEP = "copy the file again, or bundle it anew with `convnet-edge bundle`"


@dataclass(frozen=True)
class Archive:
    """An archive's content by member name, and its manifest."""

    name: str
    members: Mapping[str, bytes]
    manifest: dict[str, Any]

    def models(self) -> dict[str, bytes]:
        """Return the model files by name, in the manifest's order."""
        names = [entry["name"] for entry in self.manifest["models"]]
        return {name: self.members[MODELS + name] for name in names}

    def test_set(self) -> ImageSet | None:
        """Return the test images, None if the archive has none."""
        if any(name not in self.members for name in TEST_SET):
            return None
        images, labels = (self.members[name] for name in TEST_SET)
        return parse_image_set(images, labels, source=self.name)


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return a sealed archive of `members`: the same bytes for the same content.

    The file that starts it is stored as it is, so that damage elsewhere cannot keep it from saying
    so.
    """
    out = io.BytesIO()
    out.write(SHEBANG)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members, key=lambda name: (name != "__main__.py", name)):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3
            plain = name == "__main__.py" or name.endswith(".gz")
            info.compress_type = zipfile.ZIP_STORED if plain else zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name], compresslevel=9)
        archive.comment = bytes(start.COMMENT_BYTES)
    return start.seal(out.getvalue())


def read_archive(path: Path) -> Archive:
    """Read the archive at `path` into memory, after checking its bytes.

    Raises:
        CheckFailedError: its bytes are not those that were bundled.
        InputError: unreadable, or no bundle.
    """
    data = read_bytes(path, limit=MAX_ARCHIVE_BYTES, next_step=NEXT_STEP)
    if not start.is_whole(data):
        raise CheckFailedError(
            f"{path.name} was altered or is incomplete",
            expected="the bytes that were bundled (SHA-256 in the archive's comment)",
            next_step=NEXT_STEP,
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = [info.file_size for info in archive.infolist()]
            if sum(sizes) > MAX_MEMBER_BYTES:
                raise ValueError(f"{sum(sizes):,} bytes inside")
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(members[MANIFEST])
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"schema {manifest['schema']!r}, not {SCHEMA}")
        found = Archive(path.name, members, manifest)
        found.models()
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path.name} is no bundle ({type(error).__name__}: {error})",
            expected="what `convnet-edge bundle` writes",
            next_step=NEXT_STEP,
        ) from error
    return found
