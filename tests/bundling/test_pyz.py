"""The one file for a device: what it holds, and that it runs alone."""

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
import tiny
from emulated import CPUS, EMULATED, EXPORTED, TIMEOUT_S, emulator
from environments import empty_environment, offline
from PIL import Image

from convnet_edge.bundling import pyz, start
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.reporting.read import read_result
from convnet_edge.runtime import Classifier, archive
from convnet_edge.runtime import __main__ as device
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.model_file import open_model

PACKAGE = Path(pyz.__file__).parents[1]
FLOAT, PORTABLE, ORT_CPU = (
    EXPORTED / f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort")
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "b.pyz"
    return pyz.bundle(BundleOptions((FLOAT, ORT_CPU), with_test_set=True, out=out))


def start_bundle(path, *arguments, python=(sys.executable,), **options):
    """Run a bundle as a device would: from elsewhere, with no environment to speak of."""
    command = [*map(str, python), str(path), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={}, timeout=120, **options)


def save_pictures(folder, images):
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def with_wrong_goldens(model):
    def alter(document):
        document["goldens"]["logits"][0][0] += 5.0

    return faults.change_document(model, alter)


def test_bundle_is_the_same_bytes_each_time(made, tmp_path):
    options = BundleOptions((FLOAT, ORT_CPU), with_test_set=True, out=tmp_path / "x.pyz")
    again = pyz.bundle(options)
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again.sha256 == made.sha256


def test_bundle_holds_the_runtimes_own_files_and_nothing_of_the_host(made):
    members = dict(archive.read_archive(made.path).members)
    assert members.pop("__main__.py") == (PACKAGE / "bundling" / "start.py").read_bytes()
    assert members.pop("convnet_edge/__init__.py") == (PACKAGE / "__init__.py").read_bytes()
    for path in (PACKAGE / "runtime").rglob("*.py"):
        name = f"convnet_edge/{path.relative_to(PACKAGE).as_posix()}"
        assert members.pop(name) == path.read_bytes()
    assert members.pop(f"models/{FLOAT.name}") == FLOAT.read_bytes()
    assert set(members) == {"manifest.json", "test-set.npz", f"models/{ORT_CPU.name}"}


def test_test_set_of_a_bundle_is_the_embedded_one(made, test_set):
    found = archive.read_archive(made.path).test_set()
    np.testing.assert_array_equal(found.images, test_set.images)
    np.testing.assert_array_equal(found.labels, test_set.labels)
    assert found.images_sha256 == test_set.images_sha256
    assert found.labels_sha256 == test_set.labels_sha256


def test_selftest_passes_alone(made, tmp_path):
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(made.path, lonely / "b.pyz")
    (lonely / "b.pyz").chmod(0o444)
    lonely.chmod(0o555)
    done = start_bundle(lonely / "b.pyz", "selftest", cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("PASS")
    assert [path.name for path in lonely.iterdir()] == ["b.pyz"]


def test_letters_that_a_terminal_lacks_are_replaced(made):
    command = [sys.executable, made.path, "selftest"]
    done = subprocess.run(command, capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert b"[?] graph digest" in done.stdout


def test_selftest_as_json_names_each_models_checks(made):
    found = json.loads(start_bundle(made.path, "selftest", "--json").stdout)
    assert found["passed"] is True
    assert [model["name"] for model in found["models"]] == list(made.checks)
    for model in found["models"]:
        assert {"graph digest", "preprocessing samples"} <= {c["name"] for c in model["checks"]}


@pytest.mark.parametrize("place", ["model", "runtime", "comment", "test set", "short", "long"])
def test_flipped_bytes_fail_before_anything_is_run(made, tmp_path, place):
    data = bytearray(made.path.read_bytes())
    marks = {"model": b"models/", "runtime": b"convnet_edge/runtime/session.py",
             "comment": start.PREFIX, "test set": b"test-set.npz"}  # fmt: skip
    if place == "short":
        data = data[:-100_000]
    elif place == "long":
        data += b"x"
    elif place == "comment":
        data[data.rindex(marks[place]) + 10] ^= 1
    else:
        data[data.index(marks[place]) + 210] ^= 1
    path = tmp_path / "x.pyz"
    path.write_bytes(data)
    done = start_bundle(path, "selftest")
    assert done.returncode != 0
    assert "PASS" not in done.stdout
    if place not in ("short", "long"):  # Python itself finds no archive there
        assert done.returncode == 1
        assert "FAIL: the file was altered or is incomplete" in done.stderr
    with pytest.raises(CheckFailedError, match="altered"):
        archive.read_archive(path)


def test_info_says_what_the_bundle_holds(made):
    done = start_bundle(made.path, "info")
    assert done.returncode == 0
    assert FLOAT.name in done.stdout
    assert "int8 (ort-cpu)" in done.stdout
    assert "with the test set" in done.stdout
    assert json.loads(start_bundle(made.path, "info", "--json").stdout) == made.manifest


def test_predict_gives_the_classifiers_labels(made, test_set, tmp_path):
    paths = save_pictures(tmp_path, 255 - test_set.images[:3].repeat(4, 1).repeat(4, 2))
    done = start_bundle(made.path, "predict", *paths, "--model", FLOAT.name, "--json")
    assert done.returncode == 0, done.stderr
    found = [row["label"] for row in json.loads(done.stdout)["predictions"]]
    assert found == Classifier(FLOAT)(paths).names


def test_predict_without_pictures_labels_the_samples(made):
    done = start_bundle(made.path, "predict")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert "the fastest that passes here" in done.stderr


def test_unreadable_picture_is_exit_2_and_the_others_are_answered(made, test_set, tmp_path):
    (good,) = save_pictures(tmp_path, test_set.images[:1])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = start_bundle(made.path, "predict", tmp_path / "bad.png", good)
    assert done.returncode == 2
    assert "bad.png" in done.stderr
    assert f"{good}: " in done.stdout


@pytest.mark.slow
def test_bench_measures_accuracy_and_writes_what_report_reads(made, tmp_path):
    out = tmp_path / "r.json"
    arguments = ("--model", FLOAT.name, "--duration", "0.05", "--batch-sizes", "1,4",
                 "--threads", "1", "--out", out)  # fmt: skip
    done = start_bundle(made.path, "bench", *arguments)
    assert done.returncode == 0, done.stderr
    found = read_result(out)
    assert found.accuracy.n_correct == open_model(FLOAT).contract.document["measured"]["n_correct"]
    assert [row.batch_size for row in found.latency] == [1, 4]
    assert found.cold_start.n_processes == len(found.cold_start.processes) > 0
    assert found.machine.id
    assert not found.interrupted


def test_model_that_fails_here_is_left_out_and_said_so(made, tmp_path):
    members = dict(archive.read_archive(made.path).members)
    name = archive.MODELS + ORT_CPU.name
    members[name] = with_wrong_goldens(members[name])
    path = tmp_path / "x.pyz"
    path.write_bytes(archive.pack(members))
    done = start_bundle(path, "selftest")
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    done = start_bundle(path, "predict")
    assert done.returncode == 0
    assert f"{ORT_CPU.name} is left out, golden vectors" in done.stderr
    assert start_bundle(path, "predict", "--model", ORT_CPU.name).returncode == 1


def test_host_refuses_to_bundle_a_model_that_fails(tmp_path):
    path = tmp_path / "altered.onnx"
    path.write_bytes(with_wrong_goldens(tiny.grey()))
    with pytest.raises(CheckFailedError, match="was not bundled"):
        pyz.bundle(BundleOptions((path,), out=tmp_path / "x.pyz"))
    assert not (tmp_path / "x.pyz").exists()


def test_models_of_one_name_or_of_other_classes_are_refused(tiny_model, tmp_path):
    for models, match in (
        ((tiny_model, tiny_model), "models of one name"),
        ((tiny_model, FLOAT), "other classes"),
    ):
        with pytest.raises(InputError, match=match):
            pyz.bundle(BundleOptions(models, out=tmp_path / "x.pyz"))


def test_missing_packages_are_exit_2_with_the_command(made):
    done = start_bundle(made.path, "selftest", python=(sys.executable, "-I", "-S"))
    assert done.returncode == 2
    assert "pip install numpy onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_starts_is_old_syntax_and_knows_the_archives_comment():
    ast.parse(Path(start.__file__).read_bytes(), feature_version=(3, 4))
    assert (start.PREFIX, start.COMMENT_BYTES) == (archive.COMMENT_PREFIX, archive.COMMENT_BYTES)


def test_old_python_is_told_which_is_needed(made, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9))
    assert start.begin(str(made.path)) == 2
    assert "expected Python 3.10 or newer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "--batch-sizes", "0"],
        ["bench", "--duration", "0"],
        ["predict", "--model", "absent.onnx"],
        ["predict", "--provider", "tpu"],
        ["nonsense"],
        [],
    ],
)
def test_wrong_usage_of_a_bundle_is_exit_2(made, arguments, capsys):
    try:
        code = device.main(str(made.path), arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert capsys.readouterr().err


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
    made = pyz.bundle(BundleOptions(models, out=tmp_path / "b.pyz"))
    paths = save_pictures(tmp_path, test_set.images[:500])

    def on_the_pi(*arguments):
        done = subprocess.run(
            [*emulator("cortex-a72", CPUS["cortex-a72"]), str(made.path), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(EMULATED / "site")},
            capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout

    found = json.loads(on_the_pi("selftest", "--json"))
    assert found["passed"] is True
    assert found["machine"]["architecture"] == "aarch64"
    assert len(found["models"]) == 3
    truth = np.array([Classifier(FLOAT).contract.class_labels[i] for i in test_set.labels])
    # test_emulated has shown that the integers' logits are bit-equal
    for model, n in zip(models, (500, 50, 50), strict=True):
        said = json.loads(on_the_pi("predict", *paths[:n], "--model", model.name, "--json"))
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
