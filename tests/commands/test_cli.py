import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import faults
import pytest

from convnet_edge.commands import terminal
from convnet_edge.data import fashion_mnist
from convnet_edge.drawing.pictures import Picture
from convnet_edge.sealing import default_model

REPOSITORY = Path(__file__).resolve().parents[2]


def program(*arguments, cwd, **options):
    command = [sys.executable, "-m", "convnet_edge", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, timeout=120, **options)


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


def test_letters_that_a_terminal_lacks_are_replaced(tiny_model, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = program("inspect", tiny_model, cwd=tmp_path, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"[?] graph digest" in done.stdout


def test_closed_pipe_ends_quietly(tiny_model, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = program("inspect", tiny_model, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE)
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


def test_a_failed_proof_is_reported_and_exit_1(run, tiny_model, tmp_path):
    def alter(document):
        document["goldens"]["logits"][0][0] += 0.01

    tiny_model.write_bytes(faults.change_document(tiny_model.read_bytes(), alter))
    result = run("verify", tiny_model, "--out", "v.json", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == json.loads((tmp_path / "v.json").read_text())
    assert f"convnet-edge: {tiny_model} is not proved on cpu" in result.stderr
    assert "next: convnet-edge bench" not in result.stderr


@pytest.mark.parametrize(
    ("raised", "exit_code", "words"),
    [(ZeroDivisionError, 1, ""), (KeyboardInterrupt, 130, "interrupted")],
)
def test_a_bug_keeps_its_traceback_and_an_interrupt_has_none(
    run, monkeypatch, raised, exit_code, words
):
    def broken(_):
        raise raised

    monkeypatch.setattr("convnet_edge.commands.inspect.inspect", broken)
    result = run("inspect")
    assert result.exit_code == exit_code
    assert isinstance(result.exception, ZeroDivisionError) == (raised is ZeroDivisionError)
    assert words in result.stderr


def test_of_torchruns_processes_one_on_each_machine_complains(run, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run("inspect", "absent.onnx").stderr == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "convnet-edge (process 3): absent.onnx" in run("inspect", "absent.onnx").stderr


def test_pictures_go_to_stderr_and_missing_ones_are_named(capsys):
    pictures = (Picture(Path("a.png"), drawn=True), Picture(Path("b.png"), drawn=False))
    terminal.Terminal().wrote((Path("r.json"),), pictures)
    out, err = capsys.readouterr()
    assert out == "wrote r.json\n"
    assert err.startswith("wrote a.png\nleft out, matplotlib is not installed: b.png; ")


def test_train_through_the_command_line(run, tmp_path, monkeypatch):
    small = fashion_mnist.load_training_set("sample", tmp_path)
    few = replace(small, images=small.images[:320], labels=small.labels[:320])
    monkeypatch.setattr(fashion_mnist, "load_training_set", lambda *_: few)
    monkeypatch.setattr(fashion_mnist, "load_test_set", lambda: few)
    command = ("train", "--data", "sample", "--out", "c/x.safetensors")
    result = run(*command, "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert "Model has 225034 trainable parameters" in result.stdout
    assert "2,215,168 multiplications an image" in result.stdout
    assert "Epoch [  1/  2] finished. Mean loss: " in result.stdout
    assert result.stdout.count("Test accuracy") == 1
    assert result.stdout.endswith("next: convnet-edge export c/x.safetensors\n")
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["x.safetensors", "x.train.json", "x.train.png"]
    as_json = run(*command, "--epochs", "1", "--json")
    assert json.loads(as_json.stdout)["training"]["epochs"] == 1
    again = run(*command, "--epochs", "1", "--resume", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["training"]["epochs"] == 1
    assert "c/x.safetensors is complete: nothing to do" in again.stderr


def take_interrupts():
    """Let Ctrl-C work in the child; what a shell starts in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_interrupted_training_resumes_from_the_command_line(tmp_path):
    arguments = ["train", "--data", "sample", "--epochs", "2", "--batch-size", "250"]
    arguments += ["--out", "x.safetensors"]
    process = subprocess.Popen(
        [sys.executable, "-m", "convnet_edge", *arguments],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=take_interrupts,
    )  # fmt: skip
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
    resumed = program(*arguments, "--resume", cwd=tmp_path, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming after 1 complete epochs" in resumed.stdout
    assert not (tmp_path / "x.resume.safetensors").exists()
