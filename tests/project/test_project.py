"""The project as others get it: the wheel in an empty environment, and the device's old Python."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import results
from emulated import EXPORTED, REPOSITORY
from environments import empty_environment, offline, run

from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions


def test_lock_pins_and_hashes_everything_that_the_project_asks_for():
    lock = (REPOSITORY / "requirements.lock").read_text()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = (extras[name] for name in ("cpu", "plot", "train", "dev"))
    for requirement in chain(project["dependencies"], *asked):
        name = re.match(r"[\w-]+", requirement).group().lower()
        if name != "convnet-edge":
            assert re.search(rf"^{name}==", lock, re.MULTILINE), name
    assert "http" not in lock
    entries = re.findall(r"^[\w.-]+==", lock, re.MULTILINE)
    assert lock.count("--hash=sha256:") >= len(entries)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", folder, REPOSITORY)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_example_runs_the_whole_chain_and_shows_what_it_made(tmp_path):
    printed = run(sys.executable, REPOSITORY / "examples" / "chain.py", tmp_path, cwd=tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"convnet.onnx", "convnet.int8.onnx", "report.html", "convnet.pyz", "bench"} <= made
    assert f"ExportResult(model_path={tmp_path / 'convnet.onnx'}" in printed
    assert "batch_sizes=0; expected whole numbers from 1 to 4,096" in printed
    assert max(map(len, printed.splitlines())) < 1500


USE = """
import convnet_edge as ce
trained = ce.train(ce.TrainOptions(data="sample", epochs=3))
if trained is not None:
    exported = ce.export(ce.ExportOptions(trained.checkpoint_path, input="uint8"))
    verified = ce.verify(ce.VerifyOptions(exported.model_path))
    quantized = ce.quantize(ce.QuantizeOptions(exported.model_path))
    models = (exported.model_path, quantized.model_path)
    measured = ce.bench(ce.BenchOptions(models, batch_sizes=(1, 8)))
    compared = ce.compare(ce.CompareOptions(*models))
    reported = ce.report(ce.ReportOptions(tuple(one.result_path for one in measured)))
    bundled = ce.bundle(ce.BundleOptions(models))
    answers = [one.label for one in ce.predict(ce.PredictOptions(plot=True))]
    file = ce.inspect(ce.InspectOptions())
    predictions = ce.Classifier(exported.model_path)
    reveal_type((trained, exported, verified, quantized, measured[0], compared, reported, bundled,
                 answers[0], file, predictions))
