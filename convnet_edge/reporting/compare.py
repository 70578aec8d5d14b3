"""Say whether a model is slower than another: yes, no, or cannot tell.

Both are measured here, in turn, each time in a fresh process: processes differ more among
themselves than the runs within one, so one process of each proves nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data import dataset
from ..data.options import DataOptions
from ..runtime.classifier import Classifier
from ..runtime.contract import Array
from ..runtime.elsewhere import unproved
from ..runtime.errors import CheckFailedError, UndecidedError
from ..runtime.files import brief, percent
from ..runtime.measure import accuracy, machine
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.cold_start import Task, start_process
from ..runtime.measure.result import Accuracy, Interval, Pair
from ..runtime.measure.stats import median_interval, percentile
from ..runtime.measure.tables import drop_text
from ..runtime.model_file import ModelFile
from ..runtime.options import UnprovedOptions, require
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
    """NEW's median time over BASE's, pair by pair: the ratios' median; p50 of each process.

    proofs: of both, as in a contract; model_sha256: of both files.
    """

    options: CompareOptions
    ratio: float
    ratio_interval_95: Interval
    gates: tuple[Gate, ...]
    base_p50_ms: tuple[float, ...]
    new_p50_ms: tuple[float, ...]
    proofs: tuple[str | None, ...] = (None, None)
    model_sha256: tuple[str, ...] = ()

    __repr__ = brief

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        found, (base, new) = asdict(self), (self.options.base, self.options.new)
        options = found.pop("options") | {"base": str(base), "new": str(new)}
        others = vars(DataOptions()) | vars(UnprovedOptions())  # which say what pictures are
        options = {name: options[name] for name in options if name not in others}
        return {"schema": SCHEMA, **options, **found, "machine": machine.passport()}


def compare(options: CompareOptions, share: Callable[[float], None] = lambda _: None) -> Comparison:
    """Measure both models as `options` say; `share` gets what is done of it, in [0, 1].

    Example: `ce.compare(ce.CompareOptions("a.onnx", "b.onnx", max_slowdown=0.02)).ratio`

    The order within a pair alternates, A B B A: what slows the machine for a while slows both.

    Raises:
        InputError: a file cannot be read, or a model not be run; or an accuracy is asked for and
            the test images are not found.
    """
    paths = (options.base, options.new)
    files = [unproved.open_any(path, options, ceiling=options.ceiling) for path in paths]
    unproved.require_used(files, options)
    for file in files:
        found = f"{file.path}, whose graph takes one image a run"
        fits = options.batch_size == 1 or not file.takes_one
        require(fits, found, "--batch-size 1", "--batch-size")
    score, pair = _answers(options, files)  # what is missing, first
    with ExitStack() as stack:
        stated = [stack.enter_context(unproved.stand_in(file)) for file in files]
        medians, new_ns = _take_turns(options, stated, share)
    ratios = np.array(medians[1]) / np.array(medians[0])
    ratio, interval = float(np.median(ratios)), median_interval(ratios)
    gates = _gate_slowdown(options, ratio, interval), *_gate_answers(options, score, pair)
    gates += tuple(_gate_p99(options, new_ns))
    proofs = tuple(file.contract.proof for file in files)
    base_ms, new_ms = map(tuple, medians)
    digests = tuple(file.sha256 for file in files)
    return Comparison(options, ratio, interval, gates, base_ms, new_ms, proofs, digests)


def _take_turns(
    options: CompareOptions, stated: Sequence[Path | None], share: Callable[[float], None]
) -> tuple[tuple[list[float], list[float]], list[int]]:
    """Return the median of each process by model, and all times of NEW.

    stated: what stands in for the contract of each, if it holds none.
    """
    settings, sizes = _settings(options), (options.batch_size,)
    tasks = [
        Task(path, settings, sizes, STEADY_S, contract_path=contract_path)
        for path, contract_path in zip((options.base, options.new), stated, strict=True)
    ]
    medians: tuple[list[float], list[float]] = ([], [])
    new_ns: list[int] = []
    for number in range(options.n_pairs):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            process, samples_ns = start_process(tasks[side])
            medians[side].append(process.p50_ms[str(options.batch_size)])
            new_ns += samples_ns if side == 1 else []
        share((number + 1) / options.n_pairs)
    return medians, new_ns


def _settings(options: CompareOptions) -> Settings:
    return Settings(options.provider, options.threads, ceiling=options.ceiling)


def _answers(
    options: CompareOptions, files: Sequence[ModelFile]
) -> tuple[Accuracy | None, Pair | None]:
    """Return what NEW scores, and what it loses against BASE, as far as a gate asks for it."""
    if options.min_accuracy is None and options.max_drop is None:
        return None, None
    labels, test = _label(files[1], options)
    classes = files[1].contract.class_labels
    score = accuracy.score(labels, test.labels, classes)
    if options.max_drop is None:
        return score, None
    same = files[0].contract.class_labels == classes
    require(same, f"{files[0].path} and {files[1].path} have other classes", "the same",
            "--max-drop", verb="leave out")  # fmt: skip
    before, _ = _label(files[0], options)
    return score, accuracy.compare(before, labels, test.labels)


def _label(file: ModelFile, options: CompareOptions) -> tuple[Array, ImageSet]:
    unproved.require_told(file, options)
    classifier = Classifier(file, settings=_settings(options))
    test = dataset.require_test_set(dataset.Task.of(classifier.contract), options)
    return classifier(test.images).labels, test


def _gate_slowdown(options: CompareOptions, ratio: float, interval: Interval) -> Gate:
    limit = 1 + options.max_slowdown
    value, ends = interval.around(ratio, 3)
    text = f"{value} times BASE's time (95 % {ends}), at most {limit:.3f}"
    return Gate("slowdown", _outcome(interval.low, interval.high, limit), text)


def _outcome(low: float, high: float, limit: float) -> Outcome:
    if high <= limit:
        return "holds"
    return "fails" if low > limit else "cannot tell"


def _gate_answers(
    options: CompareOptions, score: Accuracy | None, pair: Pair | None
) -> Iterator[Gate]:
    if options.min_accuracy is not None and score is not None:
        text = f"{percent(score.accuracy, 2)} of {score.n:,} images"
        text += f", at least {100 * options.min_accuracy:g} %"
        yield Gate("accuracy", "holds" if score.accuracy >= options.min_accuracy else "fails", text)
    if options.max_drop is not None and pair is not None:
        (least, most), allowed = accuracy.drop_bounds(pair), options.max_drop / 100
        text = f"{pair.n:,} images: {drop_text(pair, most, allowed)}"
        yield Gate("drop", _outcome(least, most, allowed), text)


def _gate_p99(options: CompareOptions, new_ns: list[int]) -> Iterator[Gate]:
    if options.max_p99_ms is None:
        return
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
    base, new = found.options.base, found.options.new
    remedies = {
        "slowdown": f"see where: convnet-edge bench {base} {new} --profile",
        "accuracy": f"see of which classes: convnet-edge bench {new} --verbose",
        "drop": f"see of which pictures: convnet-edge bench {base} {new}",
        "p99": "see what disturbs this machine: convnet-edge doctor",
    }
    quieter = "measure on a quiet machine with more --pairs, such as 25"
    more = {"drop": "name more test pictures with --data, or allow more with --max-drop"}
    for outcome, error in (("fails", CheckFailedError), ("cannot tell", UndecidedError)):
        gates = [gate for gate in found.gates if gate.outcome == outcome]
        if gates:
            what = "; ".join(f"{gate.name}: {gate.detail}" for gate in gates)
            first = gates[0].name
            raise error(
                f"{new} against {base}: {what}",
                expected="every gate to hold",
                next_step=remedies[first] if outcome == "fails" else more.get(first, quieter),
            )
