"""The one file for a device: what it holds, and that it runs alone.

What its commands do is shown on hand-made models, in runtime/test_main.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faults
import numpy as np
import pytest
import results
import tiny
from emulated import CPUS, EMULATED, EXPORTED, TIMEOUT_S, emulator
from environments import empty_environment, offline
from PIL import Image

from convnet_edge.bundling import start
from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.runtime import Classifier, archive
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.model_file import open_model

PACKAGE = Path(start.__file__).parents[1]
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


def save_pictures(folder, images):
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_bundle_is_the_same_bytes_each_time(made, tmp_path):
    again = bundle(BundleOptions((FLOAT, ORT_CPU), with_test_set=True, out=tmp_path / "x.pyz"))
    assert again.path.read_bytes() == made.path.read_bytes()
    assert {**again.document, "path": str(made.path)} == made.document


def test_bundle_holds_the_runtimes_own_files_and_nothing_of_the_host(made, test_set):
    found = archive.read_archive(made.path)
    members = dict(found.members)
    assert members.pop("__main__.py") == (PACKAGE / "bundling" / "start.py").read_bytes()
    assert members.pop("convnet_edge/__init__.py") == (PACKAGE / "__init__.py").read_bytes()
    for path in (PACKAGE / "runtime").rglob("*.py"):
        name = f"convnet_edge/{path.relative_to(PACKAGE).as_posix()}"
        assert members.pop(name) == path.read_bytes()
    assert members.pop(f"models/{FLOAT.name}") == FLOAT.read_bytes()
    assert set(members) == {"manifest.json", "test-set.npz", f"models/{ORT_CPU.name}"}
    np.testing.assert_array_equal(found.test_set().images, test_set.images)
    assert found.test_set().labels_sha256 == test_set.labels_sha256


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
    assert "[?] graph digest" in done.stdout
    assert [path.name for path in lonely.iterdir()] == ["b.pyz"]


def test_info_says_what_the_bundle_holds(made):
    assert "int8 (ort-cpu)" in start_bundle(made.path, "info").stdout
    found = json.loads(start_bundle(made.path, "info", "--json").stdout)
    assert found == made.document["manifest"]
    assert [model["name"] for model in found["models"]] == list(made.checks)


def test_predict_gives_the_classifiers_labels(made, test_set, tmp_path):
    paths = save_pictures(tmp_path, 255 - test_set.images[:3].repeat(4, 1).repeat(4, 2))
    done = start_bundle(made.path, "predict", *paths, "--model", FLOAT.name, "--json")
    assert done.returncode == 0, done.stderr
    found = [row["label"] for row in json.loads(done.stdout)["predictions"]]
    assert found == Classifier(FLOAT)(paths).names


@pytest.mark.parametrize(
    "place", [b"models/", b"convnet_edge/runtime/session.py", start.PREFIX, b"test-set.npz"]
)
def test_flipped_bytes_fail_before_anything_is_run(made, tmp_path, place):
    data = bytearray(made.path.read_bytes())
    data[data.rindex(place) + 10 if place == start.PREFIX else data.index(place) + 210] ^= 1
    path = tmp_path / "x.pyz"
    path.write_bytes(data)
    done = start_bundle(path, "selftest")
    assert done.returncode == 1
    assert "PASS" not in done.stdout
    assert "FAIL: the file was altered or is incomplete" in done.stderr


@pytest.mark.parametrize("change", [lambda data: data[:-100_000], lambda data: data + b"x"])
def test_file_that_is_too_short_or_too_long_does_not_run(made, tmp_path, change):
    path = tmp_path / "x.pyz"
    path.write_bytes(change(made.path.read_bytes()))
    assert start_bundle(path, "selftest").returncode != 0  # Python itself finds no archive there
    with pytest.raises(CheckFailedError, match="altered"):
        archive.read_archive(path)


@pytest.mark.slow
def test_bench_measures_accuracy_and_writes_what_report_reads(made, tmp_path):
    out = tmp_path / "r.json"
    arguments = ("--model", FLOAT.name, "--duration", "0.05", "--batch-sizes", "1,4",
                 "--threads", "1", "--out", out)  # fmt: skip
    done = start_bundle(made.path, "bench", *arguments)
    assert done.returncode == 0, done.stderr
    found = results.read(out)
    assert found.accuracy.n_correct == open_model(FLOAT).contract.document["measured"]["n_correct"]
    assert [row.batch_size for row in found.latency] == [1, 4]
    assert found.cold_start.n_processes == len(found.cold_start.processes) > 0


def wrong_goldens(document):
    document["goldens"]["logits"][0][0] += 5.0


@pytest.mark.parametrize("target", ["pyz", "testdata", "web"])
def test_model_that_fails_or_was_altered_is_not_handed_over(tmp_path, target):
    altered = bytearray(tiny.grey())
    altered[altered.index(b"linear.weight") + 60] ^= 1
    path = tmp_path / "x.onnx"
    for content, error, match in (
        (faults.change_document(tiny.grey(), wrong_goldens), CheckFailedError, "was not bundled"),
        (bytes(altered), InputError, "altered after its export"),
        (faults.unsealed(tiny.grey()), InputError, "no contracts in the file"),
    ):
        path.write_bytes(content)
        with pytest.raises(error, match=match):
            bundle(BundleOptions((path,), target=target, out=tmp_path / "out.pyz"))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("other", ["tiny", "fashion-mnist"])
def test_models_of_one_name_or_of_other_classes_are_refused(tiny_model, tmp_path, other):
    models = (tiny_model, tiny_model if other == "tiny" else FLOAT)
    match = "models of one name" if other == "tiny" else "models of other classes"
    with pytest.raises(InputError, match=match):
        bundle(BundleOptions(models, out=tmp_path / "x.pyz"))


def test_missing_packages_are_exit_2_with_the_command(made):
    done = start_bundle(made.path, "selftest", python=(sys.executable, "-I", "-S"))
    assert done.returncode == 2
    assert "pip install numpy onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr


def test_old_python_is_told_which_is_needed(made, monkeypatch, capsys):
    ast.parse(Path(start.__file__).read_bytes(), feature_version=(3, 4))
    monkeypatch.setattr(sys, "version_info", (3, 9))
    assert start.begin(str(made.path)) == 2
    assert "expected Python 3.10 or newer" in capsys.readouterr().err


def test_bundle_through_the_command_line(run, tmp_path):
    result = run("bundle", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["path"] == "fashion-mnist.pyz"
    assert (tmp_path / "fashion-mnist.pyz").stat().st_size == found["bundle_bytes"]
    assert os.access(tmp_path / "fashion-mnist.pyz", os.X_OK)
    assert "next: python3 fashion-mnist.pyz selftest" in result.stderr


@pytest.mark.arm
def test_bundle_on_a_raspberry_pi_4_is_the_bundle_here(test_set, tmp_path):
    models = (FLOAT, PORTABLE, ORT_CPU)
    path = bundle(BundleOptions(models, out=tmp_path / "b.pyz")).path
    paths = save_pictures(tmp_path, test_set.images[:500])

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
