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

from convnet_edge.training.loop import train
from convnet_edge.training.options import TrainOptions

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


@pytest.mark.slow
def test_two_processes_train_as_one_and_only_the_first_speaks(tmp_path):
    # 10,000 images in batches of 303: the last has one image, so one process has none
    options = TrainOptions(data="sample", recipe="best", epochs=1, batch_size=303, device="cpu",
                           out=tmp_path / "alone.safetensors")  # fmt: skip
    (alone,) = train(options).epochs
    command = [*TRAIN, "--recipe", "best", "--epochs", "1", "--batch-size", "303"]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    node = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
            "--master-port", str(port), "--node-rank"]  # fmt: skip
    agents = [torchrun(*node, rank, *command, cwd=tmp_path) for rank in ("0", "1")]
    first, other = (finished(agent) for agent in agents)
    assert first.count("Epoch [  1/  1] finished") == first.count("Test accuracy") == 1
    assert ", 2 processes" in first
    assert "Epoch" not in other
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    suffixes = ("epochs.csv", "safetensors", "train.json", "train.png")
    assert names == [f"convnet.{suffix}" for suffix in suffixes]
    record = json.loads((tmp_path / "checkpoints" / "convnet.train.json").read_text())
    assert record["device"]["n_processes"] == 2
    (together,) = record["epochs"]
    assert together["mean_loss"] == pytest.approx(alone.mean_loss, rel=2e-3)
    assert together["accuracy"] == pytest.approx(alone.accuracy, abs=0.005)


def process_of_rank(rank, parent):
    """Return the id of torchrun's child of that rank."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout
    wanted = f"RANK={rank}".encode()
    for child in listed.split():
        environment = Path(f"/proc/{child}/environ")
        if environment.exists() and wanted in environment.read_bytes().split(b"\0"):
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
