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
Run = Callable[[Array], Array]  # images, as the model takes them → logits (N, C)
N_THREADS, BATCH_SIZE, N_WARM_UP = 2, 64, 20
MANY = ".64.tflite"


class Opened:
    """A model in one runtime.

    make_run: one caller's `Run`, by how many callers there will be. dtype, channels_last: of what
    the model takes. scale, zero: of int8.
    """

    def __init__(
        self,
        make_run: Callable[[int], Run],
        sharing: str,
        *,
        dtype: Any = np.float32,
        channels_last: bool = False,
        scale: float = 1.0,
        zero: int = 0,
    ) -> None:
        self.make_run, self.sharing = make_run, sharing
        self.dtype, self.channels_last = dtype, channels_last
        self.scale, self.zero = scale, zero

    def as_taken(self, images: Array) -> Array:
        """Return uint8 images (N, H, W) or (N, H, W, 3) in the model's type and order."""
        images = images[..., None] if images.ndim == 3 else images
        images = images if self.channels_last else images.transpose(0, 3, 1, 2)
        if self.dtype == np.uint8:
            return np.ascontiguousarray(images)
        pixels = np.ascontiguousarray(images).astype(np.float32) / np.float32(255)
        if self.dtype == np.int8:
            return (np.rint(pixels / self.scale) + self.zero).clip(-128, 127).astype(np.int8)
        return pixels


def open_torch(path: Path, *, compiled: bool = False) -> Opened:
    """Open a program of torch.export, eager or compiled, on one thread."""
    import torch

    torch.set_num_threads(1)
    model: Any = torch.export.load(path).module()
    if compiled:
        model = torch.compile(model, dynamic=False)

    def run(images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = model(torch.from_numpy(images)).numpy()
        return logits

    return Opened(lambda _: run, "one model for all threads")


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
        logits: Array = session.run(None, {entry.name: images})[0]
        return logits

    dtype = np.uint8 if entry.type == "tensor(uint8)" else np.float32
    return Opened(lambda _: run, "one session for all threads", dtype=dtype)


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
            request.infer({0: images}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data)

        return run

    return Opened(make_run, "one compiled model, a stream for each thread")


def open_litert(path: Path) -> Opened:
    """Open a .tflite file, and that for many images; an interpreter is for one caller."""
    from ai_edge_litert.interpreter import Interpreter

    def make_run(_: int) -> Run:
        @functools.cache
        def open_for(n_images: int) -> Any:
            file = path if n_images == 1 else path.with_suffix(MANY)
            interpreter = Interpreter(str(file), num_threads=1)
            interpreter.allocate_tensors()
            return interpreter

        def run(images: Array) -> Array:
            interpreter = open_for(len(images))
            interpreter.set_tensor(input_index, images)
            interpreter.invoke()
            logits: Array = interpreter.get_tensor(output_index)
            return (logits.astype(np.float32) - zero) * scale if scale else logits

        return run

    told = Interpreter(str(path))
    entry, result = told.get_input_details()[0], told.get_output_details()[0]
    input_index, output_index = entry["index"], result["index"]
    scale, zero = result["quantization"]
    input_scale, input_zero = entry["quantization"]
    return Opened(
        make_run, "an interpreter for each thread", dtype=entry["dtype"], channels_last=True,
        scale=input_scale, zero=input_zero,
    )  # fmt: skip


OPEN = {
    "torch": open_torch,
    "torch-compiled": functools.partial(open_torch, compiled=True),
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "litert": open_litert,
}


def predict(run: Run, images: Array, out: str) -> dict[str, Any]:
    """Write the logits of all images to `out`; every batch is of one size."""
    starts = [*range(0, len(images) - BATCH_SIZE, BATCH_SIZE), len(images) - BATCH_SIZE]
    parts = {start: run(images[start : start + BATCH_SIZE]) for start in starts}
    logits = np.empty((len(images), *parts[0].shape[1:]), np.float32)
    for start, part in parts.items():
        logits[start : start + BATCH_SIZE] = part
    np.save(out, logits)
    return {}


def time_latency(run: Run, images: Array, seconds: float) -> dict[str, Any]:
    """Time one image a call, another one each time: milliseconds, of the clock and of the CPU."""
    for index in range(N_WARM_UP):
        run(images[index : index + 1])
    samples: list[int] = []
    used, end = time.process_time_ns(), time.perf_counter_ns() + int(seconds * 1e9)
    while time.perf_counter_ns() < end:
        index = len(samples) % len(images)
        image = images[index : index + 1]
        started = time.perf_counter_ns()
        run(image)
        samples.append(time.perf_counter_ns() - started)
    used = time.process_time_ns() - used
    return {
        "n": len(samples),
        "p50_ms": float(np.median(samples)) / 1e6,
        "cpu_ms": used / len(samples) / 1e6,
    }


def time_throughput(runs: list[Run], images: Array, seconds: float) -> dict[str, Any]:
    """Time as many callers at once as there are `runs`; images a second of all together."""

    def call(run: Run) -> int:
        n, end = 0, time.perf_counter_ns() + int(seconds * 1e9)
        while time.perf_counter_ns() < end:
            start = n * BATCH_SIZE % max(1, len(images) - BATCH_SIZE)
            run(images[start : start + BATCH_SIZE])
            n += 1
        return n

    for run in runs:
        run(images[:BATCH_SIZE])
    with ThreadPoolExecutor(len(runs)) as pool:
        used, started = time.process_time_ns(), time.perf_counter_ns()
        n = sum(pool.map(call, runs)) * BATCH_SIZE
        elapsed, used = time.perf_counter_ns() - started, time.process_time_ns() - used
    return {"n": n, "images_per_s": n / elapsed * 1e9, "images_per_cpu_s": n / used * 1e9}


def memory_bytes() -> int | None:
    """Return the most memory this process has held, from Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found.group(1)) if found else None


def main() -> None:
    """Open the model, answer once after the first inference, then task by task."""
    runtime, model, images_path = sys.argv[1:]
    stored = np.load(images_path, mmap_mode="r")  # (N, H, W) or (N, H, W, 3) uint8
    opened = OPEN[runtime](Path(model))
    run = opened.make_run(1)
    run(opened.as_taken(np.array(stored[:1])))
    ready = {"input": np.dtype(opened.dtype).name, "sharing": opened.sharing}
    print(json.dumps(ready), flush=True)
    images = opened.as_taken(np.array(stored))
    runs = [opened.make_run(N_THREADS) for _ in range(N_THREADS)]
    for line in sys.stdin:
        task = json.loads(line)
        kind = task.pop("task")
        if kind == "predict":
            answer = predict(run, images, task["out"])
        elif kind == "latency":
            answer = time_latency(run, images, task["seconds"])
        elif kind == "throughput":
            answer = time_throughput(runs, images, task["seconds"])
        else:
            answer = {"peak_memory_bytes": memory_bytes()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
