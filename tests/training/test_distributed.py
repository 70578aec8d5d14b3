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
TRAIN = ["train", "--data", "sample", "--device", "cpu"]


def torchrun(*arguments, cwd, n=2, **options):
    """Start n processes of the program on a rendezvous of their own."""
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", str(n), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def accuracy(folder, name="convnet"):
    record = json.loads((folder / "checkpoints" / f"{name}.train.json").read_text())
    return record["test"]["accuracy"]


GRADIENTS = """
import json, sys
from pathlib import Path
import torch
from convnet_edge import data, train
from convnet_edge.config import TrainOptions
from convnet_edge.processes import Processes, joined

config = TrainOptions(recipe="best", out=Path("x.safetensors"))
images, none = train.split(data.load_training_set("sample", Path(".")), 10)
device = torch.device("cpu")

def gradients(processes, n):
    run = train.start(config, {}, images, none, device, processes)
    step = train.Step(run)
    drawn = train.draw_choices(len(images), 128, run.recipe, run.choices)
    result = step.gradients(drawn.part(*processes.share(64, 64 + n)), n)
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
    process = torchrun("gradients.py", cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    size, worst = json.loads((tmp_path / "worst.json").read_text())
    assert size == 2
    assert all(error <= 1e-5 for error in worst.values()), worst


def test_alone_nothing_is_exchanged():
    Processes().add_up(())
    Processes().wait()
    assert Processes().leads
    assert Processes().share(10, 74) == (10, 74)


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does_and_only_the_first_speaks(tmp_path):
    process = torchrun("-m", "convnet_edge", *TRAIN, "--epochs", 3, cwd=tmp_path)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.count("Epoch [  3/  3] finished") == 1
    assert output.count("Test accuracy") == 1
    assert ", 2 processes" in output
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["convnet.safetensors", "convnet.train.json", "convnet.train.png"]
    alone = [sys.executable, "-m", "convnet_edge", *TRAIN, "--epochs", "3", "--out",
             "checkpoints/alone.safetensors"]  # fmt: skip
    subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    # on 10,000 images rounding alone moves the accuracy after three epochs by this much
    assert abs(accuracy(tmp_path) - accuracy(tmp_path, "alone")) < 0.015


@pytest.mark.slow
def test_two_agents_stand_for_two_nodes(tmp_path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    agents = [
        subprocess.Popen(
            [*TORCHRUN, "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1",
             "--master-addr", "127.0.0.1", "--master-port", str(port),
             "-m", "convnet_edge", *TRAIN, "--epochs", "1"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [agent.communicate(timeout=300) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert outputs[0][0].count("Test accuracy") == 1
    assert "Epoch" not in outputs[1][0]
    record = json.loads((tmp_path / "checkpoints" / "convnet.train.json").read_text())
    assert record["device"]["n_processes"] == 2


def children_of(process_id):
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(process_id)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "convnet_edge" in line]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_ends_the_run_clearly_and_resume_works(tmp_path, killed):
    arguments = ["-m", "convnet_edge", *TRAIN, "--epochs", "3"]
    process = torchrun(*arguments, cwd=tmp_path)
    kept = tmp_path / "checkpoints" / "convnet.resume.safetensors"
    deadline = time.monotonic() + 120
    while not kept.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    by_rank = {}
    for child in children_of(process.pid):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        by_rank[int(next(v for v in environment if v.startswith(b"RANK=")).split(b"=")[1])] = child
    os.kill(by_rank[killed], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "--resume" in errors or "SIGKILL" in errors or "-9" in errors
    assert "Error: " not in errors.split("ChildFailedError")[0]  # no traceback of ours
    resumed = torchrun(*arguments, "--resume", cwd=tmp_path)
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert "Resuming after" in output
    assert not kept.exists()
