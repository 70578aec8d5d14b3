"""The page's folder: what goes in, what is refused, and that a failure loses nothing."""

import base64
import errno
import hashlib
import json
import os
import re

import pytest
import tiny
from emulated import REPOSITORY

from convnet_edge.bundling import site
from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.data import dataset
from convnet_edge.runtime import archive
from convnet_edge.runtime.errors import InputError

UNLISTED = {"site.json", "sw.js", "_headers", ".nojekyll"}
ORT_NAME, ORT_VERSION = site.ORT_WEB.split()
PACKAGE = json.dumps({"name": ORT_NAME, "version": ORT_VERSION})


@pytest.fixture
def ort_web(tmp_path):
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(PACKAGE)
    for file in site.ORT_FILES:
        (folder / "dist" / file).write_text(f"// {file}")
    return folder


@pytest.fixture
def lay_out(tiny_model, ort_web, tmp_path):
    def lay_out(out=tmp_path / "page", models=(tiny_model,), **more):
        return bundle(BundleOptions(models, target="web", ort_web=ort_web, out=out, **more))

    return lay_out


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_folder_holds_page_runtime_and_model_with_their_digests(lay_out):
    made = lay_out()
    files = contents(made.path)
    document = json.loads(files["site.json"])
    assert set(document["files"]) == set(files) - UNLISTED
    for name, integrity in document["files"].items():
        digest = base64.b64encode(hashlib.sha256(files[name]).digest()).decode()
        assert integrity == f"sha256-{digest}", name
    assert files["models/tiny.onnx"] == tiny.grey()
    assert files["ort/ort.wasm.min.mjs"] == b"// ort.wasm.min.mjs"
    assert f'const SITE = "{document["id"]}"' in files["sw.js"].decode()
    first, *stated = files["_headers"].decode().splitlines()
    assert first == "/*"
    assert dict(line.strip().split(": ", 1) for line in stated) == site.HEADERS
    assert {"index.html", "main.js"} < set(document["files"])
    assert [entry["name"] for entry in document["models"]] == ["tiny.onnx"]
    assert document["class_labels"] == list(tiny.LABELS)
    sizes = (made.document["n_files"], made.document["site_bytes"])
    assert sizes == (len(files), sum(map(len, files.values())))


def test_page_leaves_out_the_test_set_if_that_is_said(lay_out, monkeypatch):
    monkeypatch.setattr(dataset, "find_test_set", lambda *_: tiny.image_set(9))
    made = lay_out(with_test_set=False)
    assert made.n_test_images == 0
    assert not any("test-set" in name for name in contents(made.path))


@pytest.mark.parametrize("n_images", [None, 0, 9])
def test_page_holds_the_test_set_that_there_is_unless_it_is_empty(lay_out, monkeypatch, n_images):
    test = None if n_images is None else dataset.take(tiny.image_set(9), slice(n_images))
    monkeypatch.setattr(dataset, "find_test_set", lambda *_: test)
    assert (archive.TEST_SET in site.read_site(lay_out().path)) == bool(n_images)


def test_page_states_a_policy_that_lets_nothing_in_from_elsewhere_and_keeps_to_it():
    page = (site.WEB_DIR / "index.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("script-src") == "'self' 'wasm-unsafe-eval'"
    assert set(rules.values()) == {"'self'", "'none'"}
    assert re.findall(r"\son\w+=|<style|\sstyle=|https?:", page) == []


def test_every_script_and_link_of_the_page_is_in_it():
    named = re.findall(r'(?:src|href)="([^"]+)"', (site.WEB_DIR / "index.html").read_text())
    for path in site.WEB_DIR.glob("*.js"):
        named += re.findall(r'from "\./([^"]+)"', path.read_text())
    assert [name for name in named if not (site.WEB_DIR / name).is_file()] == []
    assert len(named) > 10


def test_two_folders_are_the_same_and_another_model_has_another_id(lay_out, tmp_path):
    first, second = lay_out(tmp_path / "a"), lay_out(tmp_path / "b")
    assert contents(first.path) == contents(second.path)
    other = tmp_path / "tiny.onnx"
    other.write_bytes(tiny.grey_uint8())
    assert lay_out(tmp_path / "c", models=(other,)).document["id"] != first.document["id"]


def test_older_page_is_replaced_whole_also_behind_a_link(lay_out, tmp_path):
    made = lay_out()
    (tmp_path / "link").symlink_to(made.path)
    (made.path / "stale.js").write_text("left over")
    assert "stale.js" not in contents(lay_out(tmp_path / "link").path)
    assert (tmp_path / "link").is_symlink()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("before", ["file", "folder"])
def test_what_is_no_page_is_not_replaced(lay_out, tmp_path, before):
    out = tmp_path / "mine"
    if before == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "site.json").write_text('{"schema": "another"}')
    with pytest.raises(InputError, match="holds something else"):
        lay_out(out)
    assert out.exists()


def test_full_disk_leaves_the_older_page_and_nothing_else(lay_out, monkeypatch):
    made = lay_out()
    before = contents(made.path)
    n_files = 0

    def fail_late(descriptor):
        nonlocal n_files
        n_files += 1
        if n_files == 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail_late)
    with pytest.raises(InputError, match="free some space"):
        lay_out()
    assert contents(made.path) == before
    assert leftovers(made.path.parent) == []


@pytest.mark.parametrize(
    ("package", "found"),
    [
        (PACKAGE.replace(ORT_VERSION, "1.29.0"), "onnxruntime-web 1.29.0"),
        (PACKAGE.replace("-web", "-node"), "onnxruntime-node 1.30.0"),
        *((damaged, "no package") for damaged in ("[", "[]", "{}")),
        (None, f"{site.ORT_FILES[-1]} does not exist"),
    ],
)
def test_another_package_or_version_or_none_is_refused(lay_out, ort_web, package, found):
    if package is None:
        (ort_web / "dist" / site.ORT_FILES[-1]).unlink()
    else:
        (ort_web / "package.json").write_text(package)
    with pytest.raises(InputError, match=f"{found}.*{re.escape(site.INSTALL)}"):
        lay_out()


def test_missing_package_is_not_called_a_missing_file(lay_out, ort_web):
    (ort_web / "package.json").unlink()
    with pytest.raises(InputError, match=f"^onnxruntime-web is not in {ort_web}; expected "):
        lay_out()


@pytest.mark.parametrize("folder", [".", "examples/node"])
def test_lock_pins_every_package_by_integrity_and_names_no_address(folder):
    text = (REPOSITORY / folder / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    asked = json.loads((REPOSITORY / folder / "package.json").read_text())["dependencies"]
    assert packages.pop("")["dependencies"] == asked
    for name, version in asked.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    for name, package in packages.items():
        assert re.fullmatch(r"sha512-[\w+/]{86}==", package["integrity"]), name
        package.pop("funding", None)
    assert asked == {ORT_NAME: ORT_VERSION} or folder != "."
    assert "resolved" not in text
    assert "http" not in json.dumps(packages)


@pytest.mark.parametrize(
    ("target", "following"),
    [("pyz", "python3 tiny.pyz selftest"), ("web", "convnet-edge serve tiny-web")],
)
def test_command_line_says_what_comes_next(run, tiny_model, ort_web, target, following):
    done = run("bundle", tiny_model, "--target", target, "--ort-web", ort_web)
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"next: {following}\n")