ce.trian
ce.runtime.Classifer
ce.TrainOptions(epochs="3")
"""
TYPES = ("TrainResult", "ExportResult", "VerifyResult", "QuantizeResult", "Benched", "Comparison",
         "ReportResult", "Bundle", "str", "ModelFile", "Classifier")  # fmt: skip


@pytest.mark.slow  # mypy takes 9 s
def test_static_checker_sees_the_types_of_the_installed_wheel(wheel, tmp_path):
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--target", tmp_path / "site", wheel)  # fmt: skip
    (tmp_path / "use.py").write_text(USE)
    others = ",".join(f"{name}.*" for name in ("torch", "onnx", "onnxruntime", "numpy", "typer"))
    (tmp_path / "mypy.ini").write_text(f"[mypy-{others}]\nfollow_imports = skip\n")  # half a minute
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py"],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"MYPYPATH": "", "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    revealed, unknown, misspelt, wrong, count = done.stdout.splitlines()
    assert re.findall(r"[\w.]*?(\w+)(?:,|\]\")", revealed) == list(TYPES), revealed
    assert 'has no attribute "trian"' in unknown
    assert 'has no attribute "Classifer"' in misspelt
    assert 'Argument "epochs" to "TrainOptions" has incompatible type "str"' in wrong
    assert count.startswith("Found 3 errors")


@pytest.mark.index
def test_wheel_with_cpu_extra_works_in_an_empty_environment_offline(wheel, tmp_path, test_set):
    from PIL import Image

    Image.fromarray(test_set.images[0]).save(tmp_path / "x.png")
    python = empty_environment(tmp_path / "venv", f"{wheel}[cpu]")
    installed = run(python, "-m", "pip", "list", "--format=freeze").lower()
    assert not re.search(r"^(torch|onnx|matplotlib)==", installed, re.MULTILINE)
    program = tmp_path / "venv" / "bin" / "convnet-edge"
    for line in ("verify", "inspect", "bench --quick", "report", "predict", "predict x.png"):
        run(*offline(str(program), *line.split()), cwd=tmp_path)
    assert not list(tmp_path.glob("*/*.png"))


PYTHON_3_10 = next(  # a shim of that name in the PATH works only where pyenv has one
    (str(path) for path in Path.home().glob(".pyenv/versions/3.10.*/bin/python")),
    shutil.which("python3.10"),
)


@pytest.mark.index
@pytest.mark.skipif(PYTHON_3_10 is None, reason="no Python 3.10 here")
@pytest.mark.parametrize(
    "packages", [("numpy", "onnxruntime"), ("numpy<2", "onnxruntime==1.16.3")], ids=str
)
def test_bundle_runs_on_a_device_s_old_python(tmp_path, exported, packages):
    python = empty_environment(tmp_path / "venv", "pillow", *packages, python=PYTHON_3_10)
    models = (*sorted(EXPORTED.glob("*.onnx")), exported.model_path)  # the first has the test set
    path = bundle(BundleOptions(models, with_test_set=True, out=tmp_path / "b.pyz")).path
    found = json.loads(run(python, path, "selftest", "--json"))
    assert found["passed"] is True
    assert len(found["models"]) == 4
    run(python, path, "bench", "--batch-sizes", "1,2", "--duration", "0.05", "--profile",
        "--pace", "50hz", "--sustain", "0.1s", "--out", tmp_path / "r.json")  # fmt: skip
    found = results.read(tmp_path / "r.json")
    assert found.machine.python.startswith("3.10.")
    assert [row.batch_size for row in found.latency] == [1, 2]
    assert found.accuracy.n == 10_000
    assert found.throughput
    assert found.profile
    assert found.paced


@pytest.mark.index
def test_openvino_takes_all_nodes_or_says_which_it_leaves(wheel, tmp_path):
    python = empty_environment(tmp_path / "venv", wheel, "onnxruntime-openvino")
    out = tmp_path / "r.json"

    def bench(name, *options):
        command = [python, "-m", "convnet_edge", "bench", EXPORTED / name, "--quick",
                   "--provider", "openvino", "--out", out, *options]  # fmt: skip
        return subprocess.run(map(str, command), cwd=tmp_path, capture_output=True, text=True)

    done = bench("fashion-mnist.int8-ort.onnx")
    assert done.returncode == 2
    assert "openvino does not take every node" in done.stderr
    assert "QLinearConv" in done.stderr
    assert not out.exists()
    for name, options, ran in (
        ("fashion-mnist.onnx", (), {"OpenVINO"}),
        ("fashion-mnist.int8.onnx", (), {"OpenVINO"}),
        ("fashion-mnist.int8-ort.onnx", ("--allow-cpu-nodes",), {"CPU", "OpenVINO"}),
    ):
        done = bench(name, *options)
        assert done.returncode == 0, done.stderr
        found = results.read(out)
        assert found.provider.obtained == "openvino"
        assert set(found.provider.n_nodes_run) == ran
        assert all(check.passed for check in found.checks)
        assert abs(found.accuracy.accuracy - 0.932) < 0.002


@pytest.mark.slow
def test_peers_are_compared_and_one_that_cannot_be_installed_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    printed = run(
        sys.executable, REPOSITORY / "benchmarks" / "peers.py", "--rounds", "1",
        "--seconds", "0.05", "--only", "int8 ort-cpu,LiteRT", "--venvs", tmp_path / "venvs",
        "--out", tmp_path / "p.json",
    )  # fmt: skip
    rows = {row["name"]: row for row in json.loads((tmp_path / "p.json").read_text())["rows"]}
    assert len(rows) == 4
    assert "litert-torch" in rows["LiteRT, int8 by its quantizer"]["failed"]
    ours = rows["convnet-edge, int8 ort-cpu"]
    assert ours["input"] == "uint8"
    assert ours["accuracy"] == 0.9324
    assert len(ours["latency_ms"]) == len(ours["images_per_s"]) == 1
    assert ours["throughput_cpu_ratio"]["median"] > 0
    assert "93.24 %" in printed
    assert (tmp_path / "p.png").stat().st_size > 5_000


@pytest.mark.slow
def test_peers_get_a_network_of_ones_own_and_how_far_its_integers_are_behind(tmp_path):
    out = tmp_path / "p.json"
    run(
        sys.executable, REPOSITORY / "benchmarks" / "peers.py", "--rounds", "0",
        "--arch", f"{REPOSITORY / 'examples' / 'residual.py'}:Residual", "--image-size", "24",
        "--epochs", "2", "--max-drop", "5", "--only", "eager,convnet-edge", "--out", out,
    )  # fmt: skip
    found = json.loads(out.read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert found["image_shape"] == [24, 24, 3]
    eager, ours = rows["torch, float32, eager"], rows["convnet-edge, int8 portable"]
    assert eager["n_label_flips"] == 0
    pair = eager["convnet_edge_int8"]
    n_lost_more = pair["n_lost"] - pair["n_gained"]
    assert n_lost_more == round((eager["accuracy"] - ours["accuracy"]) * found["n_images"])
    assert pair["drop_upper_bound_95"] > n_lost_more / found["n_images"]
