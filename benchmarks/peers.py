"""Compare our files with what other runtimes make of the same weights.

    python benchmarks/peers.py
    python benchmarks/peers.py --arch torchvision:resnet18

Without --arch of the shipped files; with it of a network that is trained, exported and quantised
first. Each runtime is a process of its own; torch and onnxruntime are those of this environment,
the others get a virtual environment each (--venvs; needs a package index). A round measures every
row, one after the other: one image a call on one thread, then 64 a call from two threads at once,
by the clock and by the processor's own time. Ratios are taken within a round against onnxruntime on
the plain float export. A row that fails says why. Accuracy and label flips are of all test images.
Ranges for integers come from the same training images everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import readme_table
import subjects
import torch
from matplotlib.figure import Figure
from subjects import Subject

from convnet_edge.networks import REFERENCE
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine, stats

HERE = Path(__file__).resolve().parent
REFERENCE_PATH = HERE / "results" / "reference" / "peers-cpu.json"
BASE = "onnxruntime, float32, plain export"
OURS = "convnet-edge, int8 portable"
N_COLD_STARTS = 5
BATCH_SIZE = 64  # of worker.py
TIMEOUT_S = 1200

VENVS = {
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0"),
    "litert-torch": ("litert-torch==0.10.0",),
    "litert": ("ai-edge-litert==2.3.0",),
}


@dataclass(frozen=True)
class Peer:
    """One row. runtime: of worker.py. model: its file, in the work folder if not elsewhere.

    converter: the environment that makes the file with convert.py, None if it is there.
    """

    name: str
    runtime: str
    model: str
    converter: str | None = None


OTHERS = (
    Peer("torch, float32, eager", "torch", "program.pt2"),
    Peer("torch, float32, compiled", "torch-compiled", "program.pt2"),
    Peer(BASE, "onnxruntime", "plain.onnx"),
    Peer("onnxruntime, int8 by its own quantizer", "onnxruntime", "standard-int8.onnx"),
    Peer("OpenVINO, float32", "openvino", "openvino-float32.xml", "openvino"),
    Peer("OpenVINO, int8 by NNCF", "openvino", "openvino-int8.xml", "openvino"),
    Peer("LiteRT, float32", "litert", "litert-float32.tflite", "litert-torch"),
    Peer("LiteRT, int8 by its quantizer", "litert", "litert-int8.tflite", "litert-torch"),
)


TIMED = {"latency": ("p50_ms", "cpu_ms"), "throughput": ("images_per_s", "images_per_cpu_s")}


@dataclass
class Row:
    """What was found of a peer; `failed`: why there is nothing, None if there is."""

    peer: Peer
    failed: str | None = None
    stated: dict[str, Any] = field(default_factory=dict)
    timed: dict[str, list[float]] = field(
        default_factory=lambda: {key: [] for keys in TIMED.values() for key in keys}
    )


class Worker:
    """A peer's process."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready = self._answer()

    def ask(self, task: str, **options: Any) -> dict[str, Any]:
        """Return the answer to one task.

        Raises:
            ChildProcessError: the process ended; its last words.
        """
        if self.process.poll() is None and self.process.stdin:
            self.process.stdin.write(json.dumps({"task": task, **options}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise ChildProcessError(_last_line(self.process.communicate()[1]))
        answer: dict[str, Any] = json.loads(line)
        return answer


def python_of(name: str, venvs: Path) -> str:
    """Return the interpreter of an environment, made and filled if it is not there.

    Raises:
        ChildProcessError: its packages cannot be installed.
    """
    if name not in VENVS:
        return sys.executable
    folder, requirements = venvs / name, VENVS[name]
    done, python = folder / "installed.txt", folder / "bin" / "python"
    if not done.exists() or done.read_text() != " ".join(requirements):
        print(f"installing {' '.join(requirements)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        _call([str(python), "-m", "pip", "install", "--quiet", *requirements])
        done.write_text(" ".join(requirements))
    return str(python)


def start(peer: Peer, folder: Path, venvs: Path) -> list[str]:
    """Return the command of a peer's worker, its model file converted.

    Raises:
        ChildProcessError: an environment or the file cannot be made.
    """
    path = folder / peer.model
    if peer.converter is not None:
        converter = python_of(peer.converter, venvs)
        script = HERE / "peers" / "convert.py"
        _call([converter, str(script), path.stem, str(folder), str(path)])
    python = python_of(peer.runtime, venvs)
    worker = str(HERE / "peers" / "worker.py")
    return [python, worker, peer.runtime, str(path), str(folder / "images.npy")]


def describe(row: Row, worker: Worker, command: list[str], folder: Path) -> None:
    """Fill in what does not change from round to round; logits stay in the work folder."""
    out = folder / "logits.npy"
    worker.ask("predict", out=str(out))
    path = Path(command[3])
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    row.stated = {
        **worker.ready,
        "model_bytes": sum(file.stat().st_size for file in files),
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "labels": np.load(out).argmax(axis=1),
        "cold_start_s": [time_cold_start(command) for _ in range(N_COLD_STARTS)],
    }


def time_cold_start(command: list[str]) -> float:
    """Return the seconds from starting the process to its first result."""
    started = time.perf_counter_ns()
    worker = Worker(command)
    elapsed = time.perf_counter_ns() - started
    worker.close()
    return elapsed / 1e9


def measure(
    peers: Sequence[Peer], folder: Path, *, venvs: Path, n_rounds: int, seconds: float
) -> list[Row]:
    """Open all peers, then measure each of them in every round."""
    rows, workers = [Row(peer) for peer in peers], {}
    for row in rows:
        print(f"opening {row.peer.name}", file=sys.stderr)
        try:
            command = start(row.peer, folder, venvs)
            worker = Worker(command)
            describe(row, worker, command, folder)
        except (ChildProcessError, subprocess.TimeoutExpired) as error:
            row.failed = str(error)
        else:
            workers[row.peer.name] = worker
    for index in range(n_rounds):
        for row in rows:
            if row.failed is not None:
                continue
            for task, keys in TIMED.items():
                found = workers[row.peer.name].ask(task, seconds=seconds)
                for key in keys:
                    row.timed[key].append(found[key])
        print(f"round {index + 1} of {n_rounds}", file=sys.stderr)
    for row in rows:
        if row.failed is None:
            row.stated |= workers[row.peer.name].ask("memory")
            workers[row.peer.name].close()
    return rows


def summarize(rows: list[Row], labels: Any) -> list[dict[str, Any]]:
    """Return a JSON row for each peer: ratios to the base within a round, labels against others.

    labels: (N,) what the test images are.
    """
    known = {row.peer.name: row for row in rows if row.failed is None}
    base, ours = known.get(BASE), known.get(OURS)
    if base is None:
        sys.exit(f"{BASE} failed, so there is nothing to compare with")
    found = []
    for row in rows:
        entry: dict[str, Any] = {"name": row.peer.name, "runtime": row.peer.runtime}
        if row.failed is not None:
            found.append({**entry, "failed": row.failed})
            continue
        stated, said = dict(row.stated), row.stated["labels"]
        del stated["labels"]
        entry |= stated | {
            "accuracy": float((said == labels).mean()),
            "n_label_flips": int((said != base.stated["labels"]).sum()),
        }
        if ours is not None and row is not ours:
            entry["convnet_edge_int8"] = _pair(said, ours.stated["labels"], labels)
        if row.timed["p50_ms"]:
            entry |= {"latency_ms": row.timed["p50_ms"], **row.timed}
            del entry["p50_ms"]
            for name, (key, sign) in RATIOS.items():
                pairs = zip(row.timed[key], base.timed[key], strict=True)
                entry[name] = _spread([(mine / its) ** sign for mine, its in pairs])
        found.append(entry)
    return found


RATIOS = {  # to the base, larger is better
    "latency_ratio": ("p50_ms", -1),
    "latency_cpu_ratio": ("cpu_ms", -1),
    "throughput_ratio": ("images_per_s", 1),
    "throughput_cpu_ratio": ("images_per_cpu_s", 1),
}


def _pair(theirs: Any, ours: Any, labels: Any) -> dict[str, Any]:
    """Return how far our integers may be behind: images that one alone has right, and a bound."""
    lost = int(((theirs == labels) & (ours != labels)).sum())
    gained = int(((theirs != labels) & (ours == labels)).sum())
    bound = stats.paired_drop_bound(lost, gained, len(labels))
    return {"n_lost": lost, "n_gained": gained, "drop_upper_bound_95": bound}


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw both ratios of every peer that ran, with their ranges."""
    ran = [row for row in rows if "failed" not in row]
    figure = Figure(figsize=(11, 0.5 * len(ran) + 1.4), dpi=110, layout="constrained")
    what = {"latency_ratio": "1 image a call, one thread", "throughput_ratio": "64, two threads"}
    for axes, (key, label) in zip(figure.subplots(1, 2, sharey=True), what.items(), strict=True):
        medians = [row[key]["median"] for row in ran]
        lower = [row[key]["median"] - row[key]["lowest"] for row in ran]
        upper = [row[key]["highest"] - row[key]["median"] for row in ran]
        colors = ["#2563a8" if "convnet-edge" in row["name"] else "#9aa3ad" for row in ran]
        axes.barh([row["name"] for row in ran], medians, xerr=(lower, upper), color=colors,
                  ecolor="#4b5158", capsize=3)  # fmt: skip
        axes.set(xlabel="times onnxruntime's plain float32", title=label)
    axes.invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path)


def _spread(ratios: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)
    }  # fmt: skip


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise ChildProcessError(_last_line(done.stderr or done.stdout))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it ended without a word"


def read_command_line() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--arch", default=REFERENCE, help="a network, as `train --arch` names it")
    parser.add_argument("--checkpoint", type=Path, help="of --arch, instead of training it")
    parser.add_argument("--data", help="as `train --data`; by default letters are drawn")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, help="of training, instead of the recipe's")
    parser.add_argument("--max-drop", type=float, default=0.5, help="as `quantize --max-drop`")
    parser.add_argument("--rounds", type=int, default=15, help="0: accuracy alone")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each timing")
    parser.add_argument("--only", default="", help="rows whose names hold one of these words")
    parser.add_argument("--venvs", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--out", type=Path, default=REFERENCE_PATH)
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write result and picture."""
    asked = read_command_line()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        subject = subjects.find(asked, folder)
        subjects.write_plain_files(subject, folder)
        ours = [
            Peer(f"convnet-edge, {kind}", "onnxruntime", str(path))
            for kind, path in subject.files.items()
        ]
        peers = [
            peer for peer in (*OTHERS, *ours)
            if peer.name == BASE or any(word in peer.name for word in asked.only.split(","))
        ]  # fmt: skip
        rows = measure(
            peers, folder, venvs=asked.venvs.resolve(), n_rounds=asked.rounds, seconds=asked.seconds
        )
    write(asked, subject, summarize(rows, subject.test.labels))


def write(asked: argparse.Namespace, subject: Subject, found: list[dict[str, Any]]) -> None:
    """Write result and picture, print the table."""
    passport = machine.passport()
    write_json(
        asked.out,
        {
            "schema": "convnet-edge/peers-benchmark/2",
            "command": " ".join(["python", *sys.argv]),
            "arch": asked.arch,
            "image_shape": subject.test.images.shape[1:],
            "n_rounds": asked.rounds,
            "seconds": asked.seconds,
            "n_images": len(subject.test),
            "n_images_for_ranges": len(subject.ranges),
            "batch_size": BATCH_SIZE,
            "base": BASE,
            "requirements": VENVS,
            "rows": found,
            "machine": passport,
            "versions": {**machine.versions(), "torch": torch.__version__},
        },
    )
    if asked.rounds:
        draw(found, f"{asked.arch}, {passport['cpu']}", asked.out.with_suffix(".png"))
    print(readme_table.peers_table(found))


if __name__ == "__main__":
    main()
