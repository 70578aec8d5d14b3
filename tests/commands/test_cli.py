import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convnet_edge.data import fashion_mnist as data
from convnet_edge.runtime.measure.options import BenchOptions
from convnet_edge.sealing import default_model as locate
from convnet_edge.training.options import TrainOptions

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = [
    "train",
    "export",
    "verify",
    "inspect",
    "bench",
    "compare",
    "report",
    "bundle",
    "doctor",
    "predict",
    "quickstart",
]


def start(*arguments, cwd, **options):
    command = [sys.executable, "-m", "convnet_edge", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=take_interrupts, **options,
    )  # fmt: skip


def take_interrupts():
    """Let Ctrl-C work in the child; what a shell starts in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_says_what_it_does(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


def test_help_shows_the_defaults_of_the_configs(run):
    text = run("train", "--help").stdout
    assert f"[default: {TrainOptions.recipe}]" in text
    assert f"[default: {TrainOptions.width}]" in text
    sizes = ",".join(map(str, BenchOptions.batch_sizes))
    assert f"[default: {sizes}]" in run("bench", "--help").stdout


def test_version_prints_every_version_that_matters(run):
    result = run("--version")
    assert result.exit_code == 0
    for name in ("convnet-edge", "python", "torch", "onnx", "onnxruntime", "numpy"):
        assert any(line.startswith(f"{name} ") for line in result.stdout.splitlines())


def test_root_launcher_is_the_same_program(tmp_path):
    command = [sys.executable, str(REPOSITORY / "cli.py"), "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("convnet-edge ")
    assert len((REPOSITORY / "cli.py").read_text().splitlines()) <= 3


def test_letters_that_a_terminal_lacks_are_replaced(exported, tmp_path):
    command = [sys.executable, "-m", "convnet_edge", "verify", str(exported.model_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"[?] graph digest" in done.stdout


def test_train_through_the_command_line(run, tmp_path, monkeypatch):
    small = data.load_training_set("sample", tmp_path)
    from dataclasses import replace

    few = replace(small, images=small.images[:320], labels=small.labels[:320])
    monkeypatch.setattr(data, "load_training_set", lambda *_: few)
    result = run("train", "--data", "sample", "--epochs", "2", "--out", "c/x.safetensors")
    assert result.exit_code == 0, result.output
    assert "Model has 225034 trainable parameters" in result.stdout
    assert "2,215,168 multiplications an image" in result.stdout
    assert "Epoch [  1/  2] finished. Mean loss: " in result.stdout
    assert "(before each update" in result.stdout
    assert result.stdout.count("Test accuracy") == 1
    assert "next: convnet-edge export c/x.safetensors" in result.stdout
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["x.safetensors", "x.train.json", "x.train.png"]
    as_json = run(
        "train", "--data", "sample", "--epochs", "1", "--out", "c/x.safetensors", "--json"
    )
    assert json.loads(as_json.stdout)["training"]["epochs"] == 1
    again = run("train", "--data", "sample", "--epochs", "1", "--out", "c/x.safetensors",
                "--resume", "--json")  # fmt: skip
    assert again.exit_code == 0
    assert json.loads(again.stdout)["training"]["epochs"] == 1
    assert "c/x.safetensors is complete: nothing to do" in again.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--epochs", "0"],
        ["train", "--device", "tpu"],
        ["train", "--data", "cifar"],
        ["train", "--out", "model.pt"],
        ["train", "--data", "sample", "--kernel-size", "20"],
        ["export", "absent.safetensors"],
        ["verify", "absent.onnx"],
        ["predict", "--format", "xml"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_exit_2_without_traceback(run, arguments, tmp_path):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_model_defaults_to_ones_own_then_to_the_shipped(run, exported, tmp_path):
    shipped = run("inspect", "--json")
    assert json.loads(shipped.stdout)["path"] == str(locate.shipped_model())
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "convnet.onnx").write_bytes(exported.model_path.read_bytes())
    assert json.loads(run("inspect", "--json").stdout)["path"] == "exported/convnet.onnx"


def test_unwritable_place_is_exit_2(run, exported, tmp_path):
    (tmp_path / "file").write_text("x")
    result = run("verify", exported.model_path, "--out", "file/report.json")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    from convnet_edge.commands import inspect as stage

    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(stage, "inspect", broken)
    assert isinstance(run("inspect").exception, ZeroDivisionError)


@pytest.mark.slow
def test_interrupted_training_resumes_from_the_command_line(tmp_path):
    arguments = ["train", "--data", "sample", "--epochs", "2", "--batch-size", "250"]
    arguments += ["--out", "x.safetensors"]
    process = start(*arguments, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "x.resume.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "1 complete of 2 kept in x.resume.safetensors" in stderr
    assert "--resume" in stderr
    assert not (tmp_path / "x.safetensors").exists()
    resumed = start(*arguments, "--resume", cwd=tmp_path)
    stdout, stderr = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, stderr
    assert "Resuming after 1 complete epochs" in stdout
    assert not (tmp_path / "x.resume.safetensors").exists()


def test_closed_pipe_ends_quietly(exported, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "convnet_edge", "inspect", str(exported.model_path)]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert "Traceback" not in done.stderr
