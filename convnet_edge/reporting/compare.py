"""Say whether a model is slower than another: yes, no, or cannot tell.

Both are measured here, in turn, each time in a fresh process: processes differ more among
themselves than the runs within one, so one process of each proves nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..data import dataset
from ..data.options import DataOptions
from ..runtime.classifier import Classifier
from ..runtime.errors import CheckFailedError, UndecidedError
from ..runtime.measure import accuracy, machine
from ..runtime.measure.cold_start import Task, start_process
from ..runtime.measure.result import Accuracy, Interval, brief, percent
from ..runtime.measure.stats import median_interval, percentile
from ..runtime.session import Settings
from .options import CompareOptions

SCHEMA = "convnet-edge/compare/1"
STEADY_S = 0.5

Outcome = Literal["holds", "fails", "cannot tell"]


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
    """NEW's median time over BASE's, pair by pair: the ratios' median; p50 of each process."""

    options: CompareOptions
    ratio: float
    ratio_interval_95: Interval
    gates: tuple[Gate, ...]
    base_p50_ms: tuple[float, ...]
    new_p50_ms: tuple[float, ...]

    __repr__ = brief

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        found, (base, new) = asdict(self), (self.options.base, self.options.new)
        options = found.pop("options") | {"base": str(base), "new": str(new)}
        options = {name: options[name] for name in options if name not in vars(DataOptions())}
        return {"schema": SCHEMA, **options, **found, "machine": machine.passport()}


def compare(options: CompareOptions, share: Callable[[float], None] = lambda _: None) -> Comparison:
    """Measure both models as `options` say; `share` gets what is done of it, in [0, 1].

    Example: `ce.compare(ce.CompareOptions("a.onnx", "b.onnx", max_slowdown=0.02)).ratio`

    The order within a pair alternates, A B B A: what slows the machine for a while slows both.

    Raises:
        InputError: a file cannot be read, or a model not be run; or an accuracy is asked for and
            the test images are not found.
    """
    score = None if options.min_accuracy is None else _score_new(options)  # what is missing, first
    settings, sizes = _settings(options), (options.batch_size,)
    tasks = [Task(path, settings, sizes, STEADY_S) for path in (options.base, options.new)]
    medians: tuple[list[float], list[float]] = ([], [])
    new_ns: list[int] = []
    for number in range(options.n_pairs):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            process, samples_ns = start_process(tasks[side])
            medians[side].append(process.p50_ms[str(options.batch_size)])
            new_ns += samples_ns if side == 1 else []
        share((number + 1) / options.n_pairs)
    ratios = np.array(medians[1]) / np.array(medians[0])
    ratio, interval = float(np.median(ratios)), median_interval(ratios)
    gates = tuple(_gates(options, ratio, interval, new_ns, score))
    return Comparison(options, ratio, interval, gates, *map(tuple, medians))


def _settings(options: CompareOptions) -> Settings:
    return Settings(options.provider, options.threads, ceiling=options.ceiling)


def _score_new(options: CompareOptions) -> Accuracy:
    classifier = Classifier(options.new, settings=_settings(options))
    test = dataset.require_test_set(dataset.Task.of(classifier.contract), options)
    labels = classifier(test.images).labels
    return accuracy.score(labels, test.labels, classifier.contract.class_labels)


def _gates(
    options: CompareOptions,
    ratio: float,
    interval: Interval,
    new_ns: list[int],
    score: Accuracy | None,
) -> Iterator[Gate]:
    limit = 1 + options.max_slowdown
    outcome: Outcome = "holds" if interval.high <= limit else "cannot tell"
    outcome = "fails" if interval.low > limit else outcome
    value, ends = interval.around(ratio, 3)
    text = f"{value} times BASE's time (95 % {ends}), at most {limit:.3f}"
    yield Gate("slowdown", outcome, text)
    if options.min_accuracy is not None and score is not None:
        least = f"at least {100 * options.min_accuracy:g} %"
        text = f"{percent(score.accuracy, 2)} of {score.n:,} images, {least}"
        yield Gate("accuracy", "holds" if score.accuracy >= options.min_accuracy else "fails", text)
    if options.max_p99_ms is not None:
        p99 = percentile(np.array(new_ns) / 1e6, 0.99)
        if p99.value is None:
            yield Gate("p99", "cannot tell", f"n/a (needs {p99.floor:,} runs)")
        else:
            text = f"{p99.value:.6g} ms, at most {options.max_p99_ms:g}"
            yield Gate("p99", "holds" if p99.value <= options.max_p99_ms else "fails", text)


def require_gates(found: Comparison) -> None:
    """Raise unless every gate holds; one that fails outweighs one that cannot tell.

    Raises:
        CheckFailedError: a gate fails.
        UndecidedError: none fails, but of one the measurements cannot tell.
    """
    pair = f"{found.options.new} against {found.options.base}"
    for outcome, error, next_step in (
        ("fails", CheckFailedError, "see what changed with `convnet-edge bench --profile`"),
        ("cannot tell", UndecidedError, "measure on a quiet machine with more --pairs"),
    ):
        for gate in found.gates:
            if gate.outcome == outcome:
                what = f"{pair}: {gate.name}: {gate.detail}"
                raise error(what, expected="every gate to hold", next_step=next_step)
