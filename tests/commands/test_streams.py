"""What people get to see: no control characters, no tracebacks, whatever the streams do."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import faults
import pytest
import tiny
from pages import REPOSITORY
from typer.testing import CliRunner

from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.commands import terminal
from convnet_edge.commands.app import COMMANDS, app, main
from convnet_edge.predicting.options import PredictOptions
from convnet_edge.runtime.__main__ import main as device_main
from convnet_edge.runtime.errors import InputError
from convnet_edge.training.options import TrainOptions

ESCAPE = "\x1b]0;owned\x07"
LABEL = f"{ESCAPE}\x9b2J\u202ebar\x7f\nFORGED"  # bell, title, C1, turned writing, DEL, new line
SHOWN = r"\u001b]0;owned\u0007\u009b2J\u202ebar\u007f\nFORGED"
FULL_PATH = Path("/dev/full")
FULL = pytest.mark.skipif(not FULL_PATH.exists(), reason="no device that is always full")


@pytest.fixture(scope="module")
def hostile_model(tmp_path_factory):
    """A model whose first label is more than letters."""

    def rename(document):
        document["class_labels"][0] = LABEL

    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    path.write_bytes(faults.change_document(tiny.grey(), rename))
    return path


@pytest.fixture(scope="module")
def hostile_bundle(hostile_model):
    out = hostile_model.with_name("b.pyz")
    return str(bundle(BundleOptions((hostile_model,), out=out)).path)


@pytest.fixture
def hostile_picture(tmp_path):
    path = tmp_path / f"a{ESCAPE}\nFORGED.png"
    path.write_bytes(tiny.pictures()[0].encoded)
    return path


def is_clean(text):
    return all(
        letter.isprintable() or letter in "\n\t" for letter in text.replace("\nFORGED", "\r")
    )


@pytest.mark.parametrize(
    "line",
    [
        "inspect {model}",
        "predict {picture} --model {model}",
        "predict {picture} --model {model} --json",
        "predict {picture} --model {model} --format jsonl",
        "predict {text} --model {model}",
        "verify {model} --out {text}/x.json",
        "inspect {escape}",
        "{escape}",
        "inspect --{escape}",
        "predict --format {escape}",
        "bench --pace {escape}",
    ],
)
def test_control_characters_reach_no_terminal(run, hostile_model, hostile_picture, tmp_path, line):
    text = tmp_path / f"forged{ESCAPE}\nFORGED"
    text.write_text("no picture")
    names = {"model": hostile_model, "picture": hostile_picture, "text": text, "escape": ESCAPE}
    result = run(*(part.format(**names) for part in line.split(" ")))
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    assert is_clean(result.output)
    assert "owned" in result.output


@pytest.mark.parametrize("name", ["a;touch PWN'.onnx", "$(touch PWN).onnx", "two words.onnx"])
def test_the_next_command_names_one_file_whatever_its_name(run, tmp_path, name):
    (tmp_path / name).write_bytes(tiny.grey())
    for command in (("inspect", name), ("verify", name, "--out", "v.json")):
        last = run(*command).stdout.splitlines()[-1]
        assert shlex.split(last.removeprefix("next: "))[2:] == [name]


def test_json_and_tables_keep_the_exact_names(run, hostile_model, hostile_picture, monkeypatch):
    monkeypatch.setattr(terminal, "is_terminal", lambda *, err: True)
    monkeypatch.setenv("COLUMNS", "20")  # where lines for people are folded
    command = ("predict", hostile_picture, "--model", hostile_model)
    (answer,) = json.loads(run(*command, "--json").stdout)["predictions"]
    assert answer["path"] == str(hostile_picture)
    assert LABEL in {one["label"] for one in answer["top"]}
    (line,) = run(*command, "--format", "jsonl").stdout.splitlines()
    assert json.loads(line) == answer
    table = run(*command, "--format", "csv").stdout
    assert LABEL in list(csv.reader(io.StringIO(table)))[1]


def test_a_table_on_a_terminal_is_visible(monkeypatch):
    from convnet_edge.commands import predict

    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(predict.sys, "stdout", screen := Screen())
    predict._Rows().write(f"{LABEL},1\n")
    assert screen.getvalue() == f"{SHOWN},1\n"


@pytest.mark.parametrize(
    "arguments", [["predict"], ["predict", "--json"], ["info"], ["selftest"], [f"-{ESCAPE}"],
                  ["predict", f"/absent{ESCAPE}\nFORGED"], ["predict", "--threads", ESCAPE]]
)  # fmt: skip
def test_control_characters_reach_no_terminal_of_a_device(hostile_bundle, capsys, arguments):
    device_main(hostile_bundle, arguments)
    said = capsys.readouterr()
    assert is_clean(said.out + said.err)
    if arguments[-1] == "--json":
        assert LABEL in said.out.encode().decode("unicode_escape")
        json.loads(said.out)


@FULL
@pytest.mark.parametrize(
    ("on", "line"),
    [*(("host", line) for line in ("--help", "--version", "bench --help", "inspect",
                                   "inspect --json", "doctor --json")),
     *(("device", line) for line in ("--help", "info", "selftest", "predict --json"))],
)  # fmt: skip
def test_full_disk_under_stdout_is_exit_2(monkeypatch, capsys, hostile_bundle, on, line):
    monkeypatch.setattr(sys, "argv", [on, *line.split()])
    monkeypatch.setattr("convnet_edge.commands.doctor.diagnose", lambda: ())
    with FULL_PATH.open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            sys.exit(main() if on == "host" else device_main(hostile_bundle))
    assert ended.value.code == 2
    found = ": the system refuses the output, or a temporary file: No space left on device; "
    assert found in capsys.readouterr().err


@FULL
def test_note_that_nobody_can_be_told_stops_nothing(monkeypatch, capsys):
    with FULL_PATH.open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        terminal.Terminal().note("left out one picture")
        terminal.Terminal(json=True).finish({"a": 1}, "convnet-edge", "bench")
        monkeypatch.undo()
        with suppress(OSError):
            full.close()
    assert json.loads(capsys.readouterr().out) == {"a": 1}


@FULL
@pytest.mark.parametrize(
    ("on", "redirected", "code"),
    [("host", ">/dev/full", 2), ("host", ">/dev/full 2>&1", 2), ("host", ">&- 2>&-", 0),
     ("device", ">/dev/full", 2), ("device", "2>/dev/full", 0), ("device", ">&-", 0)],
)  # fmt: skip
def test_streams_that_take_nothing_in_a_process_of_its_own(hostile_bundle, on, redirected, code):
    program = {"host": ["-m", "convnet_edge", "--version"], "device": [hostile_bundle, "info"]}[on]
    command = f'exec "$0" "$@" {redirected}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *program], capture_output=True, text=True
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("on", ["host", "device"])
def test_reader_that_leaves_ends_it_quietly_and_proves_nothing(tiny_model, hostile_bundle, on):
    reader, writer = os.pipe()
    os.close(reader)
    program = {"host": ["-m", "convnet_edge", "inspect", str(tiny_model)],
               "device": [hostile_bundle, "selftest"]}[on]  # fmt: skip
    done = subprocess.run([sys.executable, *program], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, b"")


@pytest.mark.parametrize("place", ["missing", "full"])
def test_temporary_files_that_cannot_be_written_are_exit_2(
    hostile_bundle, brief, monkeypatch, capsys, place
):
    def refuse(*_, **__):
        raise OSError(*{"missing": (2, "No usable temporary directory found"),
                        "full": (28, "No space left on device", "/tmp/x")}[place])  # fmt: skip

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert device_main(hostile_bundle, ["bench", "--quick", "--profile", "--threads", "1"]) == 2
    assert "TMPDIR" in capsys.readouterr().err


def test_interrupted_bench_of_a_device_claims_no_file_that_is_not_there(
    hostile_bundle, monkeypatch, capsys
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("convnet_edge.runtime.measure.bench._measure", interrupt)
    assert device_main(hostile_bundle, ["bench"]) == 130
    assert "; next: run it again; a result file (--out) holds " in capsys.readouterr().err


INTERRUPT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
where, program = sys.argv[1], sys.argv[2:]
def hook(event, args, done=[]):
    if event == "import" and args[0] == where and not done:
        done.append(1)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
if program[0] == "-m":
    sys.argv = program[1:]
    runpy.run_module(program[1], run_name="__main__", alter_sys=True)
else:
    sys.argv = program
    sys.path.insert(0, os.path.dirname(program[0]))
    runpy.run_path(program[0], run_name="__main__")
"""
TRAIN = ["train", "--data", "sample"]


