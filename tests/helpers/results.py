"""Make bench results as `convnet-edge bench` would write them, without measuring anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("T-Shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
          "Ankle Boot")  # fmt: skip
NOISY = {
    "name": "drift",
    "status": "NOISY",
    "value": 0.14,
    "threshold": 0.10,
    "text": "the second half took 14 % longer than the first, the limit is 10 %: "
    "close other programs and measure again",
}
DELETE = object()


def document(**changes: Any) -> dict[str, Any]:
    """Return a result of schema 2; name__key=value replaces a key of a part, DELETE removes it."""
    batch_ms = changes.pop("batch_ms", {1: 0.08, 8: 0.5, 64: 2.6})
    reasons = changes.pop("reasons", [])
    whole: dict[str, Any] = {
        "schema": "convnet-edge/bench/2",
        "measured_at": "2026-11-24T01:03:49+00:00",
        "convnet_edge": "0.1.0",
        "model": {"name": "fashion-mnist.onnx", "model_bytes": 915110, "model_sha256": "ab" * 32,
                  "graph_sha256": "cd" * 32, "n_parameters": 225034, "n_multiplications": 2215168,
                  "input_dtype": "float32", "integers": False},
        "provider": {"asked": "cpu", "obtained": "cpu", "tested": True, "threads": 2, "spin": True,
                     "io_binding": False, "cuda_graph": False, "precision": "float32",
                     "placement": {"CPUExecutionProvider": ["Conv", "Relu", "Gemm"]},
                     "n_nodes_run": {"CPU": 9}, "n_copies": 0, "gpu_libraries": []},
        "machine": {"id": "0123456789abcdef", "cpu": "AMD EPYC", "architecture": "x86_64",
                    "isa": ["avx2", "fma"], "cores": 2, "usable_cores": 2, "cgroup_cores": None,
                    "affinity": [0, 1], "governor": None, "smt": None, "temperature_c": None,
                    "clock_mhz": None, "load_1min": 0.35, "memory_bytes": 25276510208,
                    "memory_available_bytes": 20276510208, "system": "Linux 6.18",
                    "container": None, "python": "3.11.7", "gpus": [], "gpu_driver": None,
                    "versions": {"numpy": "2.4.6", "onnxruntime": "1.32.0"}},
        "settings": {"batch_sizes": list(batch_ms), "duration_s": 5.0, "min_runs": 130,
                     "quick": False},
        "checks": [{"name": "graph digest", "passed": True, "detail": "sha256 as stated",
                    "value": None, "limit": None, "skipped": False}],
        "cost": {"n_multiplications": 2215168, "weight_bytes": 900136,
                 "peak_multiplications_per_s": 7.1e10, "peak_of": "float32 matrix product",
                 "bound_ms": 0.031},
        "cold_start": {"n_processes": 3, "processes": [_start(factor) for factor in (1, 1.1, 2)]},
        "accuracy": _accuracy(),
        "latency": [_latency(size, ms, reasons) for size, ms in batch_ms.items()],
        "throughput": [{"batch_size": 64, "threads": 2, "n_callers": 1, "images_per_s": 23878.0,
                        "rounds_images_per_s": [23000.0, 23878.0, 24100.0]}],
        "paced": {"pace_hz": 10.0, "duration_s": 60.0, "n_late": 0, "n_dropped": 0,
                  "penalty": 1.8,
                  "percentiles_ms": _percentiles(np.full(600, 0.15)),
                  "minutes": [{"minute": 0, "n_runs": 600, "p50_ms": 0.15, "p90_ms": None,
                               "clock_mhz": 2400.0, "temperature_c": 51.5}]},
        "profile": [{"name": "relu_nchwc", "op_type": "Conv", "provider": "CPUExecutionProvider",
                     "median_us": 18.2, "share": 0.6}],
        "loadgen": [{"scenario": "offline", "mode": "performance", "valid": True,
                     "accuracy": None, "text": "LoadGen offline performance: VALID"}],
        "pairs": [{"name": "fashion-mnist.int8.onnx", "model_sha256": "ef" * 32, "n": 10000,
                   "n_lost": 11, "n_gained": 8, "n_differing": 25, "mcnemar_p": 0.26}],
        "verdict": {"status": "NOISY" if reasons else "VALID",
                    "reasons": [{**reason, "batch_size": 1} for reason in reasons]},
        "peak_memory_bytes": 130000000,
    }  # fmt: skip
    for name, value in changes.items():
        _change(whole, name.split("__"), value)
    return whole


def write(folder: Path, name: str = "a.json", **changes: Any) -> Path:
    """Write a result, and return its path."""
    path = folder / name
    path.write_text(json.dumps(document(**changes)))
    return path


def _change(part: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        part = part[name]
    if value is DELETE:
        del part[names[-1]]
    else:
        part[names[-1]] = value


def _start(factor: float) -> dict[str, Any]:
    parts = {"interpreter_ms": 20.0, "import_ms": 110.0, "read_ms": 0.4, "check_ms": 9.0,
             "session_ms": 12.0,
             "first_run_ms": 0.6}  # fmt: skip
    scaled = {name: value * factor for name, value in parts.items()}
    return {
        **scaled,
        "total_ms": sum(scaled.values()),
        "batch_first_run_ms": {"8": 0.9 * factor},
        "p50_ms": {"1": 0.08, "8": 0.5},
        "peak_memory_bytes": 72000000,
    }


def _accuracy() -> dict[str, Any]:
    confusion = np.full((10, 10), 7) + np.eye(10, dtype=int) * (1000 - 77 + 7 - 7)
    classes = [
        {"label": label, "n": 1000, "precision": 0.93, "recall": 0.92, "f1": 0.925}
        for label in LABELS
    ]
    bins = [
        {"low": i / 10, "high": (i + 1) / 10, "n": 100 * i, "confidence": (i + 0.5) / 10,
         "accuracy": i / 10}
        for i in range(10)
    ]  # fmt: skip
    return {
        "n": 10000,
        "n_correct": 9323,
        "accuracy": 0.9323,
        "interval": {"low": 0.9272, "high": 0.9371},
        "classes": classes,
        "confusion": confusion.tolist(),
        "calibration": {"error": 0.031, "bins": bins},
        "images_sha256": "5b" * 32,
    }


def _latency(batch_size: int, median_ms: float, reasons: list[dict[str, Any]]) -> dict[str, Any]:
    n_runs = 500 if batch_size > 1 else 2000
    draws = np.random.default_rng(batch_size).gamma(4, 0.03, n_runs)
    samples_ms = median_ms * (0.9 + draws)
    return {
        "batch_size": batch_size,
        "n_runs": n_runs,
        "n_warmup": 50,
        "elapsed_s": float(samples_ms.sum() / 1e3),
        "images_per_s": 1e3 * batch_size / float(samples_ms.mean()),
        "mean_ms": float(samples_ms.mean()),
        "min_ms": float(samples_ms.min()),
        "max_ms": float(samples_ms.max()),
        "percentiles_ms": _percentiles(samples_ms),
        "n_outputs_checked": 64,
        "largest_output_error": 0.0,
        "n_switched": 3,
        "waited_share": 0.001,
        "split": {"host_to_device_ms": 0.01, "compute_ms": 0.07, "device_to_host_ms": 0.01},
        "cpu_ms_per_run": 2 * median_ms,
        "share_of_bound": 0.4,
        "samples_ns": (samples_ms * 1e6).astype(int).tolist(),
        "verdict": {"status": "NOISY" if reasons else "VALID", "reasons": reasons},
    }


def _percentiles(samples_ms: Any) -> list[dict[str, Any]]:
    floors = {0.5: 11, 0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}
    found = []
    for p, floor in floors.items():
        value = float(np.quantile(samples_ms, p)) if len(samples_ms) >= floor else None
        ends = (None, None) if value is None else (value * 0.995, value * 1.005)
        found.append({"p": p, "floor": floor, "value": value, "low": ends[0], "high": ends[1]})
    return found
