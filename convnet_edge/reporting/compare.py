"""Say whether a model, or a stored result, is slower than another: yes, no, or cannot tell.

Two models are measured here, in turn, each time in a fresh process: processes differ more among
themselves than the runs within one, so one process of each proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..data import fashion_mnist as data
from ..runtime.classifier import Classifier
from ..runtime.errors import CheckFailedError, UndecidedError
from ..runtime.measure import accuracy, cold_start, machine
from ..runtime.measure.stats import (
    Interval,
    median_interval,
    percentile,
    percentile_floor,
    ratio_interval,
)
from .options import CompareOptions
from .results import Result, read_result

SCHEMA = "convnet-edge/compare/1"
STEADY_S = 0.5
MIN_STORED_PROCESSES = 5

Outcome = Literal["holds", "fails", "cannot tell"]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Gate:
    """One condition on NEW, and how it came out."""

    name: str
    outcome: Outcome
    detail: str

    def line(self) -> str:
        """Return the gate as people read it: `[✓] name: detail`."""
        mark = {"holds": "✓", "fails": "x", "cannot tell": "?"}[self.outcome]
        return f"[{mark}] {self.name}: {self.detail}"


@dataclass(frozen=True)
class Comparison:
    """What was found.

    ratio: NEW's median time over BASE's, with its 95 % interval; None if it cannot be formed.
    notes: in what the two measurements differ beside the model.
    """

    config: CompareOptions
    ratio: float | None
    interval: Interval | None
    gates: tuple[Gate, ...]
    notes: tuple[str, ...]
    base_ms: tuple[float, ...]
    new_ms: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        bounded = self.interval is not None and np.isfinite(self.interval.high)
        return {
            "schema": SCHEMA,
            "base": str(self.config.base),
            "new": str(self.config.new),
            "batch_size": self.config.batch_size,
            "ratio": self.ratio,
            "ratio_interval_95": asdict(self.interval) if self.interval and bounded else None,
            "base_p50_ms": list(self.base_ms),
            "new_p50_ms": list(self.new_ms),
            "gates": [asdict(gate) for gate in self.gates],
            "notes": list(self.notes),
            "machine": machine.passport(),
        }


def compare(config: CompareOptions, share: Callable[[float], None] = lambda _: None) -> Comparison:
    """Compare as `config` says; `share` gets what is done of the measuring, in [0, 1].

    Raises:
        InputError: a file cannot be read, or a model not be run.
    """
    return _compare_stored(config) if config.stored else _compare_models(config, share)


def require_gates(found: Comparison) -> None:
    """Raise unless every gate holds.

    Raises:
        CheckFailedError: a gate fails.
        UndecidedError: none fails, but of one the measurements cannot tell.
    """
    for outcome, error in (("fails", CheckFailedError), ("cannot tell", UndecidedError)):
        for gate in found.gates:
            if gate.outcome == outcome:
                raise error(
                    f"{found.config.new} against {found.config.base}: {gate.name}: {gate.detail}",
                    expected="every gate to hold",
                    next_step="measure on a quiet machine with more --pairs"
                    if outcome == "cannot tell" and not found.config.stored
                    else "give compare the two model files, to measure both here"
                    if outcome == "cannot tell"
                    else "see what changed with `convnet-edge bench --profile`",
                )


def _compare_models(config: CompareOptions, share: Callable[[float], None]) -> Comparison:
    paths = (config.base, config.new)
    tasks = [
        cold_start.Task(
            model_path=path,
            provider=config.provider,
            threads=config.threads or machine.usable_cores(),
            batch_sizes=(config.batch_size,),
            steady_s=STEADY_S,
        )
        for path in paths
    ]
    medians: tuple[list[float], list[float]] = ([], [])
    samples: list[int] = []
    for number in range(config.n_pairs):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for side in order:
            found = cold_start.start_process(tasks[side])
            medians[side].append(found.p50_ms[str(config.batch_size)])
            samples += found.samples_ns if side == 1 else []
        share((number + 1) / config.n_pairs)
    ratios = np.array(medians[1]) / np.array(medians[0])
    ratio, interval = float(np.median(ratios)), median_interval(ratios)
    gates = [_slowdown(config, ratio, interval)]
    if config.min_accuracy is not None:
        test = data.load_test_set()
        classifier = Classifier(config.new, config.provider, config.threads)
        predicted = classifier(test.images).labels
        score = accuracy.score(predicted, test.labels, classifier.contract.class_labels)
        gates.append(_accuracy(config.min_accuracy, score.accuracy, score.n))
    if config.max_p99_ms is not None:
        p99 = percentile(np.array(samples) / 1e6, 0.99)
        gates.append(_p99(config.max_p99_ms, p99.value, p99.floor))
    return Comparison(config, ratio, interval, tuple(gates), (), *map(tuple, medians))


def _compare_stored(config: CompareOptions) -> Comparison:
    base, new = (read_result(path) for path in (config.base, config.new))
    base_ms, new_ms = (_process_medians(result, config.batch_size) for result in (base, new))
    notes = tuple(_differences(base.document, new.document))
    ratio, interval = None, None
    fewest = min(len(base_ms), len(new_ms))
    others = [
        f"{path} is {result.document['verdict']['status']}"
        for path, result in ((config.base, base), (config.new, new))
        if (result.document.get("verdict") or {}).get("status") == "INVALID"
    ]
    if base.document["machine"].get("id") != new.document["machine"].get("id"):
        others.append("they were measured on different machines")
    if fewest:
        ratio, interval = ratio_interval(np.array(base_ms), np.array(new_ms))
    if fewest < MIN_STORED_PROCESSES:
        others.append(
            f"{fewest} fresh processes of one at batch size {config.batch_size}, "
            f"{MIN_STORED_PROCESSES} are needed"
        )
    if others or ratio is None or interval is None:
        slowdown = Gate("slowdown", "cannot tell", "; ".join(others))
    else:
        slowdown = _slowdown(config, ratio, interval)
    gates = (slowdown, *_stored_gates(config, new.document))
    return Comparison(config, ratio, interval, gates, notes, base_ms, new_ms)


def _stored_gates(config: CompareOptions, document: dict[str, Any]) -> Iterator[Gate]:
    if config.min_accuracy is not None:
        score = document.get("accuracy") or {}
        yield _accuracy(config.min_accuracy, score.get("accuracy"), score.get("n", 0))
    if config.max_p99_ms is not None:
        rows = [r for r in document.get("latency") or () if r["batch_size"] == config.batch_size]
        found = [p for row in rows for p in row["percentiles_ms"] if p["p"] == 0.99]
        value = found[0]["value"] if found else None
        yield _p99(config.max_p99_ms, value, percentile_floor(0.99))


def _process_medians(result: Result, batch_size: int) -> tuple[float, ...]:
    cold = result.document.get("cold_start") or {}
    medians = [(row.get("p50_ms") or {}).get(str(batch_size)) for row in cold.get("processes", ())]
    return tuple(float(value) for value in medians if value)


def _differences(base: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for part, keys in (
        ("machine", ("id", "cpu", "usable_cores", "governor", "container", "system", "python")),
        ("provider", ("obtained", "threads", "spin", "io_binding", "cuda_graph", "precision")),
    ):
        for key in keys:
            first, second = (document[part].get(key) for document in (base, new))
            if first != second:
                yield f"{part} {key}: {first} against {second}"
    first, second = (document["machine"].get("versions") or {} for document in (base, new))
    for name in sorted(set(first) | set(second)):
        if first.get(name) != second.get(name):
            yield f"{name}: {first.get(name)} against {second.get(name)}"


def _slowdown(config: CompareOptions, ratio: float, interval: Interval) -> Gate:
    limit = 1 + config.max_slowdown
    spread = f"95 % {interval.low:.3f}–{interval.high:.3f}"
    text = f"{ratio:.3f} times BASE's time ({spread}), at most {limit:.3f}"
    outcome: Outcome = "cannot tell"
    if interval.high <= limit:
        outcome = "holds"
    elif interval.low > limit:
        outcome = "fails"
    return Gate("slowdown", outcome, text)


def _accuracy(least: float, found: float | None, n: int) -> Gate:
    if found is None:
        return Gate("accuracy", "cannot tell", "the result holds none")
    outcome: Outcome = "holds" if found >= least else "fails"
    return Gate("accuracy", outcome, f"{found:.2%} of {n:,} images, at least {least:.2%}")


def _p99(most_ms: float, found_ms: float | None, floor: int) -> Gate:
    if found_ms is None:
        return Gate("p99", "cannot tell", f"n/a (needs {floor:,} runs)")
    outcome: Outcome = "holds" if found_ms <= most_ms else "fails"
    return Gate("p99", outcome, f"{found_ms:.3f} ms, at most {most_ms:g}")
