"""Several processes, started by torchrun as a user would."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convnet_edge.runtime.errors import InputError, InterruptedRunError
from convnet_edge.training import distributed, loop
from convnet_edge.training import run as running
from convnet_edge.training.launch import Launch, LostProcessError
from convnet_edge.training.loop import train
from convnet_edge.training.options import TrainOptions

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TWO_HERE = ["--standalone", "--nproc-per-node", "2"]
TRAIN = ["-m", "convnet_edge", "train", "--data", "sample", "--device", "cpu"]
STEP_BY_STEP = str(Path(__file__).with_name("step_by_step.py"))
FILE = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(),
            nn.Flatten(), nn.LazyLinear(num_classes),
        )

    def forward(self, x):
        return self.layers(x)


class LeavesOut(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.unused = nn.Linear(3, 3)


class ByTurns(LeavesOut):
    turns = 0

    def forward(self, x):
        self.turns += self.training
        also = 0 if (self.turns + 2) % 3 else self.unused(x[:, :1, 0, :3].flatten(1)).sum()
        return self.layers(x) + also


class Normalizing(Plain):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.layers.insert(1, nn.BatchNorm2d(8))
"""


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


@pytest.fixture
def own(tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("network", ["Plain", "LeavesOut"])
def test_steps_of_two_processes_are_those_of_one(own, network):
    arch = f"net.py:{network}"
    subprocess.run([sys.executable, STEP_BY_STEP, arch, "one.pt"], cwd=own, check=True)
    finished(torchrun(*TWO_HERE, STEP_BY_STEP, arch, "two.pt", cwd=own))
    one, two = (torch.load(own / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    largest = max(gradient.abs().max() for gradient in one["gradients"])
    for mine, theirs in zip(two["gradients"], one["gradients"], strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * largest
        assert mine.stride() == theirs.stride()
    assert len(one["losses"]) == 20
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert one["losses"][-1] < one["losses"][0]


@pytest.mark.slow
def test_network_that_uses_other_parameters_each_step_is_refused(own):
    process = torchrun(*TWO_HERE, *TRAIN, "--arch", "net.py:ByTurns", "--epochs", "1", cwd=own)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "ByTurns uses other parameters from one step to the next" in errors
    assert "train it in one process" in errors


@pytest.mark.slow
def test_several_processes_say_and_record_whose_statistics_are_taken(own):
    command = [*TRAIN, "--arch", "net.py:Normalizing", "--epochs", "1", "--out", "x.safetensors"]
    output = finished(torchrun(*TWO_HERE, *command, cwd=own))
    words = "statistics of each process's own images; the first's are kept"
    assert words in output
    record = json.loads((own / "x.train.json").read_text())
    assert record["device"]["batch_normalization"] == words


def test_batches_smaller_than_the_processes_are_refused(own, monkeypatch):
    monkeypatch.chdir(own)
    monkeypatch.setattr(running, "read_launch", lambda: Launch(0, 8))
    options = TrainOptions(data="sample", arch="net.py:Plain", batch_size=7, device="cpu",
                           out=own / "x.safetensors")  # fmt: skip
    with pytest.raises(InputError, match="0 images of a batch for each of 8 processes") as caught:
        running.Run(options, device=torch.device("cpu"))
    assert "--batch-size" in caught.value.next_step


@pytest.mark.parametrize("size", [1, 2])
def test_sigterm_in_a_launch_of_several_says_what_is_kept(own, monkeypatch, size):
    monkeypatch.setattr(running, "read_launch", lambda: Launch(0, size))
    monkeypatch.setattr(loop.record, "require_same_start", lambda _: None)
    signals = []
    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", lambda _, do: signals.append(do))
        patch.setattr(loop.record, "count_kept", lambda _: 2)
        options = TrainOptions(data="sample", epochs=3, device="cpu", out=own / "x.safetensors")

        def tell(_):
            end = signals[-1] if signals else interrupt
            end(signal.SIGTERM, None)

        with pytest.raises(InterruptedRunError, match="2 complete of 3 kept in ") as caught:
            train(options, tell)
    assert isinstance(caught.value, LostProcessError) == (size == 2)
    assert caught.value.next_step.endswith("--resume")
    assert signals[1:] == [signal.SIG_IGN] * 2 * (size == 2)


def interrupt(*_):
    raise KeyboardInterrupt


def test_sigterm_is_what_it_was_after_training(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with distributed.heeding_sigterm(Launch(0, 2)):
        assert signal.getsignal(signal.SIGTERM) != before
        with pytest.raises(LostProcessError, match="SIGTERM came"):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(distributed, "read_launch", lambda: Launch(0, 2))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(distributed.dist, name, lambda *_: None)
    joined, heeding = (
        distributed.joined(torch.device("cpu")),
        distributed.heeding_sigterm(Launch(0, 2)),
    )
    with pytest.raises(LostProcessError, match="SIGTERM came"), joined, heeding:
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "network"),
    [(0, "convnet"), (1, "convnet"), (0, "net.py:Plain"), (1, "net.py:Plain")],
)
def test_killed_process_ends_the_run_clearly_and_resume_works(own, killed, network):
    command = [*TWO_HERE, *TRAIN, "--epochs", "3", "--arch", network]
    process = torchrun(*command, cwd=own)
    kept = own / "checkpoints" / "convnet.resume.safetensors"
    deadline = time.monotonic() + 120
    while not kept.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process_of_rank(killed, process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = [one for one in errors.splitlines() if one.startswith("convnet-edge")]
    assert "another process of this run is gone" in line
    assert re.search(r"[12] complete of 3 kept in checkpoints/convnet.resume.safetensors;", line)
    assert line.endswith("run the same command again with --resume")
    assert "Error: " not in errors.split("ChildFailedError")[0]  # no traceback of ours
    assert "Resuming after" in finished(torchrun(*command, "--resume", cwd=own))
    assert not kept.exists()
