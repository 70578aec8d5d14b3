"""Write what was measured as plain JSON values: the schema of result files.

Reading results, older ones too, is the host's business.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .. import model_file as onnxfile
from ..classifier import Classifier, Predictions
from ..idx import ImageSet
from ..providers import TESTED
from . import accuracy, cost, machine, verdict
from .latency import Latency, percentiles_ms

SCHEMA = "convnet-edge/bench/2"
MAX_RAW_SAMPLES = 8_000  # with one number a line, the result stays below 200 kB
HISTOGRAM_STEP = 1.01

Array = np.ndarray[Any, np.dtype[Any]]


def describe(
    classifier: Classifier, *, name: str, asked: str, version: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what is known before anything is timed: model, provider, machine, settings.

    name: of the model. asked: the provider that was. version: of this program.
    """
    session, model = classifier.session, classifier.model
    file = onnxfile.parse(model)
    graphed = bool(settings.get("cuda_graph"))
    return {
        "schema": SCHEMA,
        "measured_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "convnet_edge": version,
        "model": {
            "name": name,
            "model_bytes": len(model),
            "model_sha256": hashlib.sha256(model).hexdigest(),
            "graph_sha256": classifier.contract.graph_sha256,
            "n_parameters": cost.parameters(file, classifier.contract),
            "n_multiplications": cost.multiplications(file, classifier.contract),
            "input_dtype": session.input_dtype,
            "integers": classifier.contract.quantization is not None,
        },
        "provider": {
            "asked": asked,
            "obtained": session.provider,
            "tested": session.provider in TESTED,
            "threads": session.threads,
            "spin": session.settings.spin,
            "io_binding": graphed or bool(settings.get("io_binding")),
            "cuda_graph": graphed,
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


def accuracy_json(
    predicted: Predictions, test: ImageSet
) -> tuple[accuracy.Accuracy, dict[str, Any]]:
    """Score `predicted` against the labels of `test`; return the score, and all of it as JSON."""
    score = accuracy.score(predicted.labels, test.labels, predicted.class_labels)
    calibration = accuracy.calibrate(predicted.probabilities, test.labels)
    return score, {
        **asdict(score),
        "calibration": asdict(calibration),
        "images_sha256": test.images_sha256,
    }


def cost_json(found: cost.Cost) -> dict[str, Any]:
    """Return the cost as plain JSON values, with the bound that follows from it."""
    return {**asdict(found), "bound_ms": found.bound_ms}


def verdict_json(
    latencies: Sequence[Latency], others: tuple[verdict.Reason, ...] = ()
) -> tuple[verdict.Verdict, dict[str, Any]]:
    """Judge all batch sizes together, and `others`; return the verdict, and it as JSON."""
    rows = [(row.batch_size, reason) for row in latencies for reason in row.verdict.reasons]
    judged = verdict.combine((*others, *(reason for _, reason in rows)))
    reasons = [asdict(reason) for reason in others]
    reasons += [{"batch_size": size, **asdict(reason)} for size, reason in rows]
    return judged, {"status": judged.status, "reasons": reasons}


def latency_json(latency: Latency, *, n_rows: int, bound_ms: float | None = None) -> dict[str, Any]:
    """Return one batch size's timing, one of `n_rows`, as plain JSON values.

    Up to a limit every sample is kept, in order; beyond it a histogram with bins 1 % wide, as
    [lower edge in ns, count]. Percentiles come from the samples in both cases. bound_ms: the least
    time of one image.
    """
    samples, trace = latency.samples_ns, latency.trace
    p50 = latency.percentiles_ms()[0].value
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
        "share_of_bound": bound_ms * latency.batch_size / p50 if bound_ms and p50 else None,
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
