"""Other machines: a stand-in for ssh that runs here, each machine in a home of its own."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import faults
import pytest
import tiny

from convnet_edge.bundling import bundle
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.fleet import agent, boards
from convnet_edge.fleet.options import FleetOptions
from convnet_edge.runtime.errors import CheckFailedError, InputError

# what the system's ssh does with a command, and what it says of a machine that it cannot reach
SSH = """#!{python}
import os, re, subprocess, sys
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
data = sys.stdin.buffer.read()
edits = {{
    "lacking": (b"def probe(", b"def find_spec(name): return None\\n"
                b"importlib.util.find_spec = find_spec\\ndef probe("),
    "old": (b'list(sys.version_info[:3])', b'[3, 8, 10]'),
    "full": (b'shutil.disk_usage(there).free', b'1000'),
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
done = subprocess.run(["sh", "-c", command], input=data, env=environment)
sys.exit(done.returncode)
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
def packed(tmp_path_factory):
    """The tiny model's bundle."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "tiny.onnx").write_bytes(tiny.grey())
    bundle.bundle(BundleOptions((folder / "tiny.onnx",), out=folder / "x.pyz"))
    return (folder / "x.pyz").read_bytes()


def test_machine_that_passes_is_measured_and_its_result_kept_here(run, homes, tiny_model, tmp_path):
    result = run("bench", tiny_model, "--on", "pi@board", "--on", "off", "--quick", "--json",
                 "--out", tmp_path / "results")  # fmt: skip
    assert result.exit_code == 2, result.stderr
    board, off = json.loads(result.stdout)["boards"]
    assert (board["host"], board["error"]) == ("pi@board", None)
    assert off["results"] == []
    assert "1 of 2 machines gave no result" in result.stderr
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
    assert "a: off" in result.stdout
    assert "b: wrong" in result.stdout


def test_what_is_no_result_is_an_error_and_leaves_the_one_before(
    run, homes, tiny_model, monkeypatch, tmp_path
):
    out = tmp_path / "results"
    out.mkdir()
    (out / "tiny-cpu-a.json").write_text("before")
    for answer in ({"schema": "convnet-edge/bench/3"}, [1], {"x": float("nan")}):
        visits = [boards.Visit("a", ({"passed": True}, answer))]
        monkeypatch.setattr(boards, "visit", lambda *_, visits=visits, **__: visits)
        result = run("bench", tiny_model, "--on", "a", "--out", out)
        assert result.exit_code == 2, result.output
        assert "a: a answers nonsense of tiny.onnx" in result.stdout
        assert (out / "tiny-cpu-a.json").read_text() == "before"


def test_what_is_there_already_is_not_sent_again(homes, packed):
    sent = []

    def go():
        boards.visit(["board"], packed, [["info"]], step=lambda _, text: sent.append(text))

    go()
    go()
    assert [text.split()[0] for text in sent] == [
        "looking", "sending", "proving,", "looking", "proving,",
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


def test_what_one_machine_lacks_is_told_and_stops_no_other(homes, packed):
    found = boards.visit([*FAILING, "chatty"], packed, [["info", "--json"]])
    by_host = {one.host: one for one in found}
    for host, (what, then) in FAILING.items():
        assert isinstance(by_host[host].error, InputError)
        assert what in by_host[host].error.line, host
        assert then in by_host[host].error.line, host
    assert by_host["chatty"].error is None
    assert by_host["chatty"].answers[0]["models"][0]["name"] == "tiny.onnx"


def test_machine_that_fails_its_self_test_is_not_timed(homes, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle.selftest, "require", lambda *_, **__: None)
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(faults.change_sealed(tiny.grey(), faults.nudge_one_weight))
    bundle.bundle(BundleOptions((wrong,), out=tmp_path / "x.pyz"))
    commands = [["selftest", "--json"], ["bench", "--json", "--quick"]]
    (found,) = boards.visit(["board"], (tmp_path / "x.pyz").read_bytes(), commands)
    assert isinstance(found.error, CheckFailedError)
    assert "does not pass the self-test, and is not timed: wrong.onnx" in found.error.found
    assert not found.answers


def test_second_bench_on_a_machine_waits_for_nobody(homes):
    fcntl = pytest.importorskip("fcntl")
    folder = homes / "board" / ".cache" / "convnet-edge" / "bundles"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (found,) = boards.visit(["board"], b"a bundle", [["info"]])
    assert isinstance(found.error, InputError)
    assert "measured by somebody else" in found.error.found


def test_what_arrives_damaged_is_not_kept_and_old_bundles_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def put(data, sha256):
        monkeypatch.setattr(agent.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        return agent.put(sha256)

    assert "bytes arrived" in put(b"half", hashlib.sha256(b"whole").hexdigest())["error"]
    assert not list(tmp_path.rglob("*.pyz"))
    for n in range(agent.N_KEPT + 3):
        data = b"%d" % n
        assert put(data, hashlib.sha256(data).hexdigest()) == {"put": len(data)}
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


def test_without_ssh_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = boards.visit(["board"], b"", [])
    assert "no ssh is installed here" in found.error.found


@pytest.fixture
def real(tmp_path):
    """Start the system's ssh server on this machine alone; return what ssh needs to get there."""
    server, keygen = shutil.which("sshd", path="/usr/sbin:/usr/bin"), shutil.which("ssh-keygen")
    if server is None or keygen is None:
        pytest.skip("no OpenSSH server here")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "allowed").write_text((tmp_path / "user.pub").read_text())
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/allowed\nPermitRootLogin yes\nUsePAM no\n"
        f"PidFile {tmp_path}/pid\nSetEnv XDG_CACHE_HOME={tmp_path}/cache "
        f"PATH={Path(sys.executable).parent}:/usr/bin:/bin PYTHONPATH={os.pathsep.join(sys.path)}\n"
    )
    (tmp_path / "ssh_config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {tmp_path}/user\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {tmp_path}/known\n"
        f"Host stranger\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {tmp_path}/user\n"
        f"  UserKnownHostsFile {tmp_path}/nobody\n  GlobalKnownHostsFile /dev/null\n"
        f"Host off\n  HostName 127.0.0.1\n  Port 1\n"
    )
    command = [server, "-D", "-f", tmp_path / "sshd_config"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError), socket.socket() as trial:
                trial.connect(("127.0.0.1", port))
                break
            time.sleep(0.05)
        yield ["-F", str(tmp_path / "ssh_config")]
        running.terminate()


def test_real_ssh_reaches_a_machine_and_refuses_a_stranger(real, tmp_path, packed):
    hosts = ["board", "stranger", "off"]
    board, stranger, off = boards.visit(hosts, packed, [["selftest", "--json"]], ssh=real)
    assert board.error is None, board.error.line
    assert board.answers[0]["passed"] is True
    assert "Host key verification failed" in stranger.error.found
    assert "off cannot be reached" in off.error.found
    assert len(list((tmp_path / "cache").rglob("*.pyz"))) == 1
