"""Make bench results as `convnet-edge bench` would write them, without measuring anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convnet_edge.reporting.read import read_results
from convnet_edge.runtime.measure import result
from convnet_edge.runtime.measure.stats import percentiles_ms, wilson_interval

LABELS = ("T-Shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
          "Ankle Boot")  # fmt: skip
NOISY = {"name": "drift", "status": "NOISY", "value": 0.14, "threshold": 0.1,
         "text": "the last third of the runs is 14 % slower", "batch_size": None}  # fmt: skip
DELETE = object()


def full(batch_ms: dict[int, float] | None = None) -> result.Result:
    """Return a result with every field filled, its times around those given by batch size."""
    batch_ms = batch_ms or {1: 0.08, 8: 0.5, 64: 2.6}
    reason = result.Reason("drift", "NOISY", 0.14, 0.1, NOISY["text"], batch_size=8)
    rows = [_latency(size, ms) for size, ms in batch_ms.items()]
    placement = {"CPUExecutionProvider": ["Conv", "Relu", "Gemm"]}
    return result.Result(
        schema=result.SCHEMA,
        measured_at="2026-11-24T01:03:49+00:00",
        convnet_edge="0.1.0",
        model=result.Model("fashion-mnist.onnx", 915_110, "ab" * 32, "cd" * 32, 225_034, 2_215_168,
                           "float32", integers=False),
        provider=result.Provider("cpu", "cpu", True, 2, True, False, False, "float32", placement,
                                 {"CPU": 9}, 0, ["libcuda.so.1"]),
        machine=result.Machine(
            "0123456789abcdef", "AMD EPYC", "x86_64", ["avx2", "fma"], 2, [0, 1], 2, 1.5,
            "performance", False, 2400.0, 51.5, 0.35, 25_276_510_208, 20_276_510_208, "Linux 6.18",
            "docker", "3.11.7", ["NVIDIA H100"], "550.1", {"numpy": "2.4.6", "onnxruntime": "1.32"},
        ),
        settings={"batch_sizes": list(batch_ms), "duration_s": 5.0, "quick": False},
        checks=(result.Check("golden vectors, batch 1", True, "16 images, largest error 2e-06",
                             2e-6, 1.8e-5, False),),
        cost=result.Cost(2_215_168, 900_136, 7.1e10, "float32 matrix product", 0.031),
        profile=(result.NodeTime("relu_nchwc", "Conv", "CPU", 18.2, 0.6),),
        accuracy=_accuracy(),
        cold_start=result.ColdStart(3, tuple(_start(factor) for factor in (1.0, 1.1, 2.0))),
        latency=(replace(rows[0], histogram_ns=[(70_000, 3)],
                         verdict=result.Verdict("NOISY", (reason,))), *rows[1:]),
        throughput=(result.Throughput(64, 2, 1, 23_878.0, (23_000.0, 23_878.0, 24_100.0)),),
        paced=result.Paced(10.0, 60.0, 1, 2, percentiles_ms(np.full(600, 150_000)),
                           (result.Minute(0, 600, 0.15, 0.16, 2400.0, 51.5),), 1.8),
        pairs=(result.Pair("fashion-mnist.int8.onnx", "ef" * 32, 10_000, 11, 8, 25, [3, 4], 0.26,
                           [3]),),
        verdict=result.Verdict("NOISY", (reason,)),
        peak_memory_bytes=130_000_000,
        failed="golden vectors: largest error 0.4 > 1.8e-05",
        interrupted=True,
    )  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """Return a VALID result as JSON; name__key=value replaces a key, DELETE removes it.

    batch_ms: times by batch size. reasons: makes it NOISY.
    """
    whole = result.as_json(full(changes.pop("batch_ms", None)))
    reasons = changes.pop("reasons", [])
    status = "NOISY" if reasons else "VALID"
    whole |= {"failed": None, "interrupted": False}
    whole["verdict"] = {"status": status, "reasons": [{**one, "batch_size": 1} for one in reasons]}
    for row in whole["latency"]:
        row |= {"histogram_ns": None, "verdict": {"status": status, "reasons": reasons}}
    for name, value in changes.items():
        part = whole
        *outer, last = name.split("__")
        for key in outer:
            part = part[key]
        if value is DELETE:
            del part[last]
        else:
            part[last] = value
    return whole


def write(folder: Path, name: str = "a.json", **changes: Any) -> Path:
    """Write a result, and return its path."""
    path = folder / name
    path.write_text(json.dumps(document(**changes)))
    return path


def read(path: Path) -> result.Result:
    """Read one result file."""
    (found,) = read_results([path]).values()
    return found


def _start(factor: float) -> result.FreshProcess:
    parts = [factor * ms for ms in (20.0, 110.0, 0.4, 9.0, 12.0, 0.6)]
    return result.FreshProcess(
        *parts, sum(parts), {"8": 0.9 * factor}, {"1": 0.08, "8": 0.5}, 2e-6, 72_000_000
    )


def _accuracy() -> result.Accuracy:
    confusion = np.full((10, 10), 7) + np.eye(10, dtype=int) * 923
    bins = [
        result.Bin(i / 10, (i + 1) / 10, 100 * i, (i + 0.5) / 10, i / 10) for i in range(10)
    ]  # fmt: skip
    return result.Accuracy(
        10_000,
        9_323,
        0.9323,
        wilson_interval(9_323, 10_000),
        tuple(result.ClassScore(label, 1000, 0.93, 0.92, 0.925) for label in LABELS),
        tuple(map(tuple, confusion.tolist())),
        result.Calibration(0.031, tuple(bins)),
        "5b" * 32,
    )


def _latency(batch_size: int, median_ms: float) -> result.Latency:
    n_runs = 500 if batch_size > 1 else 2000
    draws = np.random.default_rng(batch_size).gamma(4, 0.03, n_runs)
    samples = np.maximum(1e6 * median_ms * (0.9 + draws), 1).astype(int)
    times = samples / 1e6
    return result.Latency(
        batch_size,
        n_runs,
        n_warmup=50,
        elapsed_s=float(times.sum() / 1e3),
        images_per_s=1e3 * batch_size / float(times.mean()),
        mean_ms=float(times.mean()),
        min_ms=float(times.min()),
        max_ms=float(times.max()),
        percentiles_ms=percentiles_ms(samples),
        cpu_ms_per_run=2 * median_ms,
        n_switched=3,
        waited_share=0.001,
        timer_step_ns=30.0,
        n_outputs_checked=64,
        largest_output_error=1e-6,
        share_of_bound=0.4,
        split=result.Split(0.01, 0.07, 0.01),
        verdict=result.Verdict("VALID", ()),
        samples_ns=samples.tolist(),
    )
