"""Other machines: a stand-in for ssh that runs here, each machine in a home of its own."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import faults
import over_ssh
import pytest
import tiny
from emulated import CPUS, EMULATED, emulator

from convnet_edge.bundling import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.fleet import agent, boards, pictures
from convnet_edge.fleet.options import FleetOptions
from convnet_edge.reporting.read import read_results
from convnet_edge.runtime.errors import CheckFailedError, InputError

# what the system's ssh does with a command, and what it says of a machine that it cannot reach
SSH = """#!{python}
import os, re, subprocess, sys, threading
arguments = sys.argv[1:]
if "-O" in arguments:
    sys.exit(0)
place = arguments.index("--")
host, command = arguments[place + 1], " ".join(arguments[place + 2 :])
said = {{
    "stranger": "No ED25519 host key is known for stranger.\\nHost key verification failed.",
    "closed": "closed: Permission denied (publickey,password).",
    "nowhere": "ssh: Could not resolve hostname nowhere: Name or service not known",
    "off": "ssh: connect to host off port 22: Connection refused",
}}
with open("{log}", "a") as log:
    log.write(host + "\\n")
if host in said:
    sys.exit(print(said[host], file=sys.stderr) or 255)
if host == "bare":
    sys.exit(print("sh: 1: python3: not found", file=sys.stderr) or 127)
home = "{homes}/" + host.replace("@", "-")
os.makedirs(home, exist_ok=True)
environment = dict(os.environ, HOME=home, PATH="{bin}:" + os.environ["PATH"])
environment.pop("XDG_CACHE_HOME", None)
if host == "chatty":
    print("Welcome! 3 updates are available.", flush=True)
if host == "nonsense":
    sys.exit(print("moo"))
stream = os.fdopen(0, "rb", buffering=0, closefd=False)
n_left = int(re.search(r"read[(](\\d+)[)]", command)[1])
data = b""
while len(data) < n_left:
    data += stream.read(n_left - len(data)) or sys.exit(255)
edits = {{
    "lacking": (b"def probe(", b"def find_spec(name): return None\\n"
                b"importlib.util.find_spec = find_spec\\ndef probe("),
    "old": (b'list(sys.version_info[:3])', b'[3, 8, 10]'),
    "full": (b'shutil.disk_usage(there).free', b'1000'),
    "slow": (b'"python": list', b'"python": __import__("time").sleep(60) or list'),
    "liar": (b'"said": said', b'"said": said[:50]'),
    "odd": (b'"python": list', b'"snake": list'),
    "lost": (b"        found: list[dict[str, Any]] = []", b"        os._exit(255)"),
    "stuck": (b'    part = folder()', b'    raise OSError(28, "No space left on device", "x")\\n'
              b'    part = folder()'),
}}
if host in edits:
    before = data
    data = data.replace(*edits[host])
    grown = len(data) - len(before)
    command = re.sub(r"read[(](\\d+)[)]", lambda m: "read(%d)" % (int(m[1]) + grown), command)
done = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, env=environment)
def pass_on(part):
    while part:
        done.stdin.write(part)
        done.stdin.flush()
        part = os.read(0, 65536)
    done.stdin.close()
