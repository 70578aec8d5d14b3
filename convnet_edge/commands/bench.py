"""`bench`: measure models on this machine, one result file and its pictures each.

How each thing is measured is `runtime.measure`'s business; which test images, where the result
file goes and what is drawn, is that of this file. The result is written anew before each stage, so
it is there even when a check fails, or the run is interrupted or killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..runtime.measure.options import BenchOptions
from ..sealing.default_model import choose_model
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..drawing.pictures import Picture
    from ..runtime.measure import bench as stage
    from ..runtime.measure.accuracy import ImageSet
    from ..runtime.measure.result import Pair, Result

TABLES = ("classes", "cold start", "latency", "split", "throughput", "paced", "minutes")
MACHINE_FACTS = ("usable_cores", "gpus", "governor", "temperature_c", "container", "load_1min")
COST_FACTS = ("n_multiplications", "weight_bytes", "peak_multiplications_per_s")


@dataclass(frozen=True)
class Benched:
    """What was measured of one model, and where it is kept."""

    result_path: Path
    result: Result
    pictures: tuple[Picture, ...]


def command(options: BenchOptions, terminal: Terminal) -> Done:
    """Measure accuracy, cold start, latency, throughput and memory here, with a verdict.

    VALID: believe the numbers. NOISY: something disturbed them, and it says what. INVALID (exit 1):
    wrong outputs, another provider, too few runs, or too coarse a clock.

    Examples: convnet-edge bench --provider cuda --io-binding · convnet-edge bench a.onnx b.onnx ·
    convnet-edge bench --pace 10hz --sustain 10m
    """
    from ..runtime.measure.bench import Listener, require_believable
    from ..runtime.measure.result import as_json

    listener = Listener(
        stage=terminal.step,
        share=terminal.share,
        opened=lambda result: terminal.say(*_card(result)),
    )
    with terminal.progress():
        found = bench(options, listener, lambda one: _show(one, terminal, options))
    results = [one.result for one in found]
    return Done(
        results[0] if len(results) == 1 else {"results": as_json(results)},
        f"convnet-edge report {' '.join(str(one.result_path) for one in found)}",
        lambda: require_believable(results, strict=options.strict),
    )


def bench(
    options: BenchOptions,
    listener: stage.Listener | None = None,
    done: Callable[[Benched], None] = lambda _: None,
) -> tuple[Benched, ...]:
    """Measure one model after the other, write and draw; compare the others with the first.

    Raises:
        InputError: a model or the provider cannot be opened, or a result not be written.
        CheckFailedError: golden vectors are wrong; the result is still written.
        InterruptedRunError: Ctrl-C; what was measured until then is written.
    """
    from ..data.fashion_mnist import load_test_set
    from ..runtime import selftest
    from ..runtime.classifier import Classifier
    from ..runtime.files import write_json
    from ..runtime.measure.bench import Listener, bench_model
    from ..runtime.measure.cold_start import Task
    from ..runtime.measure.result import as_json
    from ..runtime.session import Settings

    listener, test, first = listener or Listener(), load_test_set(), None
    settings = Settings(
        options.provider,
        options.threads,
        allow_cpu_nodes=options.allow_cpu_nodes,
        spin=options.spin,
    )
    found: list[Benched] = []
    for path in [choose_model(model) for model in options.models or (None,)]:
        result_path = options.result_path(path)
        listener.stage(f"opening {path.name} on {options.provider}")
        classifier = Classifier(path, settings=settings)

        def keep(result: Result, path: Path = result_path) -> None:
            write_json(path, as_json(result))

        measured = bench_model(
            classifier,
            options,
            name=path.name,
            version=__version__,
            test=test,
            checks=selftest.run_selftest(classifier),
            start=Task(path),
            listener=replace(listener, keep=keep),
            first=first,
        )
        listener.stage("drawing")
        pictures = _draw(result_path, measured, first, test, profile=options.profile)
        found.append(Benched(result_path, measured.result, pictures))
        done(found[-1])
        first = first or measured
    return tuple(found)


def _draw(
    result_path: Path,
    measured: stage.Measured,
    first: stage.Measured | None,
    test: ImageSet,
    *,
    profile: bool,
) -> tuple[Picture, ...]:
    """Draw what was measured, beside the result file and under its name."""
    from ..drawing import pictures

    def place(what: str) -> Path:
        return result_path.with_suffix(f".{what}.png")

    result, classifier = measured.result, measured.classifier
    labels, ran, score = classifier.contract.class_labels, result.provider, result.accuracy
    title = f"{result.model.name} on {ran.obtained}, {ran.threads} threads: time of one run"
    drawn = [pictures.latency(place("latency"), measured.samples_ms, title)]
    if score is not None:
        drawn.append(pictures.confusion(place("confusion"), score.confusion, labels))
    if score is not None and score.calibration is not None:
        drawn.append(pictures.reliability(place("reliability"), score.calibration))
    drawn.append(pictures.draw_grid(place("predictions"), classifier, test).picture)
    if profile:
        drawn.append(pictures.nodes(place("profile"), result.profile))
    if result.paced is not None:
        drawn.append(pictures.minutes(place("minutes"), result.paced))
    if first is not None:
        drawn.append(_draw_differences(place("differences"), first, measured, test))
    return tuple(drawn)


def _draw_differences(
    path: Path, first: stage.Measured, second: stage.Measured, test: ImageSet
) -> Picture:
    from ..drawing import pictures

    (pair,), labels = second.result.pairs, second.classifier.contract.class_labels
    images = test.images[pair.shown]
    answers = [measured.classifier(images).probabilities for measured in (first, second)]
    cells = [
        (f"{index}: {labels[test.labels[index]]}", image, both)
        for index, image, *both in zip(pair.shown, images, *answers, strict=True)
    ]
    names = (pair.name, second.result.model.name)
    title = f"{names[1]} {_pair_line(pair)}".replace(", ", "\n", 1)
    return pictures.differences(path, cells, labels, names=names, title=title)


def _card(result: Result) -> list[str]:
    """Return what is measured, where and what it must cost, before any time is known."""
    model, ran, cost = result.model, result.provider, result.cost
    nodes = ", ".join(f"{n} on {name}" for name, n in (ran.n_nodes_run or {}).items())
    copies = f", {ran.n_copies} copies between them" if ran.n_copies else ""
    lines = [
        f"{model.name}: {model.model_bytes:,} bytes, on {ran.obtained}"
        f"{'' if ran.tested else ' (untested provider)'}, {ran.threads} "
        f"thread{'s' * (ran.threads != 1)}; nodes: {nodes}{copies}"
    ]
    if ran.gpu_libraries:
        lines.append(f"mapped: {', '.join(ran.gpu_libraries)}")
    machine = result.machine
    lines.append(f"machine {machine.id}: {machine.cpu}, {_facts(machine, MACHINE_FACTS)}")
    if cost is not None:
        bound = f"; an image takes {cost.bound_ms:.3g} ms or more" if cost.bound_ms else ""
        lines.append(f"cost: {_facts(cost, COST_FACTS)} ({cost.peak_of}){bound}")
    return lines


def _facts(found: Any, names: tuple[str, ...]) -> str:
    """Return those of the fields of these names that are known, in words."""
    from ..runtime.measure.tables import NONE, heading, shown

    values = {heading(name): shown(name, getattr(found, name)) for name in names}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != NONE)


def _show(one: Benched, terminal: Terminal, options: BenchOptions) -> None:
    """Print checks, accuracy, the tables, the verdict and what was written."""
    from ..runtime.measure.tables import tables_of, to_text

    result, score = one.result, one.result.accuracy
    terminal.say(*(check.line() for check in result.checks))
    if score is not None and score.calibration is not None:
        error = f"calibration error {100 * score.calibration.error:.2f} %"
        terminal.say(f"test accuracy {score.summary()}; {error}")
    terminal.say(*map(_pair_line, result.pairs))
    names = (*TABLES, "profile") if options.profile else TABLES
    width = shutil.get_terminal_size().columns
    shown = (table for table in tables_of(result) if table.name in names)
    terminal.say(*(f"\n{to_text(table, width)}" for table in shown), "")
    if result.verdict is not None:
        reasons = (f"  {reason.line()}" for reason in result.verdict.reasons)
        terminal.say(f"verdict: {result.verdict.status}", *reasons)
    terminal.wrote((one.result_path,), one.pictures)


def _pair_line(pair: Pair) -> str:
    return (
        f"against {pair.name}: {pair.n_differing} of {pair.n:,} images labelled differently, "
        f"{pair.n_lost} right answers lost, {pair.n_gained} gained; difference "
        f"{'not ' if pair.mcnemar_p > 0.05 else ''}shown (exact McNemar p = {pair.mcnemar_p:.2g})"
    )
