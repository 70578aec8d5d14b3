"""Measure a model on this machine: provider, correctness, accuracy, latency, memory.

Correctness comes first: the golden vectors are replayed on the provider that is then timed. The
result file holds the raw samples and the machine, and is written even when a check fails.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, data, plots
from .config import RESULTS_DIR, BenchConfig
from .grid import draw_grid
from .locate import choose_model
from .runtime import accuracy, machine, selftest
from .runtime.classifier import Classifier
from .runtime.errors import CheckFailedError
from .runtime.files import write_json
from .runtime.idx import ImageSet
from .runtime.latency import Latency, measure_latency
from .runtime.onnxfile import read_model_bytes
from .runtime.selftest import Check

RESULT_SCHEMA = "convnet-edge/bench/1"
MAX_RAW_SAMPLES = 8_000  # with one number a line, the result stays below 200 kB
HISTOGRAM_STEP = 1.01

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class BenchResult:
    """What was measured. score, latencies: missing where a check failed before them."""

    model_path: Path
    result_path: Path
    pictures: tuple[plots.Picture, ...]
    checks: tuple[Check, ...]
    score: accuracy.Accuracy | None
    latencies: tuple[Latency, ...]
    document: dict[str, Any]


@dataclass(frozen=True)
class Listener:
    """What the caller wants to hear: each stage's name, and its share done in [0, 1]."""

    stage: Callable[[str], None] = lambda _: None
    share: Callable[[float], None] = lambda _: None


def bench(config: BenchConfig, listener: Listener | None = None) -> BenchResult:
    """Measure as `config` says.

    Raises:
        InputError: the model or the provider cannot be opened.
        CheckFailedError: golden vectors or timed outputs are wrong; the result is still written.
    """
    listener = listener or Listener()
    path = choose_model(config.model)
    result_path = config.out or RESULTS_DIR / f"{path.stem}-{config.provider}.json"
    model = read_model_bytes(path)
    test = data.load_test_set()
    listener.stage(f"opening {path.name} on {config.provider}")
    classifier = Classifier(model, provider=config.provider, threads=config.threads)
    first_run_ms = _time_first_run(classifier, test)
    checks = selftest.run_selftest(model, classifier)
    document = _describe(config, path, model, classifier, first_run_ms)
    document["checks"] = selftest.as_json(checks)
    result = BenchResult(path, result_path, (), checks, None, (), document)
    next_step = f"read {result_path}; check the file with `convnet-edge verify {path}`"
    try:
        selftest.require(checks, what=f"{path} was not timed", next_step=next_step)
        result = _measure(result, config, classifier, test, listener)
    except CheckFailedError as error:
        document["failed"] = str(error)
        write_json(result_path, document)
        raise
    document["peak_memory_bytes"] = machine.peak_memory_bytes()
    write_json(result_path, document)
    listener.stage("drawing")
    return replace(result, pictures=_draw(result, config, classifier, test))


def _measure(
    result: BenchResult,
    config: BenchConfig,
    classifier: Classifier,
    test: ImageSet,
    listener: Listener,
) -> BenchResult:
    listener.stage(f"accuracy on {len(test):,} test images")
    predicted = classifier.logits(test.images).argmax(axis=1)
    score = accuracy.score(predicted, test.labels, classifier.contract.class_labels)
    result.document["accuracy"] = {**asdict(score), "images_sha256": test.images_sha256}
    latencies: list[Latency] = []
    result.document["latency"] = []
    for batch_size in config.batch_sizes:
        listener.stage(f"latency, batch {batch_size}")
        latency = measure_latency(
            classifier,
            test.images,
            batch_size=batch_size,
            duration_s=config.duration_s,
            tick=listener.share,
        )
        latencies.append(latency)
        share = MAX_RAW_SAMPLES // len(config.batch_sizes)
        result.document["latency"].append(latency_json(latency, max_raw_samples=share))
    return replace(result, score=score, latencies=tuple(latencies))


def latency_json(latency: Latency, *, max_raw_samples: int) -> dict[str, Any]:
    """Return one batch size's timing as plain JSON values.

    Up to `max_raw_samples` every sample is kept, in order; beyond that a histogram with bins 1 %
    wide, as [lower edge in ns, count]. Percentiles come from the samples in both cases.
    """
    samples = latency.samples_ns
    row = {
        "batch_size": latency.batch_size,
        "n_runs": len(samples),
        "n_warmup": latency.n_warmup,
        "elapsed_s": latency.elapsed_s,
        "images_per_s": latency.images_per_s,
        "mean_ms": float(samples.mean() / 1e6),
        "min_ms": float(samples.min() / 1e6),
        "max_ms": float(samples.max() / 1e6),
        "percentiles_ms": [asdict(p) for p in latency.percentiles_ms()],
        "n_outputs_checked": latency.n_checked,
        "largest_output_error": latency.largest_error,
    }
    if len(samples) <= max_raw_samples:
        return {**row, "samples_ns": samples.tolist()}
    bins = np.floor(np.log(np.maximum(samples, 1)) / np.log(HISTOGRAM_STEP)).astype(int)
    numbers, counts = np.unique(bins, return_counts=True)
    edges = (HISTOGRAM_STEP**numbers).astype(int)
    return {**row, "histogram_ns": np.stack([edges, counts], axis=1).tolist()}


def _time_first_run(classifier: Classifier, test: ImageSet) -> float:
    batch = classifier.to_input(test.images[:1])
    started_ns = time.perf_counter_ns()
    classifier.session.run(batch)
    return (time.perf_counter_ns() - started_ns) / 1e6


def _describe(
    config: BenchConfig, path: Path, model: bytes, classifier: Classifier, first_run_ms: float
) -> dict[str, Any]:
    session = classifier.session
    return {
        "schema": RESULT_SCHEMA,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "convnet_edge": __version__,
        "model": {
            "name": path.name,
            "model_bytes": len(model),
            "model_sha256": hashlib.sha256(model).hexdigest(),
            "graph_sha256": classifier.contract.graph_sha256,
        },
        "provider": {
            "asked": config.provider,
            "obtained": session.provider,
            "threads": session.threads,
            "placement": None
            if session.placement is None
            else {placed.provider: list(placed.op_types) for placed in session.placement},
            "gpu_libraries": machine.mapped_gpu_libraries(),
        },
        "session": {"create_ms": session.create_ms, "first_run_ms": first_run_ms},
        "machine": machine.passport(),
        "duration_s": config.duration_s,
    }


def _draw(
    result: BenchResult, config: BenchConfig, classifier: Classifier, test: ImageSet
) -> tuple[plots.Picture, ...]:
    stem = result.result_path.with_suffix("")
    labels = classifier.contract.class_labels
    title = (
        f"{result.model_path.name} on {config.provider}, "
        f"{classifier.session.threads} threads: time of one run"
    )
    samples = {latency.batch_size: latency.samples_ns / 1e6 for latency in result.latencies}
    score = result.score
    confusion = score.confusion if score else ()
    return (
        plots.latency(Path(f"{stem}.latency.png"), samples, title),
        plots.confusion(Path(f"{stem}.confusion.png"), confusion, labels),
        draw_grid(Path(f"{stem}.predictions.png"), classifier, test).picture,
    )