threading.Thread(target=pass_on, args=[data], daemon=True).start()
code = done.wait()
os._exit(code)
"""


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Put the stand-in before the real ssh; return the folder of the machines' homes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    homes = tmp_path / "homes"
    text = SSH.format(python=sys.executable, log=tmp_path / "log", homes=homes, bin=programs)
    path = os.pathsep.join(sys.path)
    python = f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n'
    for name, content in (("ssh", text), ("python3", python)):
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return homes


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """What a bundle of the tiny model is made by."""
    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    path.write_bytes(tiny.grey())
    return BundleOptions((path,))


def test_machine_that_passes_is_measured_and_its_result_kept_here(run, homes, tiny_model, tmp_path):
    result = run("bench", tiny_model, "--on", "pi@board", "--on", "off", "--quick", "--json",
                 "--out", tmp_path / "results")  # fmt: skip
    assert result.exit_code == 2, result.stderr
    board, off = json.loads(result.stdout)["boards"]
    assert (board["host"], board["error"]) == ("pi@board", None)
    assert off["results"] == []
    assert "1 of 2 machines did not come through" in result.stderr
    (path,) = board["results"]
    assert Path(path).name == "tiny-cpu-pi@board.json"
    assert [row["batch_size"] for row in json.loads(Path(path).read_text())["latency"]] == [1, 64]
    assert run("report", path).exit_code == 0


def test_failed_check_decides_the_exit_code(run, homes, tiny_model, monkeypatch):
    how = {"expected": "x", "next_step": "y"}
    errors = InputError("off", **how), CheckFailedError("wrong", **how)
    monkeypatch.setattr(
        boards, "visit", lambda hosts, *_, **__: [
            boards.Visit(host, (), error) for host, error in zip(hosts, errors, strict=True)
        ],
    )  # fmt: skip
    result = run("bench", tiny_model, "--on", "a", "--on", "b")
    assert result.exit_code == 1
    assert "off; expected x" in result.stdout
    assert "wrong; expected x" in result.stdout


def test_what_is_no_result_is_an_error_and_leaves_the_one_before(
    run, homes, tiny_model, monkeypatch, tmp_path
):
    out = tmp_path / "results"
    out.mkdir()
    (out / "tiny-cpu-a.json").write_text("before")
    for answer in ({"schema": "convnet-edge/bench/3"}, [1], {"x": float("nan")}):
        visits = [boards.Visit("a", (answer,))]
        monkeypatch.setattr(boards, "visit", lambda *_, visits=visits, **__: visits)
        result = run("bench", tiny_model, "--on", "a", "--out", out)
        assert result.exit_code == 2, result.output
        assert "a answers nonsense of tiny.onnx" in result.stdout
        assert (out / "tiny-cpu-a.json").read_text() == "before"


def test_what_is_there_already_is_not_sent_again(homes, models):
    sent = []

    def go():
        boards.visit(["board"], models, [["info"]], step=sent.append)

    go()
    go()
    assert [text.split()[1] for text in sent] == [
        "looking", "sending", "working", "looking", "working",
    ]  # fmt: skip


FAILING = {
    "stranger": ("Host key verification failed", "ssh stranger"),
    "closed": ("Permission denied", "ssh-copy-id closed"),
    "nowhere": ("Could not resolve", "check its name"),
    "off": ("Connection refused", "ssh off"),
    "bare": ("has no python3", "install it there"),
    "nonsense": ("gave no answer", "python3 --version"),
    "lacking": ("lacks numpy and onnxruntime", "pip install numpy onnxruntime"),
    "old": ("has Python 3.8.10", "3.10 or newer"),
    "full": ("MB free", "free some space there"),
    "stuck": ("No space left on device", "free some space there"),
    "liar": ("answers nonsense", "python3"),
    "odd": ("answers nonsense", "python3"),
    "lost": ("cannot be reached, or was lost", "ssh lost"),
}


def test_machine_that_hangs_is_lost(homes, models, monkeypatch):
    monkeypatch.setattr(boards, "PATIENCE_S", 2.0)
    (found,) = boards.visit(["slow"], models, [["info", "--json"]])
    assert "slow cannot be reached, or was lost" in found.error.found


def test_what_one_machine_lacks_is_told_and_stops_no_other(homes, models):
    found = boards.visit([*FAILING, "chatty"], models, [["info", "--json"]])
    by_host = {one.host: one for one in found}
    for host, (what, then) in FAILING.items():
        assert isinstance(by_host[host].error, InputError)
        assert what in by_host[host].error.line, host
        assert then in by_host[host].error.line, host
    assert by_host["chatty"].error is None
    assert by_host["chatty"].answers[0]["models"][0]["name"] == "tiny.onnx"


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    """A model that passes here, if nobody looks, and nowhere else."""
    monkeypatch.setattr(bundle.selftest, "require", lambda *_, **__: None)
    path = tmp_path / "wrong.onnx"
    path.write_bytes(faults.change_sealed(tiny.grey(), faults.nudge_one_weight))
    return path


def test_machine_that_fails_its_self_test_is_not_timed_and_reported(run, homes, wrong, tmp_path):
    out = tmp_path / "results"
    done = run("bench", wrong, "--on", "board", "--quick", "--out", out, "--json")
    assert done.exit_code == 1, done.output
    (board,) = json.loads(done.stdout)["boards"]
    assert "board: bench: wrong.onnx was not timed: golden vectors" in board["error"]
    (result,) = read_results([out]).values()
    assert result.failed.startswith("wrong.onnx was not timed")
    assert (result.machine.name, result.latency) == ("board", ())
    page = tmp_path / "r.html"
    assert run("report", out, "--out", page).exit_code == 0
    assert "failed: wrong.onnx was not timed" in page.read_text()


def test_verify_on_other_machines(run, homes, wrong, tiny_model):
    done = run("verify", tiny_model, "--on", "board", "--on", "off")
    assert done.exit_code == 2
    assert "board: PASS: tiny.onnx on cpu" in done.stdout
    assert "off: NOT RUN: off cannot be reached" in done.stdout
    done = run("verify", wrong, "--on", "board", "--json")
    assert done.exit_code == 1
    (board,) = json.loads(done.stdout)["boards"]
    assert board["selftest"]["passed"] is False
    assert "wrong.onnx: golden vectors" in board["error"]


def test_other_machines_label_pictures_as_this_one_does(run, homes, tiny_model, tmp_path):
    (tmp_path / "boot shot.png").write_bytes(tiny.pictures()[0].encoded)
    (tmp_path / "cut.png").write_bytes(b"no picture")
    (tmp_path / "empty.png").touch()
    named = [tmp_path / name for name in ("boot shot.png", "cut.png", "empty.png")]
    done = run("predict", *named, "--model", tiny_model, "--json")
    (here, *_), there = json.loads(done.stdout)["predictions"], {}
    done = run("predict", *named, "--model", tiny_model, "--json", "--on", "board", "--on", "off")
    assert done.exit_code == 2
    there = {row["path"]: row for row in json.loads(done.stdout)["predictions"]}
    assert there.pop(f"board:{named[0]}") == here | {"path": f"board:{named[0]}"}
    assert f"board:{named[1]}" in there[f"board:{named[1]}"]["error"]
    assert {*there} == {str(named[2]), f"board:{named[1]}", "off"}
    assert "off cannot be reached" in there["off"]["error"]


def test_predict_on_a_machine_that_fails_its_self_test_is_exit_1(run, homes, wrong, tmp_path):
    (tmp_path / "x.png").write_bytes(tiny.pictures()[0].encoded)
    done = run("predict", tmp_path / "x.png", "--model", wrong, "--on", "board")
    assert done.exit_code == 1
    assert "board: predict: wrong.onnx is left out" in done.stderr


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("verify --on a --skew", "--skew"),
        ("predict x.png --on a --top 5", "--top"),
        ("predict x.png --on a --out y", "--out"),
    ],
)
def test_what_other_machines_cannot_do_is_refused(run, line, flag):
    done = run(*line.split())
    assert done.exit_code == 2
    assert f"{flag} and other machines" in done.stderr


def test_more_pictures_than_are_sent_are_refused(homes, models, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_SENT_BYTES", 10)
    (tmp_path / "x.png").write_bytes(tiny.pictures()[0].encoded)
    with pytest.raises(InputError, match="more pictures than are sent"):
        list(pictures.predict(["board"], models, [tmp_path / "x.png"], "cpu"))


@pytest.mark.parametrize(
    "said", [{}, {"predictions": 3}, {"predictions": [{"path": "0.png", "top": 1}]}, [1]], ids=str
)
def test_answers_that_are_none_are_an_error(monkeypatch, models, tmp_path, said):
    (tmp_path / "x.png").write_bytes(tiny.pictures()[0].encoded)
    visits = [boards.Visit("a", (said,))]
    monkeypatch.setattr(pictures, "visit", lambda *_, **__: visits)
    (found,) = pictures.predict(["a"], models, [tmp_path / "x.png"], "cpu")
    assert "a answers nonsense" in found.error.found


def test_ctrl_c_stops_the_work_on_the_other_machine(homes, models, tmp_path):
    """As the terminal sends it, to all; and as a supervisor does, to one."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "convnet_edge", "bench", models.models[0], "--on", "board",
               "--sustain", "5m"]  # fmt: skip
    for kill in (os.killpg, os.kill):
        with subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:  # fmt: skip
            wait_until(lambda: at_work(homes))
            kill(process.pid, signal.SIGINT)
            assert process.wait(20) == 130
        wait_until(lambda: not at_work(homes))
        assert not list((tmp_path / "benchmarks").rglob("*.json"))


