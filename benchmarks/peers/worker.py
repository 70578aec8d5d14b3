"""Run one runtime for `benchmarks/peers.py`: `python worker.py RUNTIME MODEL IMAGES.npy`.

Needs numpy and that runtime alone. Every line on stdin is a task as JSON, every line on stdout its
answer. Images are given in the type that the model takes before anything is timed.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Array], Array]  # (N, H, W) of the model's own input type → logits (N, C)
N_THREADS = 2


class Opened:
    """A model in one runtime.

    make_run: one caller's `Run`, by how many callers there will be; dtype: what the model takes.
    """

    def __init__(self, make_run: Callable[[int], Run], dtype: Any, sharing: str) -> None:
        self.make_run, self.dtype, self.sharing = make_run, dtype, sharing


def open_torch(path: Path) -> Opened:
    """Open weights (.npz, in the order of the layers) as the tutorial's layers, eager."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    with np.load(path) as stored:
        w = [torch.from_numpy(stored[name]) for name in stored.files]
    model = nn.Sequential(
        nn.Conv2d(1, w[0].shape[0], 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(w[0].shape[0], w[2].shape[0], 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(w[4].shape[1], w[4].shape[0]), nn.ReLU(),
        nn.Linear(w[6].shape[1], w[6].shape[0]),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), w, strict=True):
            parameter.copy_(values)

    def run(images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = model(torch.from_numpy(images)[:, None]).numpy()
        return logits

    return Opened(lambda _: run, np.float32, "one model for all threads")


def open_onnxruntime(path: Path) -> Opened:
    """Open an ONNX file in one session of one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0]

    def run(images: Array) -> Array:
        logits: Array = session.run(None, {entry.name: images[:, None]})[0]
        return logits

    dtype = np.uint8 if entry.type == "tensor(uint8)" else np.float32
    return Opened(lambda _: run, dtype, "one session for all threads")


def open_openvino(path: Path) -> Opened:
    """Compile a model for latency, and for as many streams of one thread as there are callers."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)

    @functools.cache
    def compile_for(n_callers: int) -> Any:
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": n_callers, "NUM_STREAMS": n_callers}
        if n_callers == 1:
            settings["PERFORMANCE_HINT"] = "LATENCY"
        return core.compile_model(model, "CPU", settings)

    def make_run(n_callers: int) -> Run:
        request = compile_for(n_callers).create_infer_request()

        def run(images: Array) -> Array:
            request.infer({0: images[:, None]}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data)

        return run

    return Opened(make_run, np.float32, "one compiled model, a stream for each thread")


def open_litert(path: Path) -> Opened:
    """Open a .tflite file; an interpreter is for one caller."""
    from ai_edge_litert.interpreter import Interpreter

    def make_run(_: int) -> Run:
        interpreter = Interpreter(str(path), num_threads=1)
        entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        scale, zero = result["quantization"]
        n_images = 0

        def run(images: Array) -> Array:
            nonlocal n_images
            if len(images) != n_images:
                n_images = len(images)
                interpreter.resize_tensor_input(entry["index"], [n_images, *images.shape[1:], 1])
                interpreter.allocate_tensors()
            interpreter.set_tensor(entry["index"], images[..., None])
            interpreter.invoke()
            logits: Array = interpreter.get_tensor(result["index"])
            return (logits.astype(np.float32) - zero) * scale if scale else logits

        return run

    entry = Interpreter(str(path)).get_input_details()[0]
    return Opened(make_run, entry["dtype"], "an interpreter for each thread")


OPEN = {
    "torch": open_torch,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "litert": open_litert,
}


def predict(run: Run, images: Array, out: str) -> dict[str, Any]:
    """Write the logits of all images to `out`."""
    np.save(out, np.concatenate([run(images[i : i + 100]) for i in range(0, len(images), 100)]))
    return {}


def time_latency(run: Run, images: Array, seconds: float) -> dict[str, Any]:
    """Time one image a call, another one each time; milliseconds."""
    for index in range(50):
        run(images[index : index + 1])
    samples: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while time.perf_counter_ns() < end:
        index = len(samples) % len(images)
        image = images[index : index + 1]
        started = time.perf_counter_ns()
        run(image)
        samples.append(time.perf_counter_ns() - started)
    return {"n": len(samples), "p50_ms": float(np.median(samples)) / 1e6}


def time_throughput(
    runs: list[Run], images: Array, batch_size: int, seconds: float
) -> dict[str, Any]:
    """Time as many callers at once as there are `runs`; images a second of all together."""

    def call(run: Run) -> int:
        n, end = 0, time.perf_counter_ns() + int(seconds * 1e9)
        while time.perf_counter_ns() < end:
            start = n * batch_size % (len(images) - batch_size)
            run(images[start : start + batch_size])
            n += 1
        return n

    for run in runs:
        run(images[:batch_size])
    with ThreadPoolExecutor(len(runs)) as pool:
        started = time.perf_counter_ns()
        n = sum(pool.map(call, runs))
        elapsed = time.perf_counter_ns() - started
    return {"n": n, "images_per_s": n * batch_size / elapsed * 1e9}


def memory_bytes() -> int | None:
    """Return the most memory this process has held, from Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found.group(1)) if found else None


def main() -> None:
    """Open the model, answer once after the first inference, then task by task."""
    runtime, model, images_path = sys.argv[1:]
    grey = np.load(images_path, mmap_mode="r")  # (N, H, W) uint8
    opened = OPEN[runtime](Path(model))

    def as_taken(images: Array) -> Array:
        return images if opened.dtype == np.uint8 else images.astype(np.float32) / np.float32(255)

    run = opened.make_run(1)
    run(as_taken(np.array(grey[:1])))
    ready = {"input": np.dtype(opened.dtype).name, "sharing": opened.sharing}
    print(json.dumps(ready), flush=True)
    images = as_taken(np.array(grey))
    runs = [opened.make_run(N_THREADS) for _ in range(N_THREADS)]
    for line in sys.stdin:
        task = json.loads(line)
        kind = task.pop("task")
        if kind == "predict":
            answer = predict(run, images, task["out"])
        elif kind == "latency":
            answer = time_latency(run, images, task["seconds"])
        elif kind == "throughput":
            answer = time_throughput(runs, images, task["batch_size"], task["seconds"])
        else:
            answer = {"peak_memory_bytes": memory_bytes()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
