"""The one file for a device: what it holds, and that it runs alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faults
import numpy as np
import pytest
from PIL import Image

from convnet_edge.bundling import pyz as stage
from convnet_edge.bundling import start
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.reporting import results
from convnet_edge.runtime import Classifier, archive
from convnet_edge.runtime import __main__ as device
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.measure import tuning

PACKAGE = Path(stage.__file__).parents[1]


@pytest.fixture(scope="module")
def made(exported, quantised, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "tiny.pyz"
    models = (exported.model_path, quantised["ort-cpu"].model_path)
    return stage.bundle(BundleOptions(models, with_test_set=True, out=out))


def start_bundle(path, *arguments, python=(sys.executable,), **options):
    """Run a bundle as a device would: from elsewhere, with no environment to speak of."""
    command = [*map(str, python), str(path), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={}, timeout=120, **options)


def test_bundle_is_the_same_bytes_each_time(made, tmp_path, exported, quantised):
    models = (exported.model_path, quantised["ort-cpu"].model_path)
    again = stage.bundle(BundleOptions(models, with_test_set=True, out=tmp_path / "x.pyz"))
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again.sha256 == made.sha256


def test_bundle_holds_the_runtimes_own_files(made):
    members = archive.read_archive(made.path).members
    for path in (PACKAGE / "runtime").rglob("*.py"):
        assert members[f"convnet_edge/runtime/{path.name}"] == path.read_bytes()
    assert members["__main__.py"] == (PACKAGE / "bundling" / "start.py").read_bytes()
    assert not [name for name in members if "torch" in name or name.endswith("cli.py")]


def test_selftest_passes_alone(made, tmp_path):
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(made.path, lonely / "b.pyz")
    (lonely / "b.pyz").chmod(0o444)
    lonely.chmod(0o555)
    done = start_bundle(lonely / "b.pyz", "selftest", cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("PASS")
    assert "archive: its bytes are those that were bundled" in done.stdout
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
    if place == "short":
        data = data[:-100_000]
    elif place == "long":
        data += b"x"
    else:
        marks = {"model": b"models/", "runtime": b"convnet_edge/runtime/session.py",
                 "comment": start.PREFIX, "test set": b"test-set/images.gz"}  # fmt: skip
        offset = bytes(data).rindex(marks[place]) if place == "comment" else (
            bytes(data).index(marks[place]) + 200)  # fmt: skip
        data[offset + 10] ^= 1
    path = tmp_path / "x.pyz"
    path.write_bytes(data)
    done = start_bundle(path, "selftest")
    assert done.returncode != 0
    if place not in ("short", "long"):  # Python itself finds no archive there
        assert done.returncode == 1
        assert "FAIL: the file was altered or is incomplete" in done.stderr
        assert "PASS" not in done.stdout
    with pytest.raises(CheckFailedError, match="altered"):
        archive.read_archive(path)


def test_info_says_what_the_bundle_holds(made, exported):
    done = start_bundle(made.path, "info")
    assert done.returncode == 0
    assert exported.model_path.name in done.stdout
    assert "int8 (ort-cpu)" in done.stdout
    assert "with the test set" in done.stdout
    assert json.loads(start_bundle(made.path, "info", "--json").stdout) == made.manifest


def test_predict_gives_the_classifiers_labels(made, exported, test_set, tmp_path):
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(255 - test_set.images[index].repeat(4, 0).repeat(4, 1)).save(paths[-1])
    arguments = ("predict", *paths, "--model", exported.model_path.name, "--json")
    done = start_bundle(made.path, *arguments)
    assert done.returncode == 0, done.stderr
    found = [row["label"] for row in json.loads(done.stdout)["predictions"]]
    assert found == Classifier(exported.model_path)(paths).names


def test_predict_without_pictures_labels_the_samples(made):
    done = start_bundle(made.path, "predict")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert "the fastest that passes here" in done.stderr


def test_unreadable_picture_is_exit_2_and_the_others_are_answered(made, test_set, tmp_path):
    Image.fromarray(test_set.images[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = start_bundle(made.path, "predict", tmp_path / "bad.png", tmp_path / "good.png")
    assert done.returncode == 2
    assert "bad.png" in done.stderr
    assert "good.png: " in done.stdout


@pytest.mark.slow
def test_bench_measures_accuracy_and_writes_what_report_reads(made, exported, tmp_path):
    out = tmp_path / "r.json"
    arguments = ("--model", exported.model_path.name, "--duration", "0.05", "--batch-sizes", "1,4",
                 "--threads", "1", "--out", out)  # fmt: skip
    done = start_bundle(made.path, "bench", *arguments)
    assert done.returncode == 0, done.stderr
    found = results.read_result(out).document
    assert found["accuracy"]["n_correct"] == exported.score.n_correct
    assert [row["batch_size"] for row in found["latency"]] == [1, 4]
    assert found["cold_start"]["n_processes"] == 5
    assert found["machine"]["id"]
    assert f"verdict: {found['verdict']['status']}" in done.stdout
    assert "interrupted" in found


def packed_with(members, **changed):
    return archive.pack({**members, **changed})


def test_model_that_fails_here_is_left_out_and_said_so(made, quantised, tmp_path):
    members = dict(archive.read_archive(made.path).members)
    broken = quantised["ort-cpu"].model_path.name

    def alter(document):
        document["goldens"]["logits"][0][0] += 5.0

    name = archive.MODELS + broken
    members[name] = faults.change_document(members[name], alter)
    path = tmp_path / "x.pyz"
    path.write_bytes(archive.pack(members))
    done = start_bundle(path, "selftest")
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    done = start_bundle(path, "predict")
    assert done.returncode == 0
    assert f"{broken} is left out, golden vectors" in done.stderr
    assert start_bundle(path, "predict", "--model", broken).returncode == 1


def test_host_refuses_to_bundle_a_model_that_fails(model_bytes, tmp_path):
    def alter(document):
        document["goldens"]["logits"][0][0] += 5.0

    path = tmp_path / "altered.onnx"
    path.write_bytes(faults.change_document(model_bytes, alter))
    with pytest.raises(CheckFailedError, match="was not bundled"):
        stage.bundle(BundleOptions((path,), out=tmp_path / "x.pyz"))
    assert not (tmp_path / "x.pyz").exists()


def test_missing_packages_are_exit_2_with_the_command(made):
    done = start_bundle(made.path, "selftest", python=(sys.executable, "-I", "-S"))
    assert done.returncode == 2
    assert "pip install numpy onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr


def old_python():
    found = [*Path.home().glob(".pyenv/versions/3.[89].*/bin/python"), shutil.which("python3.9")]
    return next((python for python in found if python), None)


@pytest.mark.skipif(old_python() is None, reason="no Python older than 3.10 here")
def test_old_python_is_told_which_is_needed(made):
    done = start_bundle(made.path, "selftest", python=(old_python(),))
    assert done.returncode == 2
    assert "expected Python 3.10 or newer" in done.stderr


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


def test_tuned_threads_travel_and_hold_for_their_machine(exported, model_bytes, tmp_path, capsys):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_bytes)
    found = tuning.Tuning(threads=3, throughput_threads=1, n_callers=1, batch_size=64)
    tuning.write(path, model_bytes, "cpu", found)
    made = stage.bundle(BundleOptions((path,), out=tmp_path / "m.pyz"))
    opened = archive.read_archive(made.path)
    assert device._tuned_threads(opened, "m.onnx", model_bytes, "cpu") == 3
    assert device._tuned_threads(opened, "m.onnx", model_bytes, "cuda") is None


def test_models_of_one_name_are_refused(exported, tmp_path):
    models = (exported.model_path, exported.model_path)
    with pytest.raises(InputError, match="two models named"):
        stage.bundle(BundleOptions(models, out=tmp_path / "x.pyz"))


def test_bundle_through_the_command_line(run, tmp_path):
    result = run("bundle", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["path"] == "fashion-mnist.pyz"
    assert (tmp_path / "fashion-mnist.pyz").stat().st_size == found["bundle_bytes"]
    assert os.access(tmp_path / "fashion-mnist.pyz", os.X_OK)
    assert "next: python3 fashion-mnist.pyz selftest" in result.stderr


def test_testdata_through_the_command_line(run, exported, tmp_path):
    result = run("bundle", exported.model_path, "--target", "testdata")
    assert result.exit_code == 0, result.output
    folder = tmp_path / f"{exported.model_path.stem}-testdata"
    assert (folder / "model.onnx").read_bytes() == exported.model_path.read_bytes()
    assert (folder / "test_data_set_0" / "output_0.pb").stat().st_size > 100
    twice = run("bundle", exported.model_path, exported.model_path, "--target", "testdata")
    assert twice.exit_code == 2


@pytest.mark.arm
def test_bundle_on_a_raspberry_pi_4_is_the_bundle_here(test_set, tmp_path):
    from test_emulated import CPUS, EMULATED, EXPORTED, N_IMAGES, TIMEOUT_S, emulator

    models = tuple(EXPORTED / f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort"))
    made = stage.bundle(BundleOptions(models, out=tmp_path / "b.pyz"))
    paths = []
    for index in range(N_IMAGES):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(test_set.images[index]).save(paths[-1])

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
    truth = np.array([Classifier(models[0]).contract.class_labels[i] for i in test_set.labels])
    # test_emulated has shown that the integers' logits are bit-equal
    for model, n in zip(models, (N_IMAGES, 50, 50), strict=True):
        said = json.loads(on_the_pi("predict", *paths[:n], "--model", model.name, "--json"))
        names = [row["label"] for row in said["predictions"]]
        assert names == Classifier(model, threads=1)(paths[:n]).names
        assert (np.array(names) == truth[:n]).mean() > 0.85


@pytest.mark.index
def test_bundle_runs_in_an_empty_environment_without_a_network(made, tmp_path):
    from test_project import offline

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime"], check=True
    )  # fmt: skip
    for arguments in (["selftest"], ["predict"], ["bench", "--duration", "0.1"]):
        done = start_bundle(made.path, *arguments, python=offline(python), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["venv"]
