"""Several processes, started by torchrun as a user would."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convnet_edge.training.distributed import Processes

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TWO_HERE = ["--standalone", "--nproc-per-node", "2"]
TRAIN = ["-m", "convnet_edge", "train", "--data", "sample", "--device", "cpu"]


def torchrun(*arguments, cwd):
    return subprocess.Popen(
        [*TORCHRUN, *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def record_of(folder):
    return json.loads((folder / "checkpoints" / "convnet.train.json").read_text())


GRADIENTS = """
import json
from pathlib import Path
import torch
from convnet_edge.training.batches import draw_choices
from convnet_edge.training.distributed import Processes, joined
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.run import Run

options, device = TrainOptions(data="sample", recipe="best"), torch.device("cpu")

def gradients(processes, n):
    run = Run(options, device=device, processes=processes)
    drawn = draw_choices(len(run.used), 128, run.recipe, run.choices)
    start, stop = processes.share(64, 64 + n)
    result = run.gradients({name: t[start:stop] for name, t in drawn.items()}, n)
    processes.add_up((*result.gradients, result.loss, result.n_correct))
    return result

worst = {}
with joined(device) as processes:
    for n in (64, 33, 1):  # 1: one of the two processes has no image
        ours, whole = gradients(processes, n), gradients(Processes(), n)
        assert ours.n_correct == whole.n_correct
        pairs = zip((*ours.gradients, ours.loss), (*whole.gradients, whole.loss))
        worst[n] = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)
    if processes.leads:
        Path("worst.json").write_text(json.dumps([processes.size, worst]))
"""


@pytest.mark.slow
def test_two_processes_compute_one_processes_gradients(tmp_path):
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    finished(torchrun(*TWO_HERE, "gradients.py", cwd=tmp_path))
    size, worst = json.loads((tmp_path / "worst.json").read_text())
    assert size == 2
    assert all(error <= 1e-5 for error in worst.values()), worst


def test_alone_nothing_is_exchanged():
    Processes().add_up(())
    Processes().wait()
    assert Processes().leads
    assert Processes().share(10, 74) == (10, 74)


@pytest.mark.slow
def test_torchrun_trains_and_only_the_first_process_speaks(tmp_path):
    output = finished(torchrun(*TWO_HERE, *TRAIN, "--epochs", "2", cwd=tmp_path))
    assert output.count("Epoch [  2/  2] finished") == output.count("Test accuracy") == 1
    assert ", 2 processes" in output
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["convnet.safetensors", "convnet.train.json", "convnet.train.png"]
    assert record_of(tmp_path)["test"]["accuracy"] > 0.5


@pytest.mark.slow
def test_two_agents_stand_for_two_nodes(tmp_path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    node = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
            "--master-port", str(port), "--node-rank"]  # fmt: skip
    agents = [torchrun(*node, rank, *TRAIN, "--epochs", "1", cwd=tmp_path) for rank in ("0", "1")]
    first, second = (finished(agent) for agent in agents)
    assert first.count("Test accuracy") == 1
    assert "Epoch" not in second
    assert record_of(tmp_path)["device"]["n_processes"] == 2


def process_of_rank(rank, parent):
    """Return the id of torchrun's child of that rank."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout
    for child in listed.split():
        environment = Path(f"/proc/{child}/environ")
        if environment.exists() and f"RANK={rank}".encode() in environment.read_bytes().split(
            b"\0"
        ):
            return int(child)
    raise AssertionError(listed)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_ends_the_run_clearly_and_resume_works(tmp_path, killed):
    command = [*TWO_HERE, *TRAIN, "--epochs", "3"]
    process = torchrun(*command, cwd=tmp_path)
    kept = tmp_path / "checkpoints" / "convnet.resume.safetensors"
    deadline = time.monotonic() + 120
    while not kept.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process_of_rank(killed, process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "--resume" in errors or "SIGKILL" in errors or "-9" in errors
    assert "Error: " not in errors.split("ChildFailedError")[0]  # no traceback of ours
    assert "Resuming after" in finished(torchrun(*command, "--resume", cwd=tmp_path))
    assert not kept.exists()
