import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import typer
from pages import REPOSITORY

from convnet_edge.commands.app import main
from convnet_edge.commands.terminal import Terminal
from convnet_edge.data import fashion_mnist
from convnet_edge.runtime import files
from convnet_edge.runtime.errors import INTERRUPTED
from convnet_edge.sealing import default_model
from convnet_edge.training import record


def test_root_launcher_prints_every_version_that_matters(tmp_path):
    command = [sys.executable, str(REPOSITORY / "cli.py"), "--version"]
    lines = subprocess.check_output(command, cwd=tmp_path, text=True).splitlines()
    for name in ("convnet-edge", "python", "torch", "onnx", "onnxruntime", "numpy"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert len((REPOSITORY / "cli.py").read_text().splitlines()) <= 6


def test_letters_that_a_terminal_lacks_are_replaced(tiny_model):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "convnet_edge", "inspect", str(tiny_model)]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"[?] digest" in done.stdout


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
    [(ZeroDivisionError, 1, ""), (KeyboardInterrupt, 130, INTERRUPTED)],
)
def test_only_a_bug_keeps_its_traceback(run, monkeypatch, raised, exit_code, words):
    def broken(_):
        raise raised

    monkeypatch.setattr("convnet_edge.commands.inspect.inspect", broken)
    result = run("inspect")
    assert result.exit_code == exit_code
    assert isinstance(result.exception, ZeroDivisionError) == (raised is ZeroDivisionError)
    assert words in result.stderr


def test_a_host_package_that_does_not_load_is_exit_2(run, monkeypatch):
    def broken(_):
        raise ImportError("libtorch.so: failed to map segment", name="_C", path="/lib/torch/_C.so")

    monkeypatch.setattr("convnet_edge.commands.inspect.inspect", broken)
    result = run("inspect")
    assert result.exit_code == 2
    assert "torch cannot be loaded: libtorch.so: failed to map" in result.stderr
    assert "; expected the host side" in result.stderr


@pytest.mark.parametrize("columns", ["99999999999999999999", "0", "1", "x"])
def test_a_width_that_is_none_is_dropped(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "argv", ["convnet-edge", "inspect", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "Print what a model file is" in capsys.readouterr().out


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
    other = run(*command, "--seed", "1", "--validate", "50", "--verbose")
    assert "kept the earlier run as c/x.1.safetensors" in other.stdout
    assert "(0): Conv2d(1, 32" in other.stdout


def test_train_says_all_in_25_lines_of_80_columns(run, on_few, few, monkeypatch):
    few = replace(few, images=few.images[:70], labels=few.labels[:70], source="data")
    monkeypatch.setattr(fashion_mnist, "load_training_set", lambda *_: few)
    command = ("train", "--data", "sample", "--arch-option", "width=0.1", "--out", "x.safetensors")
    for epochs, more in ((1, ()), (10, ("--validate", "6", "--seed", "7"))):
        result = run(*command, "--epochs", epochs, *more)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert len(lines) <= 25
        assert max(map(len, lines)) <= 80
        cost = "  an epoch takes .* s or more on cpu" + ", 10 of them .* s" * (epochs > 1)
        assert any(re.fullmatch(cost, line) for line in lines)
        assert len([line for line in lines if line.startswith("Epoch [")]) == epochs
        assert "held out" in result.stdout if more else "Conv2d" not in result.stdout
        assert f" {epochs} epoch{'s' * (epochs > 1)} of batches of 64" in result.stdout


def test_second_interrupt_ends_training_without_a_traceback(
    run, on_few, few, monkeypatch, tmp_path
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fashion_mnist, "load_training_set", lambda *_: few)
    monkeypatch.setattr(files.os, "fsync", interrupt)
    command = (
        "train",
        "--data",
        "sample",
        "--arch-option",
        "width=0.1",
        "--out",
        "c/x.safetensors",
    )
    first = run(*command)
    assert (first.exit_code, "nothing is kept" in first.stderr) == (130, True)
    monkeypatch.setattr(record, "count_kept", interrupt)
    second = run(*command)
    assert (second.exit_code, second.stderr) == (130, f"convnet-edge: {INTERRUPTED}\n")
    assert not list((tmp_path / "c").iterdir())


def drawn(output):
    """Return the lines on a terminal's screen, and how often one of them was drawn or erased."""
    screen, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            screen += [""] * (row == len(screen))
        elif part.endswith("A"):
            row -= 1
        elif part.endswith("K"):
            screen[row] = ""
        elif not part.startswith("\x1b"):
            screen[row] = (
                screen[row][:column].ljust(column) + part + screen[row][column + len(part) :]
            )
            column += len(part)
    return screen


def test_bar_leaves_nothing_behind_on_a_terminal(monkeypatch):
    import rich.console

    written = io.StringIO()
    made = partial(rich.console.Console, file=written, force_terminal=True, width=80, _environ={})
    monkeypatch.setattr(rich.console, "Console", lambda **_: made())
    monkeypatch.setattr(typer, "echo", lambda line, **_: written.write(f"{line}\n"))
    terminal = Terminal()
    with terminal.progress():
        terminal.say("first")
        assert written.getvalue() == "first\n"  # nothing is drawn before there is something to show
        terminal.share(0.5, "half of it")
        assert "half of it" in drawn(written.getvalue())[1]
        terminal.share(0.5, "x" * 50)
        terminal._bar.refresh()
        assert max(map(len, drawn(written.getvalue()))) < 78  # room for the ^C of a terminal
        terminal.say("second")
        terminal.share(1, "all of it")
    assert "".join(drawn(written.getvalue())).split() == ["firstsecond"]


def test_terminal_that_cannot_erase_gets_no_bar_and_no_empty_lines(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    with terminal.progress():
        terminal.step("begins")
        terminal.note("said")
        terminal.note()
    assert capsys.readouterr().err == "said\n"
