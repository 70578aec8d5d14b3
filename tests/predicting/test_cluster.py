"""The same rows from a Ray cluster: of one node, of two, and of what is left of them."""

import contextlib
import csv
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import tiny
from PIL import Image

from convnet_edge.predicting import batch
from convnet_edge.predicting.options import PredictOptions
from convnet_edge.runtime.errors import InputError, MissingPackageError

N, MOST_S = 2400, 180  # so many that the run goes on after the loss


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(tiny.images(N)):
        Image.fromarray(image).save(folder / f"{index:03}.png")
    (folder / "007.png").write_bytes(b"no picture")
    return folder


def rows(out):
    """Return the rows of all parts, sorted, with numbers as they are shown."""
    found = []
    for path in out.glob("part-*.csv"):
        with path.open(newline="") as file:
            found += list(csv.reader(file))[1:]
    return sorted(found)


def options(pictures, model, out, **others):
    return PredictOptions((pictures,), model, out=out, format="csv", **others)


def test_without_ray_says_what_installs_it(pictures, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match="ray cannot be imported") as caught:
        batch.label(options(pictures, tiny_model, tmp_path / "out", engine="ray"))
    assert "convnet-edge[batch]" in caught.value.next_step


def test_cluster_that_is_not_there_is_told_at_once(pictures, tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match="refused"):
        batch.label(options(pictures, tiny_model, tmp_path / "out", engine="ray"))


def wait_for(port):
    """Wait until somebody listens there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.2)
    raise AssertionError("the cluster did not begin")


SCRIPT = """
import sys
from pathlib import Path
from convnet_edge.predicting import batch, cluster
from convnet_edge.predicting.options import PredictOptions
cluster.WINDOW, cluster.BLOCK = 400, 16
batch.TOLD_EVERY_S = 0.0
found = batch.label(PredictOptions(
    (Path(sys.argv[1]),), Path(sys.argv[2]), out=Path(sys.argv[3]), format="csv", engine="ray",
), lambda found: print(found.n, flush=True))
print("done", found.n, found.n_errors)
"""


@pytest.fixture
def nodes(monkeypatch):
    """Start nodes of a cluster on this machine, by `ray start`; return their processes' ids."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    program = Path(sys.executable).with_name("ray")
    port, session = "6399", tempfile.mkdtemp(dir="/tmp")  # names of sockets must be short
    begun = []

    def start(*arguments):
        command = [str(program), "start", "--block", "--num-cpus", "1", *arguments]
        begun.append(subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        ))  # fmt: skip
        return begun[-1]

    def cluster_of(n):
        first = start("--head", f"--port={port}", f"--temp-dir={session}",
                      "--include-dashboard=false")  # fmt: skip
        wait_for(int(port))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        others = [start(f"--address=127.0.0.1:{port}") for _ in range(n - 1)]
        time.sleep(4 * bool(others))
        return [first, *others]

    yield cluster_of
    for one in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()
    shutil.rmtree(session, ignore_errors=True)


def run(pictures, model, out):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pictures), str(model), str(out)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "an actor", "a node"])
def test_two_nodes_give_the_rows_of_this_machine_whatever_is_lost(
    pictures, tiny_model, tmp_path, nodes, lost
):
    batch.label(options(pictures, tiny_model, tmp_path / "local"))
    _, second = nodes(2)
    with run(pictures, tiny_model, tmp_path / "out") as process:
        watch = threading.Timer(MOST_S, process.kill)
        watch.start()
        last = ""
        for line in process.stdout:
            if lost != "nothing" and line.strip() in ("16", "17", "50"):
                if lost == "a node":
                    os.killpg(second.pid, signal.SIGKILL)
                else:
                    actors = subprocess.run(
                        ["pgrep", "-f", "ray::MapWorker"], capture_output=True, text=True,
                        check=True,
                    ).stdout.split()  # fmt: skip
                    os.kill(int(actors[0]), signal.SIGKILL)
                lost = "nothing"
            last = line
        watch.cancel()
        errors = process.stderr.read()
    assert last.split() == ["done", str(N), "1"], errors
    assert rows(tmp_path / "out") == rows(tmp_path / "local")