@pytest.mark.parametrize(
    ("where", "program"),
    [
        ("typer", [str(REPOSITORY / "cli.py"), *TRAIN]),
        ("inspect", ["-m", "convnet_edge", *TRAIN]),
        ("numpy", ["-m", "convnet_edge", *TRAIN]),
        ("datetime", ["{bundle}", "bench"]),  # by C code of numpy
        ("hashlib", ["{bundle}", "selftest"]),
        ("onnxruntime", ["{bundle}", "selftest"]),
    ],
)
def test_ctrl_c_during_an_import_is_exit_130_and_one_line(hostile_bundle, tmp_path, where, program):
    command = [part.format(bundle=hostile_bundle) for part in program]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, where, *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert done.stderr.count("\n") == 1
    assert ": interrupted; expected the whole command; next: run it again" in done.stderr
    assert done.stdout == ""


def test_ctrl_c_before_main_can_listen_is_exit_130_without_a_word(tmp_path):
    command = [sys.executable, "-c", INTERRUPT, "convnet_edge.__main__", str(REPOSITORY / "cli.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("start", ["cli.py", "-m", "script", "bundle"])
def test_ctrl_c_at_any_moment_is_exit_130(hostile_bundle, tmp_path, start):
    script = ["-c", "from convnet_edge.__main__ import main\nmain()", *TRAIN]
    program = {"cli.py": [str(REPOSITORY / "cli.py"), *TRAIN], "bundle": [hostile_bundle, "bench"],
               "-m": ["-m", "convnet_edge", *TRAIN], "script": script}[start]  # fmt: skip
    for delay_s in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.1, 1.5):
        process = subprocess.Popen(
            [sys.executable, *program], cwd=tmp_path, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        is_pythons = "Fatal Python error: init_" in errors  # site has a function main, too
        began = not is_pythons and re.search(r"in (main|begin)\n|interrupted", errors) is not None
        # -2, which a shell calls 130 too: the signal met numpy's C code, and Python says so itself
        assert process.returncode in (130, -2) or not began, (delay_s, errors)
        assert "Traceback" not in errors or not began, (delay_s, errors)


@pytest.mark.parametrize(
    "variables",
    [{"RANK": "abc"}, {"WORLD_SIZE": "x"}, {"LOCAL_RANK": "-1"}, {"RANK": "2", "WORLD_SIZE": "2"}],
    ids=str,
)
def test_torchruns_variables_that_make_no_sense_are_named_by_train_alone(
    run, monkeypatch, variables
):
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    result = run(*TRAIN)
    assert result.exit_code == 2, result.exc_info
    assert next(f"{name}={text}" for name, text in variables.items()) in result.stderr
    assert "expected what torchrun sets" in result.stderr
    assert "convnet-edge: absent.onnx" in run("inspect", "absent.onnx").stderr


def test_empty_arguments_are_refused_by_every_command(run, hostile_bundle, capsys):
    for name in COMMANDS:
        for arguments, flag in (([""], name), (["--out", ""], "--out"), (["--out="], "--out")):
            result = CliRunner().invoke(app, [name, *arguments])
            assert result.exit_code == 2
            assert f"nothing after {flag}; expected a value" in result.stderr
    for arguments in (["predict", ""], ["bench", "--out", ""]):
        assert device_main(hostile_bundle, arguments) == 2
        assert f"nothing after {arguments[-2]}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "predict"])
def test_seed_beyond_64_bits_is_refused_with_the_range(run, command):
    result = run(command, "--seed", "99999999999999999999")
    assert result.exit_code == 2
    assert "from 0 to 9,223,372,036,854,775,807" in result.stderr
    stage = {"train": TrainOptions, "predict": PredictOptions}[command]
    with pytest.raises(InputError, match="a whole number from 0 to 9,223,372,036,854,775,807"):
        stage(seed=2**63)


IMPOSSIBLE = {
    "train": ["--data-dir", "absent", "--out", "{}.safetensors"],
    "export": ["absent.safetensors", "--out", "{}.onnx"],
    "quantize": ["absent.onnx", "--out", "{}.onnx"],
    "verify": ["absent.onnx", "--out", "{}.json"],
    "bench": ["absent.onnx", "--out", "{}.json"],
    "report": ["absent.json", "--out", "{}.html"],
    "bundle": ["absent.onnx", "--out", "{}.pyz"],
    "predict": ["--model", "absent.onnx", "--plot-out", "{}.png"],
}


@pytest.mark.parametrize("kind", ["folder", "below a file", "pipe", "long"])
@pytest.mark.parametrize("command", IMPOSSIBLE)
def test_impossible_out_is_told_before_the_work(run, tmp_path, command, kind):
    text = {"below a file": "file/below", "long": "n" * 250}.get(kind, kind)
    arguments = [part.format(text) for part in IMPOSSIBLE[command]]
    out = tmp_path / arguments[-1]
    (tmp_path / "file").touch()
    if kind == "folder":
        out.mkdir()
    elif kind == "pipe":
        os.mkfifo(out)
    before = {*tmp_path.rglob("*")}
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert f"convnet-edge: {arguments[-1]} cannot be written: " in result.stderr
    assert result.stderr.endswith(f"choose another place with {arguments[-2]}\n")
    assert {*tmp_path.rglob("*")} == before


@pytest.mark.parametrize("command", ["export", "quantize"])
def test_default_place_that_is_a_file_is_told_before_the_work(run, tmp_path, command):
    (tmp_path / "exported").touch()
    result = run(command, *["absent.safetensors"] * (command == "export"))
    assert result.exit_code == 2
    assert "cannot be written: Not a directory" in result.stderr


def test_bench_result_is_json_or_lies_in_a_folder(run, tmp_path):
    result = run("bench", "absent.onnx", "--out", "r.txt")
    assert result.exit_code == 2
    assert "--out r.txt; expected a folder, or a name that ends in .json" in result.stderr
    (tmp_path / "v1.2").mkdir()
    assert "absent.onnx does not exist" in run("bench", "absent.onnx", "--out", "v1.2").stderr


TURNED = """
import os, signal
from convnet_edge import __main__ as program
from convnet_edge.commands import app
def run():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("Invalid bounding box") from None
app.main = run
program.main()
"""


def test_error_without_ctrl_c_keeps_its_traceback():
    code = TURNED.replace("os.kill(os.getpid(), signal.SIGINT)", "raise KeyboardInterrupt")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: Invalid bounding box\n")


def test_ctrl_c_that_code_in_c_takes_for_its_own_error_is_one_line():
    done = subprocess.run([sys.executable, "-c", TURNED], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.startswith("convnet-edge: interrupted; ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quantize", "/"), "/ is a folder"),
        (("train", "photos"), "pictures are named by --data"),
        (("compare", "a.onnx", "b.onnx", "--max-slowdown", "10"), "from 0 to 5, or with %"),
    ],
)
def test_wrong_words_are_answered_with_what_was_meant(run, words, said):
    done = run(*words)
    assert done.exit_code == 2
    assert said in " ".join((done.stdout + done.stderr).replace("│", " ").split())