def at_work(homes):
    """Return what is running there."""
    found = subprocess.run(["pgrep", "-f", f"{homes}/board/.*pyz bench"], capture_output=True)
    return found.stdout.split()


def wait_until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_second_bench_on_a_machine_waits_for_nobody(homes, models):
    fcntl = pytest.importorskip("fcntl")
    folder = homes / "board" / ".cache" / "convnet-edge" / "bundles"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (found,) = boards.visit(["board"], models, [["info"]])
    assert isinstance(found.error, InputError)
    assert "works for somebody else" in found.error.found


def test_what_arrives_damaged_is_not_kept_and_old_bundles_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert "bytes arrived" in agent.put(b"half", hashlib.sha256(b"whole").hexdigest())["error"]
    assert not list(tmp_path.rglob("*.pyz"))
    for n in range(agent.N_KEPT + 3):
        data = b"%d" % n
        assert agent.put(data, hashlib.sha256(data).hexdigest()) == {"put": len(data)}
    assert len(list(tmp_path.rglob("*.pyz"))) == agent.N_KEPT
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", ""])
def test_machines_are_names(host):
    with pytest.raises(InputError, match="the machine"):
        list(FleetOptions(on=(host,)).machines())


def test_file_of_machines_has_one_a_line(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("pi@board  # the old one\n\nrack\nrack\n")
    assert list(FleetOptions(on=("rack", "one"), hosts=path).machines()) == [
        "rack",
        "one",
        "pi@board",
    ]
    path.write_text("# none\n")
    with pytest.raises(InputError, match="names no machine"):
        list(FleetOptions(hosts=path).machines())


def test_without_ssh_says_so(monkeypatch, tmp_path, models):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no ssh is installed here"):
        boards.visit(["board"], models, [])


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Start the system's ssh server for 127.0.0.1 alone, and put an ssh that knows it first."""
    needed = [shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("sshd", "ssh-keygen")]
    if None in needed:
        pytest.skip("no OpenSSH server here")
    with over_ssh.ssh_boards(tmp_path, {"board": over_ssh.this_python()}) as programs:
        monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
        yield


def test_real_ssh_reaches_a_machine_and_refuses_a_stranger(real, tmp_path, models):
    hosts = ["board", "stranger", "127.0.0.2"]
    board, stranger, off = boards.visit(hosts, models, [["selftest", "--json"]])
    assert board.error is None, board.error.line
    assert board.answers[0]["passed"] is True
    assert "Host key verification failed" in stranger.error.found
    assert "127.0.0.2 cannot be reached" in off.error.found
    assert len(list((tmp_path / "board-cache").rglob("*.pyz"))) == 1


WRONG_SUMS = """
import onnxruntime
run = onnxruntime.InferenceSession.run
def run_wrongly(self, *arguments, **more):
    found = run(self, *arguments, **more)
    return [part + 0.01 if part.dtype == "float32" else part for part in found]
onnxruntime.InferenceSession.run = run_wrongly
"""


@pytest.mark.arm
def test_fleet_of_three_boards_is_measured_and_reported(tmp_path, tiny_model, monkeypatch, run):
    """This machine, a Raspberry Pi 4's processor, and one whose onnxruntime adds up wrongly."""
    programs, wrong = tmp_path / "pi", tmp_path / "wrong"
    programs.mkdir()
    wrong.mkdir()
    (wrong / "sitecustomize.py").write_text(WRONG_SUMS)
    (launcher,) = emulator("cortex-a72", CPUS["cortex-a72"])
    (programs / "python3").symlink_to(launcher)
    environments = {
        "here": over_ssh.this_python(),
        "pi": {"PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": str(EMULATED / "site")},
        "wrong": over_ssh.this_python() | {"PYTHONPATH": str(wrong)},
    }
    named = [part for name in environments for part in ("--on", name)]
    results, page = tmp_path / "results", tmp_path / "fleet.html"
    with over_ssh.ssh_boards(tmp_path, environments) as ssh:
        monkeypatch.setenv("PATH", str(ssh), prepend=os.pathsep)
        done = run("verify", tiny_model, *named)
        assert done.exit_code == 1, done.output
        assert "pi: PASS" in done.stdout
        assert "wrong: FAIL: wrong: selftest: tiny.onnx: golden vectors" in done.stdout
        done = run("bench", tiny_model, *named, "--quick", "--out", results, "--json")
    assert done.exit_code == 1, done.output
    here, pi, bad = json.loads(done.stdout)["boards"]
    assert [len(one["results"]) for one in (here, pi, bad)] == [1, 1, 1], done.output
    assert "was not timed: golden vectors" in bad["error"]
    found = run("report", results, "--out", page)
    assert found.exit_code == 0, found.output
    assert "Cortex-A72" in page.read_text()
    told = found.stdout.partition("Deploy the fastest")[2]
    assert [line[:2] for line in told.splitlines()[2:5]] == ["A:", "B:", "C:"], found.stdout
    assert "none" in told.splitlines()[4]
