"""Lay out the web page: a static folder that proves and runs models in any browser.

What the page does there is in `web/`; showing it on this computer is `serve`'s business.
"""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from ..runtime.files import MIB, json_text, read_bytes, write_atomically

PACKAGE_DIR = Path(__file__).resolve().parents[1]
WEB_DIR = PACKAGE_DIR / "web"
SCHEMA = "convnet-edge/web/1"
SITE, WORKER, ID_MARK = "site.json", "sw.js", b"@SITE@"
REMAKE = "make the page with `convnet-edge bundle --target web`"
ORT_WEB = "onnxruntime-web 1.30.0"
ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
INSTALL = f"`npm install --ignore-scripts --no-save {ORT_WEB.replace(' ', '@')}`"
MAX_FILE_BYTES = 512 * MIB
HEADERS = {  # the first two give the page threads and a finer clock; its policy it states itself
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
}


def write(
    out: Path, content: Mapping[str, bytes], about: dict[str, Any], ort_web: Path
) -> dict[str, Any]:
    """Write a page into the folder `out`; return what there is to say of it.

    A page that is there already is replaced once the new one is whole. content: models and test set
    as files. about: what site.json says of the models. ort_web: npm's package.
    """
    files = {path.name: read_own(path) for path in WEB_DIR.iterdir() if path.is_file()}
    files |= {**_runtime(ort_web), **content}
    worker = files.pop(WORKER)
    digests = {name: hashlib.sha256(files[name]).digest() for name in sorted(files)}
    # written as browsers take them (W3C, "Subresource Integrity")
    integrities = {name: f"sha256-{base64.b64encode(digests[name]).decode()}" for name in digests}
    site_id = hashlib.sha256(json.dumps(integrities).encode()).hexdigest()[:16]
    document = {
        "schema": SCHEMA,
        "id": site_id,
        "onnxruntime_web": ORT_WEB.split()[1],
        **about,
        "files": integrities,
    }
    files[WORKER] = worker.replace(ID_MARK, site_id.encode())
    files[SITE] = f"{json_text(document)}\n".encode()
    lines = [f"  {name}: {value}" for name, value in HEADERS.items()]
    files["_headers"] = "\n".join(["/*", *lines, ""]).encode()  # Netlify, Cloudflare Pages
    files[".nojekyll"] = b""  # GitHub Pages: publish files as they are
    _replace_folder(out, files)
    n_bytes = sum(map(len, files.values()))
    return {"path": str(out), "n_files": len(files), "site_bytes": n_bytes, "id": site_id}


def read_site(folder: Path) -> frozenset[str]:
    """Return the names of the files of the page in `folder`; an error if it holds none."""
    if not (folder / SITE).exists():
        raise _no_page(folder, f"it has no {SITE}")
    data = read_bytes(folder / SITE, limit=16 * MIB, next_step=REMAKE)
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        return frozenset(document["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_page(folder, f"{SITE}: {type(error).__name__}: {error}") from error


def _no_page(folder: Path, why: str) -> InputError:
    expected = f"a folder with a {SITE} of schema {SCHEMA}"
    return InputError(f"{folder} is no page: {why}", expected=expected, next_step=REMAKE)


def read_own(path: Path) -> bytes:
    """Return the content of a file of this package."""
    next_step = "`pip install --force-reinstall convnet-edge`"
    return read_bytes(path, limit=16 * MIB, next_step=next_step)


def _runtime(ort_web: Path) -> dict[str, bytes]:
    """Return the files of onnxruntime-web that the page loads, all of the version tested."""
    if not (ort_web / "package.json").exists():
        found = f"onnxruntime-web is not in {ort_web}"
        raise InputError(found, expected=ORT_WEB, next_step=INSTALL)
    try:
        package = json.loads(read_bytes(ort_web / "package.json", limit=MIB, next_step=INSTALL))
        found = f"{package['name']} {package['version']}"
    except (ValueError, KeyError, TypeError) as error:
        found = f"no package ({type(error).__name__}: {error})"
    if found != ORT_WEB:
        raise InputError(f"{ort_web} holds {found}", expected=ORT_WEB, next_step=INSTALL)
    return {
        f"ort/{name}": read_bytes(ort_web / "dist" / name, limit=MAX_FILE_BYTES, next_step=INSTALL)
        for name in ORT_FILES
    }


def _replace_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` into the folder `out`, which may hold an older page and nothing else."""
    out = out.resolve()
    try:
        if out.exists() and any(out.iterdir()):
            read_site(out)
    except (InputError, NotADirectoryError) as error:
        raise InputError(
            f"{out} holds something else",
            expected="no such folder, an empty one, or an older page",
            next_step="choose another folder with --out",
        ) from error
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        for name, data in files.items():
            write_atomically(fresh / name, data)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
