"""The page's folder: what goes in, what is refused, and that a failure loses nothing."""

import base64
import errno
import hashlib
import json
import os
import re
from pathlib import Path

import faults
import pytest
import tiny

from convnet_edge.bundling import site
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.runtime.errors import CheckFailedError, InputError

REPOSITORY = Path(__file__).resolve().parents[2]
UNLISTED = {"site.json", "sw.js", "_headers", ".nojekyll"}
ORT_NAME, ORT_VERSION = site.ORT_WEB.split()


@pytest.fixture
def ort_web(tmp_path):
    return make_ort_web(tmp_path / "node_modules" / "onnxruntime-web")


def make_ort_web(folder, version=ORT_VERSION, name=ORT_NAME):
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
    for file in site.ORT_FILES:
        (folder / "dist" / file).write_text(f"// {file}")
    return folder


@pytest.fixture
def lay_out(tiny_model, ort_web, tmp_path):
    def lay_out(out=tmp_path / "page", models=(tiny_model,), ort_web=ort_web):
        return site.lay_out(BundleOptions(models, target="web", ort_web=ort_web, out=out))

    return lay_out


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_folder_holds_page_runtime_model_and_test_set_with_their_digests(lay_out):
    made = lay_out()
    files = contents(made.path)
    document = json.loads(files["site.json"])
    assert set(document["files"]) == set(files) - UNLISTED
    for name, integrity in document["files"].items():
        digest = base64.b64encode(hashlib.sha256(files[name]).digest()).decode()
        assert integrity == f"sha256-{digest}", name
    assert files["models/tiny.onnx"] == tiny.grey()
    assert files["ort/ort.wasm.min.mjs"] == b"// ort.wasm.min.mjs"
    assert {"index.html", "main.js", "test-set/images.gz"} < set(document["files"])
    assert [entry["name"] for entry in document["models"]] == ["tiny.onnx"]
    assert document["class_labels"] == list(tiny.LABELS)
    assert made.n_files == len(files)
    assert made.n_bytes == sum(map(len, files.values()))


def test_worker_knows_the_id_and_the_hosts_headers_are_those_of_serve(lay_out):
    made = lay_out()
    worker = (made.path / "sw.js").read_text()
    assert f'const SITE = "{made.id}"' in worker
    stated = (made.path / "_headers").read_text().splitlines()
    assert stated[0] == "/*"
    assert dict(line.strip().split(": ", 1) for line in stated[1:]) == site.HEADERS


def test_page_states_a_policy_that_lets_nothing_in_from_elsewhere_and_keeps_to_it():
    page = (site.WEB_DIR / "index.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("script-src") == "'self' 'wasm-unsafe-eval'"
    assert set(rules.values()) == {"'self'", "'none'"}
    assert re.findall(r"\son\w+=|<style|\sstyle=|https?:", page) == []


def test_every_script_and_link_of_the_page_is_in_it():
    for path in site.WEB_DIR.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert (site.WEB_DIR / name).is_file(), f"{path.name} imports {name}"
    page = (site.WEB_DIR / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (site.WEB_DIR / name).is_file(), name


def test_two_folders_are_the_same_and_another_model_has_another_id(lay_out, tmp_path):
    first, second = lay_out(tmp_path / "a"), lay_out(tmp_path / "b")
    assert contents(first.path) == contents(second.path)
    other = tmp_path / "tiny.onnx"
    other.write_bytes(tiny.grey_uint8())
    assert lay_out(tmp_path / "c", models=(other,)).id != first.id


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


def test_missing_runtime_names_the_npm_command(lay_out, tmp_path):
    with pytest.raises(InputError, match=re.escape(site.INSTALL)):
        lay_out(ort_web=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("about", "found"),
    [
        ({"version": "1.29.0"}, "onnxruntime-web 1.29.0"),
        ({"name": "onnxruntime-node"}, "onnxruntime-node 1.30.0"),
    ],
)
def test_another_package_or_version_is_refused(lay_out, tmp_path, about, found):
    folder = make_ort_web(tmp_path / "other", **about)
    with pytest.raises(InputError, match=found):
        lay_out(ort_web=folder)


@pytest.mark.parametrize("damage", ["[", "[]", "{}"])
def test_damaged_package_file_is_refused(lay_out, ort_web, damage):
    (ort_web / "package.json").write_text(damage)
    with pytest.raises(InputError, match="no package"):
        lay_out()


@pytest.mark.parametrize("name", site.ORT_FILES)
def test_runtime_with_a_file_missing_is_refused(lay_out, ort_web, name, tmp_path):
    (ort_web / "dist" / name).unlink()
    with pytest.raises(InputError, match=name):
        lay_out()
    assert not (tmp_path / "page").exists()


def test_model_that_fails_its_selftest_is_not_laid_out(lay_out, tmp_path):
    def alter(document):
        document["goldens"]["logits"][0][0] += 5.0

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(faults.change_document(tiny.grey(), alter))
    with pytest.raises(CheckFailedError, match="not bundled"):
        lay_out(models=(broken,))
    assert not (tmp_path / "page").exists()


def test_lock_pins_the_page_s_runtime_by_integrity_and_names_no_address():
    text = (REPOSITORY / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    packages.pop("")
    assert packages[f"node_modules/{ORT_NAME}"]["version"] == ORT_VERSION
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "http" not in text
    assert "resolved" not in text


def test_command_line_says_what_comes_next(run, tiny_model, ort_web, tmp_path):
    done = run("bundle", tiny_model, "--target", "web", "--ort-web", ort_web)
    assert done.exit_code == 0, done.output
    assert "next: convnet-edge serve tiny-web" in done.stderr + done.stdout
    assert (tmp_path / "tiny-web" / "index.html").is_file()


def test_command_line_without_the_runtime_is_exit_2(run, tiny_model):
    done = run("bundle", tiny_model, "--target", "web")
    assert done.exit_code == 2
    assert site.INSTALL in done.stderr
