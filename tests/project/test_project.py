"""The project as others get it: the wheel in an empty environment, and the device's old Python."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from environments import empty_environment, offline, run

REPOSITORY = Path(__file__).resolve().parents[2]
DEVICE_COMMANDS = (
    ["verify"],
    ["inspect"],
    ["bench", "--quick"],
    ["report"],
    ["predict"],
    ["predict", "x.png"],
)


def test_lock_pins_and_hashes_everything_that_the_project_asks_for():
    lock = (REPOSITORY / "requirements.lock").read_text()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + [
        r for n in ("cpu", "plot", "train", "dev") for r in extras[n]
    ]
    for requirement in asked:
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


@pytest.mark.index
def test_wheel_with_cpu_extra_works_in_an_empty_environment_offline(wheel, tmp_path, test_set):
    from PIL import Image

    Image.fromarray(test_set.images[0]).save(tmp_path / "x.png")
    python = empty_environment(tmp_path / "venv", f"{wheel}[cpu]")
    installed = run(python, "-m", "pip", "list", "--format=freeze").lower()
    assert not re.search(r"^(torch|onnx|matplotlib)==", installed, re.MULTILINE)
    program = tmp_path / "venv" / "bin" / "convnet-edge"
    for arguments in DEVICE_COMMANDS:
        run(*offline(str(program), *arguments), cwd=tmp_path)
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
def test_runtime_alone_runs_on_python_3_10(tmp_path, exported, packages):
    python = empty_environment(tmp_path / "venv", "pillow", *packages, python=PYTHON_3_10)
    shutil.copytree(REPOSITORY / "convnet_edge" / "runtime", tmp_path / "copied_runtime")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from copied_runtime import Classifier, selftest\n"
        "from copied_runtime.measure import accuracy, bench, cold_start, options, result\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    classifier = Classifier(path, threads=1)\n"
        "    checks = selftest.run_selftest(classifier)\n"
        "    assert all(check.passed for check in checks), (path, checks)\n"
        "images = classifier.contract.goldens.images\n"
        "labels = classifier(images).labels\n"
        "test = accuracy.ImageSet(images, labels, '', '', 'goldens')\n"
        "asked = options.BenchOptions(batch_sizes=(1, 2), duration_s=0.05,\n"
        "                             pace_hz=50, sustain_s=0.1)\n"
        "found = bench.bench_model(classifier, asked, name='x', version='0', test=test,\n"
        "                          checks=checks, start=cold_start.Task(path)).result\n"
        "assert result.as_json(found)['latency'][1]['n_runs'] > 10\n"
        "assert found.throughput and found.profile and len(found.paced.minutes) == 1\n"
        "print(sys.version_info[:2], found.accuracy.accuracy == 1)\n"
    )
    shipped = sorted((REPOSITORY / "exported").glob("fashion-mnist*.onnx"))
    assert len(shipped) == 3
    out = run(python, "-c", code, exported.model_path, *shipped, cwd=tmp_path)
    assert out.startswith("(3, 10)")
    assert out.strip().endswith("True")


@pytest.mark.index
def test_openvino_takes_all_nodes_or_says_which_it_leaves(wheel, tmp_path):
    python = empty_environment(tmp_path / "venv", wheel, "onnxruntime-openvino")
    folder = REPOSITORY / "exported"

    def bench(name, *options):
        command = [python, "-m", "convnet_edge", "bench", folder / name, "--quick",
                   "--provider", "openvino", "--out", "r.json", *options]  # fmt: skip
        done = subprocess.run(
            [str(c) for c in command], cwd=tmp_path, capture_output=True, text=True
        )
        return done, (tmp_path / "r.json")

    for name in ("fashion-mnist.onnx", "fashion-mnist.int8.onnx"):
        done, path = bench(name)
        assert done.returncode == 0, done.stderr
        found = json.loads(path.read_text())
        assert found["provider"]["obtained"] == "openvino"
        assert set(found["provider"]["n_nodes_run"]) == {"OpenVINO"}
        assert all(check["passed"] for check in found["checks"])
        assert abs(found["accuracy"]["accuracy"] - 0.932) < 0.002
        path.unlink()
    done, path = bench("fashion-mnist.int8-ort.onnx")
    assert done.returncode == 2
    assert "openvino does not take every node" in done.stderr
    assert "QLinearConv" in done.stderr
    assert not path.exists()
    done, path = bench("fashion-mnist.int8-ort.onnx", "--allow-cpu-nodes")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(path.read_text())["provider"]["n_nodes_run"]) == {"CPU", "OpenVINO"}


@pytest.mark.slow
def test_peers_are_compared_and_one_that_cannot_be_installed_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    printed = run(
        sys.executable, REPOSITORY / "benchmarks" / "peers.py", "--rounds", "1",
        "--seconds", "0.05", "--only", "int8 ort-cpu,LiteRT", "--venvs", tmp_path / "venvs",
        "--out", tmp_path / "p.json",
    )  # fmt: skip
    rows = {row["name"]: row for row in json.loads((tmp_path / "p.json").read_text())["rows"]}
    assert len(rows) == 3
    assert "tensorflow-cpu" in rows["LiteRT, int8 by TensorFlow"]["failed"]
    ours = rows["convnet-edge, int8 ort-cpu"]
    assert ours["input"] == "uint8"
    assert ours["accuracy"] == 0.9315
    assert len(ours["latency_ms"]) == len(ours["images_per_s"]) == 1
    assert "93.15 %" in printed
    assert (tmp_path / "p.png").stat().st_size > 5_000
