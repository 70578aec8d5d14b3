"""Make bench results as `convnet-edge bench` would write them, without measuring anything."""

import json
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from convnet_edge.reporting.read import read_results
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure import result
from convnet_edge.runtime.measure.stats import percentiles_ms, wilson_interval

LABELS = ("T-Shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
          "Ankle Boot")  # fmt: skip
NOISY = {"name": "drift", "status": "NOISY", "value": 0.14, "threshold": 0.1,
         "text": "the last third of the runs is 14 % slower", "batch_size": None}  # fmt: skip
DELETE = object()


def full(batch_ms: dict[int, float] | None = None) -> result.Result:
    """Return a result with every field filled, its times around those given by batch size."""
    rows = [_latency(*each) for each in (batch_ms or {1: 0.08, 8: 0.5, 64: 2.6}).items()]
    noisy = result.Verdict("NOISY", (result.Reason(**NOISY | {"batch_size": 8}),))
    placement = {"CPUExecutionProvider": ["Conv", "Relu", "Conv", "Gemm"]}
    return _filled(
        result.Result,
        schema=result.SCHEMA,
        model=_filled(result.Model, name="fashion-mnist.onnx", model_bytes=915_110, proof=None),
        provider=_filled(result.Provider, asked="cpu", obtained="cpu", placement=placement),
        machine=_filled(result.Machine, id="0123456789abcdef", cpu="AMD EPYC", name=None,
                        clock_mhz=2400.0,
                        memory_bytes=25_276_510_208, versions={"onnxruntime": "1.32"}),
        settings={"batch_sizes": [row.batch_size for row in rows], "duration_s": 5.0},
        checks=(result.Check("golden vectors, batch 1", True, "16 images", 2e-6, 1.8e-5),),
        accuracy=_accuracy(),
        latency=(replace(rows[0], histogram_ns=[(70_000, 3)], verdict=noisy), *rows[1:]),
        pairs=(_filled(result.Pair, name="fashion-mnist.int8.onnx"),),
        verdict=noisy,
        failed="golden vectors: largest error 0.4 > 1.8e-05",
    )  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """Return a VALID result as JSON; name__key=value replaces a key, DELETE removes it.

    batch_ms: times by batch size. reasons: makes it NOISY.
    """
    whole = as_json(full(changes.pop("batch_ms", None)))
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


def _filled(kind: Any, **known: Any) -> Any:
    """Return a `kind` of result; what is not known is something of its declared type."""
    hints = get_type_hints(kind).items()
    return kind(**known, **{name: _some(hint) for name, hint in hints if name not in known})


def _some(hint: Any) -> Any:
    if is_dataclass(hint):
        return _filled(hint)
    kind, parts = get_origin(hint), [p for p in get_args(hint) if p not in (NoneType, ...)]
    if kind is Literal:
        return parts[0]
    if kind in (UnionType, Union):
        return _some(parts[0])
    if kind is dict:
        return {"1": _some(parts[1])}
    if kind is not None:
        return kind(map(_some, parts))
    return {bool: True, int: 2, float: 0.5, str: "some text"}[hint]


def _accuracy() -> result.Accuracy:
    confusion = np.full((10, 10), 7) + np.eye(10, dtype=int) * 923
    bins = [
        result.Bin(i / 10, (i + 1) / 10, 100 * i, (i + 0.5) / 10, i / 10) for i in range(10)
    ]  # fmt: skip
    return _filled(
        result.Accuracy,
        n=10_000,
        n_correct=9_323,
        accuracy=0.9323,
        interval=wilson_interval(9_323, 10_000),
        classes=tuple(_filled(result.ClassScore, label=label) for label in LABELS),
        confusion=tuple(map(tuple, confusion.tolist())),
        calibration=result.Calibration(0.031, tuple(bins)),
        test_sha256="5b" * 32,
    )


def _latency(batch_size: int, median_ms: float) -> result.Latency:
    n_runs = 500 if batch_size > 1 else 2000
    draws = np.random.default_rng(batch_size).gamma(4, 0.03, n_runs)
    samples = np.maximum(1e6 * median_ms * (0.9 + draws), 1).astype(int)
    return _filled(
        result.Latency,
        batch_size=batch_size,
        n_runs=n_runs,
        images_per_s=1e9 * batch_size / float(samples.mean()),
        percentiles_ms=percentiles_ms(samples),
        waited_share=0.001,
        largest_output_error=1e-6,
        verdict=result.Verdict("VALID", ()),
        samples_ns=samples.tolist(),
        histogram_ns=None,
    )
