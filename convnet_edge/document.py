"""Write what `bench` measured as plain JSON values: the result file's schema.

Reading results, older ones too, is `results`' business.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .config import BenchConfig
from .runtime import cost, machine, onnxfile
from .runtime.classifier import Classifier
from .runtime.latency import Latency, percentiles_ms
from .runtime.providers import TESTED

SCHEMA = "convnet-edge/bench/2"
MAX_RAW_SAMPLES = 8_000  # with one number a line, the result stays below 200 kB
HISTOGRAM_STEP = 1.01

Array = np.ndarray[Any, np.dtype[Any]]


def describe(config: BenchConfig, path: Path, classifier: Classifier) -> dict[str, Any]:
    """Return what is known before anything is timed: model, provider, machine, settings."""
    session, model = classifier.session, classifier.model
    file = onnxfile.parse(model)
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in ("models", "out", "provider")
    }
    return {
        "schema": SCHEMA,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "convnet_edge": __version__,
        "model": {
            "name": path.name,
            "model_bytes": len(model),
            "model_sha256": hashlib.sha256(model).hexdigest(),
            "graph_sha256": classifier.contract.graph_sha256,
            "n_parameters": cost.parameters(file, classifier.contract),
            "n_multiplications": cost.multiplications(file, classifier.contract),
            "input_dtype": session.input_dtype,
            "integers": classifier.contract.quantization is not None,
        },
        "provider": {
            "asked": config.provider,
            "obtained": session.provider,
            "tested": session.provider in TESTED,
            "threads": session.threads,
            "spin": session.settings.spin,
            "io_binding": config.io_binding or config.cuda_graph,
            "cuda_graph": config.cuda_graph,
            "precision": session.precision,
            "placement": None
            if session.placement is None
            else {placed.provider: list(placed.op_types) for placed in session.placement},
            "n_copies": None,
            "gpu_libraries": machine.mapped_gpu_libraries(),
        },
        "machine": machine.passport(),
        "settings": settings,
    }


def latency_json(latency: Latency, *, n_rows: int) -> dict[str, Any]:
    """Return one batch size's timing, one of `n_rows`, as plain JSON values.

    Up to a limit every sample is kept, in order; beyond it a histogram with bins 1 % wide, as
    [lower edge in ns, count]. Percentiles come from the samples in both cases.
    """
    samples, trace = latency.samples_ns, latency.trace
    row = {
        "batch_size": latency.batch_size,
        "n_runs": len(samples),
        "n_warmup": latency.n_warmup,
        "elapsed_s": latency.elapsed_s,
        "images_per_s": latency.images_per_s,
        "mean_ms": float(samples.mean() / 1e6),
        "min_ms": float(samples.min() / 1e6),
        "max_ms": float(samples.max() / 1e6),
        "percentiles_ms": percentile_json(samples),
        "cpu_ms_per_run": 1e3 * latency.cpu_s / len(samples),
        "n_switched": trace.n_switched,
        "waited_share": trace.waited_share,
        "timer_step_ns": trace.timer_step_ns,
        "n_outputs_checked": latency.n_checked,
        "largest_output_error": trace.error if np.isfinite(trace.error) else None,
        "verdict": asdict(latency.verdict),
    }
    if len(samples) <= MAX_RAW_SAMPLES // n_rows:
        return {**row, "samples_ns": samples.tolist()}
    return {**row, "histogram_ns": _histogram(samples)}


def percentile_json(samples_ns: Array) -> list[dict[str, Any]]:
    """Return p50 to p99.9 in milliseconds, null below their floors."""
    return [asdict(found) for found in percentiles_ms(samples_ns)]


def _histogram(samples_ns: Array) -> list[list[int]]:
    bins = np.floor(np.log(np.maximum(samples_ns, 1)) / np.log(HISTOGRAM_STEP)).astype(int)
    numbers, counts = np.unique(bins, return_counts=True)
    edges = (HISTOGRAM_STEP**numbers).astype(int)
    return [list(pair) for pair in zip(edges.tolist(), counts.tolist(), strict=True)]
