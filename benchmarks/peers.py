"""Compare the shipped files with what other runtimes make of the same weights.

    python benchmarks/peers.py

Each runtime is a process of its own; torch and onnxruntime are those of this environment, the
others get a virtual environment each (--venvs; needs a package index). A round measures every row,
one after the other: one image a call on one thread, then 64 a call from two threads at once. Ratios
are taken within a round against onnxruntime on the plain float export. A row that fails says why.
Accuracy and label flips are of all 10,000 test images. Ranges for integers come from 1,000 of the
training images that come with the program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import readme_table
import torch
from matplotlib.figure import Figure
from onnx import numpy_helper
from onnxruntime.quantization import quantize_static

from convnet_edge.data import fashion_mnist as data
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine

HERE = Path(__file__).resolve().parent
EXPORTED = HERE.parent / "exported"
REFERENCE_PATH = HERE / "results" / "reference" / "peers-cpu.json"
BASE = "onnxruntime, float32, plain export"
N_CALIBRATION = 1000
N_COLD_STARTS = 5
BATCH_SIZE = 64
TIMEOUT_S = 600

VENVS = {
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0"),
    "tensorflow": ("tensorflow-cpu==2.21.0",),
    "litert": ("ai-edge-litert==2.3.0",),
}


@dataclass(frozen=True)
class Peer:
    """One row. runtime: of worker.py. model: its file, in the work folder or exported/.

    converter: the environment that makes the file with convert.py, None if it is there.
    """

    name: str
    runtime: str
    model: str
    converter: str | None = None


PEERS = (
    Peer("torch, float32, eager", "torch", "weights.npz"),
    Peer(BASE, "onnxruntime", "plain.onnx"),
    Peer("onnxruntime, int8 by its own quantizer", "onnxruntime", "standard-int8.onnx"),
    Peer("OpenVINO, float32", "openvino", "openvino-float32.xml", "openvino"),
    Peer("OpenVINO, int8 by NNCF", "openvino", "openvino-int8.xml", "openvino"),
    Peer("LiteRT, int8 by TensorFlow", "litert", "litert-int8.tflite", "tensorflow"),
    Peer("convnet-edge, float32", "onnxruntime", "fashion-mnist.onnx"),
    Peer("convnet-edge, int8 portable", "onnxruntime", "fashion-mnist.int8.onnx"),
    Peer("convnet-edge, int8 ort-cpu", "onnxruntime", "fashion-mnist.int8-ort.onnx"),
)


@dataclass
class Row:
    """What was found of a peer; `failed`: why there is nothing, None if there is."""

    peer: Peer
    failed: str | None = None
    stated: dict[str, Any] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    images_per_s: list[float] = field(default_factory=list)


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


def prepare_plain_files(folder: Path) -> None:
    """Write the shipped weights as a plain float export, its standard int8, and for converters."""
    proto = onnx.load(EXPORTED / "fashion-mnist.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    model = Convnet(Architecture())
    weights = [torch.from_numpy(stored[name].copy()) for name, _ in model.named_parameters()]
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), weights, strict=True):
            parameter.copy_(values)
    model.eval()
    plain = folder / "plain.onnx"
    batch = {"x": {0: torch.export.Dim("batch")}}
    torch.onnx.export(
        model, (torch.zeros(2, 1, 28, 28),), plain, input_names=["images"],
        output_names=["logits"], dynamic_shapes=batch, verbose=False, external_data=False,
    )  # fmt: skip
    images = data.load_training_set("sample", None).images[:N_CALIBRATION]
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises to prepare the file
    quantize_static(plain, folder / "standard-int8.onnx", _Images(images))
    arrays: dict[str, Any] = {f"w{index}": w.numpy() for index, w in enumerate(weights)}
    np.savez(folder / "weights.npz", **arrays)
    np.savez(folder / "source.npz", onnx_path=str(plain), calibration=images, **arrays)


class _Images:
    """Calibration images, as onnxruntime's quantiser reads them."""

    def __init__(self, images: Any) -> None:
        x = images[:, None].astype(np.float32) / np.float32(255)
        self._batches = iter([{"images": x[i : i + 100]} for i in range(0, len(x), 100)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


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
    if not path.exists():
        path = EXPORTED / peer.model
    if peer.converter is not None:
        path = folder / peer.model
        converter = python_of(peer.converter, venvs)
        _call([converter, str(HERE / "peers" / "convert.py"), Path(peer.model).stem,
               str(folder / "source.npz"), str(path)])  # fmt: skip
    python = python_of(peer.runtime, venvs)
    worker = str(HERE / "peers" / "worker.py")
    return [python, worker, peer.runtime, str(path), str(folder / "images.npy")]


def describe(row: Row, worker: Worker, command: list[str], folder: Path, labels: Any) -> None:
    """Fill in what does not change from round to round; logits stay in the work folder."""
    out = folder / f"{PEERS.index(row.peer)}.npy"
    worker.ask("predict", out=str(out))
    found = np.load(out).argmax(axis=1)
    path = Path(command[3])
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    row.stated = {
        **worker.ready,
        "model_bytes": sum(file.stat().st_size for file in files),
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "accuracy": float((found == labels).mean()),
        "labels": found,
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
    peers: Iterable[Peer], folder: Path, *, venvs: Path, n_rounds: int, seconds: float
) -> list[Row]:
    """Open all peers, then measure each of them in every round."""
    test = data.load_test_set()
    np.save(folder / "images.npy", test.images)
    rows, workers = [Row(peer) for peer in peers], {}
    for row in rows:
        print(f"opening {row.peer.name}", file=sys.stderr)
        try:
            command = start(row.peer, folder, venvs)
            worker = Worker(command)
            describe(row, worker, command, folder, test.labels)
        except ChildProcessError as error:
            row.failed = str(error)
        else:
            workers[row.peer.name] = worker
    for index in range(n_rounds):
        for row in rows:
            if row.failed is not None:
                continue
            worker = workers[row.peer.name]
            found = worker.ask("latency", seconds=seconds)
            row.latency_ms.append(found["p50_ms"])
            found = worker.ask("throughput", seconds=seconds, batch_size=BATCH_SIZE)
            row.images_per_s.append(found["images_per_s"])
        print(f"round {index + 1} of {n_rounds}", file=sys.stderr)
    for row in rows:
        if row.failed is None:
            row.stated |= workers[row.peer.name].ask("memory")
            workers[row.peer.name].close()
    return rows


def summarize(rows: list[Row]) -> list[dict[str, Any]]:
    """Return a JSON row for each peer: ratios to the base within a round, flips against it."""
    base = next(row for row in rows if row.peer.name == BASE)
    if base.failed is not None:
        sys.exit(f"{BASE} failed, so there is nothing to compare with: {base.failed}")
    found = []
    for row in rows:
        entry: dict[str, Any] = {"name": row.peer.name, "runtime": row.peer.runtime}
        if row.failed is not None:
            found.append({**entry, "failed": row.failed})
            continue
        stated = {key: value for key, value in row.stated.items() if key != "labels"}
        faster = [a / b for a, b in zip(base.latency_ms, row.latency_ms, strict=True)]
        more = [b / a for a, b in zip(base.images_per_s, row.images_per_s, strict=True)]
        found.append(
            {
                **entry,
                **stated,
                "n_label_flips": int((row.stated["labels"] != base.stated["labels"]).sum()),
                "latency_ms": row.latency_ms,
                "images_per_s": row.images_per_s,
                "latency_ratio": _spread(faster),
                "throughput_ratio": _spread(more),
            }
        )
    return found


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


def main() -> None:
    """Measure, print the table, write result and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each timing")
    parser.add_argument("--only", help="rows whose names hold one of these words, by commas")
    parser.add_argument("--venvs", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--out", type=Path, default=REFERENCE_PATH)
    options = parser.parse_args()
    words = options.only.split(",") if options.only else [""]
    peers = [p for p in PEERS if p.name == BASE or any(word in p.name for word in words)]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        prepare_plain_files(folder)
        rows = measure(
            peers, folder, venvs=options.venvs.resolve(), n_rounds=options.rounds,
            seconds=options.seconds,
        )  # fmt: skip
    found, passport = summarize(rows), machine.passport()
    write_json(
        options.out,
        {
            "schema": "convnet-edge/peers-benchmark/1",
            "command": "python benchmarks/peers.py",
            "n_rounds": options.rounds,
            "seconds": options.seconds,
            "n_images": 10_000,
            "batch_size": BATCH_SIZE,
            "base": BASE,
            "requirements": VENVS,
            "rows": found,
            "machine": passport,
            "versions": {**machine.versions(), "torch": torch.__version__},
        },
    )
    draw(found, f"The same weights, {passport['cpu']}", options.out.with_suffix(".png"))
    print(readme_table.peers_table(found))


if __name__ == "__main__":
    main()
