"""Lay out the web page: a static folder that proves and runs models in any browser.

What the page does there is in `web/`; showing it on this computer is `serve`'s business.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes

WEB_DIR = Path(__file__).resolve().parents[1] / "web"
SCHEMA = "convnet-edge/web/1"
SITE = "site.json"
WORKER = "sw.js"
ID_MARK = b"@SITE@"
ORT_WEB = "onnxruntime-web"
ORT_WEB_VERSION = "1.30.0"
ORT_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
INSTALL = f"npm install --ignore-scripts --no-save {ORT_WEB}@{ORT_WEB_VERSION}"
MAX_FILE_BYTES = 512 * MIB
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
# the first two give the page threads and a finer clock
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Site:
    """What was written. id: of the content, the same for the same files."""

    path: Path
    n_files: int
    n_bytes: int
    id: str


def write_site(
    out: Path,
    *,
    ort_web: Path,
    models: Mapping[str, bytes],
    entries: list[dict[str, Any]],
    test_set: Mapping[str, bytes],
) -> Site:
    """Write the page with `models` into the folder `out`, byte for byte the same each time.

    ort_web: the folder that npm unpacked. models: files by name; entries: what the manifest says of
    each, all with the same class_labels. test_set: the two IDX files by their path in the folder. A
    page already in `out` is replaced once the new one is whole.

    Raises:
        InputError: onnxruntime-web is missing or of another version, `out` holds something else,
            or cannot be written.
    """
    _require_own(out)
    files = _page() | _runtime(ort_web) | dict(test_set)
    files |= {f"models/{name}": model for name, model in models.items()}
    worker = files.pop(WORKER)
    if worker.count(ID_MARK) != 1:
        raise ValueError(f"{WORKER} has {worker.count(ID_MARK)} places for the id")
    integrities = {name: _integrity(files[name]) for name in sorted(files)}
    site_id = hashlib.sha256(json.dumps(integrities).encode()).hexdigest()[:16]
    document = {
        "schema": SCHEMA,
        "id": site_id,
        "convnet_edge": __version__,
        "onnxruntime_web": ORT_WEB_VERSION,
        "class_labels": entries[0]["class_labels"],
        "models": [{k: v for k, v in entry.items() if k != "class_labels"} for entry in entries],
        "files": integrities,
    }
    files[WORKER] = worker.replace(ID_MARK, site_id.encode())
    files[SITE] = (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
    lines = [f"  {name}: {value}" for name, value in HEADERS.items()]
    files["_headers"] = "\n".join(["/*", *lines, ""]).encode()  # Netlify, Cloudflare Pages
    files[".nojekyll"] = b""  # GitHub Pages: publish files as they are
    _replace_folder(out, files)
    return Site(out, len(files), sum(map(len, files.values())), site_id)


def read_site(folder: Path) -> dict[str, Any]:
    """Return the site.json of a page's folder.

    Raises:
        InputError: the folder holds no page.
    """
    data = read_bytes(
        folder / SITE, limit=16 * MIB, next_step="make the page with `bundle --target web`"
    )
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA or not isinstance(document["files"], dict):
            raise ValueError(f"schema {document['schema']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder} holds no page ({type(error).__name__}: {error})",
            expected=f"a folder with a {SITE} of schema {SCHEMA}",
            next_step="make it with `convnet-edge bundle --target web`",
        ) from error
    found: dict[str, Any] = document
    return found


def _page() -> dict[str, bytes]:
    paths = sorted(path for path in WEB_DIR.iterdir() if path.is_file())
    reinstall = "pip install --force-reinstall convnet-edge"
    return {p.name: read_bytes(p, limit=MIB, next_step=reinstall) for p in paths}


def _runtime(ort_web: Path) -> dict[str, bytes]:
    """Return the files of onnxruntime-web that the page loads, checked to be of one version."""
    about = read_bytes(ort_web / "package.json", limit=MIB, next_step=INSTALL)
    try:
        package = json.loads(about)
        found = f"{package['name']} {package['version']}"
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{ort_web / 'package.json'} names no package", expected=ORT_WEB, next_step=INSTALL
        ) from error
    if found != f"{ORT_WEB} {ORT_WEB_VERSION}":
        raise InputError(
            f"{ort_web} holds {found}",
            expected=f"{ORT_WEB} {ORT_WEB_VERSION}, which the page was tested with",
            next_step=INSTALL,
        )
    return {
        f"ort/{name}": read_bytes(ort_web / "dist" / name, limit=MAX_FILE_BYTES, next_step=INSTALL)
        for name in ORT_FILES
    }


def _integrity(data: bytes) -> str:
    """Return the digest as browsers take it (W3C, "Subresource Integrity")."""
    return "sha256-" + base64.b64encode(hashlib.sha256(data).digest()).decode()


def _require_own(out: Path) -> None:
    """Refuse a folder that something else lives in, for it would be lost."""
    if out.is_dir() and not out.is_symlink():
        if not any(out.iterdir()):
            return
        try:
            read_site(out)
            return
        except InputError:
            pass
    elif not out.exists():
        return
    raise InputError(
        f"{out} holds something else",
        expected="no such folder, an empty one, or an older page",
        next_step="choose another folder with --out",
    )


def _replace_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` into the folder `out`: at any moment it is the old one or the new, whole."""
    fresh, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("new", "old"))
    try:
        for name, data in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InputError(
            f"{out} cannot be written: {error.strerror}",
            expected=f"a writable place with {sum(map(len, files.values())) / MIB:.0f} MiB free",
            next_step="free some space" if full else "choose another folder with --out",
        ) from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)
