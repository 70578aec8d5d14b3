"""The one file for a device: what it holds, and that it runs alone.

What its commands do is shown on hand-made models, in runtime/test_main.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from emulated import CPUS, EMULATED, EXPORTED, TIMEOUT_S, emulator
from environments import empty_environment, offline
from PIL import Image

from convnet_edge.bundling import bootstrap
from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.runtime import Classifier, archive
from convnet_edge.runtime.__main__ import main
from convnet_edge.runtime.errors import InputError

PACKAGE = Path(bootstrap.__file__).parents[1]
FLOAT, PORTABLE, ORT_CPU = (
    EXPORTED / f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort")
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "b.pyz"
    return bundle(BundleOptions((FLOAT, ORT_CPU), with_test_set=True, out=out))


def start_bundle(path, *arguments, python=(sys.executable,), env=None, **options):
    """Run a bundle as a device would: from elsewhere, with no environment to speak of."""
    command = [*map(str, python), str(path), *map(str, arguments)]
    options |= {"capture_output": True, "text": True, "timeout": TIMEOUT_S}
    return subprocess.run(command, env=env or {}, **options)


def test_bundle_is_the_same_bytes_each_time(made, tmp_path):
    again = bundle(BundleOptions((FLOAT, ORT_CPU), with_test_set=True, out=tmp_path / "x.pyz"))
    assert again.path.read_bytes() == made.path.read_bytes()
    assert {**again.document, "path": str(made.path)} == made.document
    assert made.path.stat().st_size == made.document["bundle_bytes"]
    assert os.access(made.path, os.X_OK)


def test_bundle_holds_the_runtimes_own_files_and_nothing_of_the_host(made, test_set):
    found = archive.read_archive(made.path)
    assert found.models() == {path.name: path.read_bytes() for path in (FLOAT, ORT_CPU)}
    members = {n: data for n, data in found.members.items() if not n.startswith(archive.MODELS)}
    assert members.pop("__main__.py") == (PACKAGE / "bundling" / "bootstrap.py").read_bytes()
    assert members.pop("convnet_edge/__init__.py") == (PACKAGE / "__init__.py").read_bytes()
    for path in (PACKAGE / "runtime").rglob("*.py"):
        name = f"convnet_edge/{path.relative_to(PACKAGE).as_posix()}"
        assert members.pop(name) == path.read_bytes()
    assert set(members) == {"manifest.json", "test-set.npz"}
    packed = found.test_set()
    np.testing.assert_array_equal(packed.images, test_set.images)
    np.testing.assert_array_equal(packed.labels, test_set.labels)
    assert packed.sha256 == test_set.sha256


def test_answer_waits_for_nothing_that_measures(tmp_path):
    path = bundle(BundleOptions((FLOAT,), out=tmp_path / "x.pyz")).path
    python = (sys.executable, "-X", "importtime")
    started = start_bundle(path, "predict", python=python, cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    measuring = re.findall(r"convnet_edge\.runtime\.measure\.(\w+)$", started.stderr, re.M)
    assert set(measuring) == {"check", "machine", "options"}


def test_info_says_what_the_bundle_holds(made, capsys, monkeypatch):
    assert main(str(made.path), ["info"]) == 0
    said = capsys.readouterr().out
    assert "int8 (ort-cpu)" in said
    assert "with the test set" in said
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(str(made.path), ["info"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert main(str(made.path), ["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made.document["manifest"]


def test_selftest_passes_alone(made, tmp_path):
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(made.path, lonely / "b.pyz")
    (lonely / "b.pyz").chmod(0o444)
    lonely.chmod(0o555)
    # nor does the terminal have every letter
    done = start_bundle(lonely / "b.pyz", "selftest", cwd="/", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("PASS")
    assert "[?] digest" in done.stdout
    assert [path.name for path in lonely.iterdir()] == ["b.pyz"]


@pytest.mark.parametrize("other", ["tiny.onnx", "classes.onnx", "images.onnx"])
def test_models_of_one_name_or_of_other_classes_or_images_are_refused(tiny_model, tmp_path, other):
    content = {"classes.onnx": FLOAT.read_bytes(), "images.onnx": tiny.rgb()}
    (tmp_path / other).write_bytes(content.get(other, tiny.grey()))
    match = "models of one name" if other == "tiny.onnx" else "models of other classes or images"
    with pytest.raises(InputError, match=match):
        bundle(BundleOptions((tiny_model, tmp_path / other), out=tmp_path / "x.pyz"))


def test_model_whose_test_images_are_not_here_is_bundled_without_them(tiny_model, tmp_path):
    out = tmp_path / "x.pyz"
    with pytest.raises(InputError, match=r"tested on .* are not here; .*name it with data"):
        bundle(BundleOptions((tiny_model,), with_test_set=True, out=out))
    assert not out.exists()
    assert bundle(BundleOptions((tiny_model,), out=out)).document["manifest"]["test_set"] is False
    assert archive.read_archive(out).test_set() is None


def test_missing_packages_are_exit_2_with_the_command(made):
    done = start_bundle(made.path, "selftest", python=(sys.executable, "-I", "-S"))
    assert done.returncode == 2
    assert "pip install numpy onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr


def test_old_python_is_told_which_is_needed(made, monkeypatch, capsys):
    ast.parse(Path(bootstrap.__file__).read_bytes(), feature_version=(3, 4))
    monkeypatch.setattr(sys, "version_info", (3, 9))
    assert bootstrap.begin(str(made.path)) == 2
    assert "expected Python 3.10 or newer" in capsys.readouterr().err


@pytest.mark.arm
def test_bundle_on_a_raspberry_pi_4_is_the_bundle_here(test_set, tmp_path):
    models = (FLOAT, PORTABLE, ORT_CPU)
    path = bundle(BundleOptions(models, out=tmp_path / "b.pyz")).path
    paths = [tmp_path / f"{index}.png" for index in range(500)]
    for pixels, picture in zip(test_set.images, paths, strict=False):
        Image.fromarray(pixels).save(picture)

    def on_the_pi(*arguments):
        python = emulator("cortex-a72", CPUS["cortex-a72"])
        env = {**os.environ, "PYTHONPATH": str(EMULATED / "site")}
        done = start_bundle(path, *arguments, "--json", python=python, env=env)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return json.loads(done.stdout)

    found = on_the_pi("selftest")
    assert found["passed"] is True
    assert found["machine"]["architecture"] == "aarch64"
    assert len(found["models"]) == 3
    truth = np.array([Classifier(FLOAT).contract.class_labels[i] for i in test_set.labels])
    # test_emulated has shown that the integers' logits are bit-equal
    for model, n in zip(models, (500, 50, 50), strict=True):
        said = on_the_pi("predict", *paths[:n], "--model", model.name)
        names = [row["label"] for row in said["predictions"]]
        assert names == Classifier(model, threads=1)(paths[:n]).names
        assert (np.array(names) == truth[:n]).mean() > 0.85


@pytest.mark.index
def test_bundle_runs_in_an_empty_environment_without_a_network(made, tmp_path):
    python = empty_environment(tmp_path / "venv", "numpy", "onnxruntime")
    for arguments in (["selftest"], ["predict"], ["bench", "--duration", "0.1"]):
        done = start_bundle(made.path, *arguments, python=offline(python), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["venv"]
