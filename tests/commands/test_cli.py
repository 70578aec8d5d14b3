import json
import os
import subprocess
import sys

import pytest
from pages import REPOSITORY

from convnet_edge.data import fashion_mnist
from convnet_edge.sealing import default_model


def inspect(model_path, **options):
    command = [sys.executable, "-m", "convnet_edge", "inspect", str(model_path)]
    return subprocess.run(command, stderr=subprocess.PIPE, **options)


def test_root_launcher_prints_every_version_that_matters(tmp_path):
    command = [sys.executable, str(REPOSITORY / "cli.py"), "--version"]
    lines = subprocess.check_output(command, cwd=tmp_path, text=True).splitlines()
    for name in ("convnet-edge", "python", "torch", "onnx", "onnxruntime", "numpy"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert len((REPOSITORY / "cli.py").read_text().splitlines()) <= 3


def test_letters_that_a_terminal_lacks_are_replaced(tiny_model):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = inspect(tiny_model, stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"[?] graph digest" in done.stdout


def test_closed_pipe_ends_quietly(tiny_model):
    reader, writer = os.pipe()
    os.close(reader)
    done = inspect(tiny_model, stdout=writer)
    os.close(writer)
    assert b"Traceback" not in done.stderr


def test_model_defaults_to_ones_own_then_to_the_shipped(run, tiny_model, tmp_path):
    shipped = run("inspect", "--json")
    assert json.loads(shipped.stdout)["path"] == str(default_model.shipped_model())
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "convnet.onnx").write_bytes(tiny_model.read_bytes())
    assert json.loads(run("inspect", "--json").stdout)["path"] == "exported/convnet.onnx"


def test_verify_proves_writes_and_names_what_comes_next(run, tiny_model, tmp_path):
    result = run("verify", tiny_model, "--out", "v.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"wrote v.json\nnext: convnet-edge bench {tiny_model}\n")
    as_json = run("verify", tiny_model, "--out", "v.json", "--json")
    assert json.loads(as_json.stdout) == json.loads((tmp_path / "v.json").read_text())
    assert as_json.stderr.endswith(f"next: convnet-edge bench {tiny_model}\n")


@pytest.mark.parametrize(
    ("raised", "exit_code", "words"),
    [(ZeroDivisionError, 1, ""), (KeyboardInterrupt, 130, "interrupted")],
)
def test_only_a_bug_keeps_its_traceback(run, monkeypatch, raised, exit_code, words):
    def broken(_):
        raise raised

    monkeypatch.setattr("convnet_edge.commands.inspect.inspect", broken)
    result = run("inspect")
    assert result.exit_code == exit_code
    assert isinstance(result.exception, ZeroDivisionError) == (raised is ZeroDivisionError)
    assert words in result.stderr


def test_of_torchruns_processes_one_on_each_machine_complains(run, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run("inspect", "absent.onnx").stderr == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "convnet-edge (process 3): absent.onnx" in run("inspect", "absent.onnx").stderr


def test_train_shows_its_progress_and_resumes_no_complete_run(run, on_few, few, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "load_training_set", lambda *_: few)
    command = ("train", "--data", "sample", "--epochs", "2", "--out", "c/x.safetensors")
    result = run(*command)
    assert result.exit_code == 0, result.output
    for part in ("Model has 225034 trainable parameters", "2,215,168 multiplications an image",
                 "Epoch [  1/  2] finished. Mean loss: ", "Test accuracy"):  # fmt: skip
        assert result.stdout.count(part) == 1
    assert result.stdout.endswith("next: convnet-edge export c/x.safetensors\n")
    again = run(*command, "--resume", "--json")
    assert json.loads(again.stdout)["training"]["epochs"] == 2
    assert "c/x.safetensors is complete: nothing to do" in again.stderr
