"""`bench`: measure models on this machine, one result file and its pictures each.

How each thing is measured and told is `runtime.measure`'s business; which test images, where the
result file goes and what is drawn, that of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .. import __version__
from ..data.options import DataOptions
from ..fleet.options import FleetOptions
from ..runtime.errors import EdgeError, InputError
from ..runtime.files import brief, require_writable, visible, write_json
from ..runtime.measure import options as measure
from ..runtime.options import UnprovedOptions, declared, require
from ..sealing.default_model import choose_model
from .terminal import Terminal, as_words

if TYPE_CHECKING:
    from ..drawing.pictures import Picture
    from ..fleet.boards import Visit
    from ..runtime.classifier import Classifier
    from ..runtime.measure import bench as stage
    from ..runtime.measure.accuracy import ImageSet
    from ..runtime.measure.result import Result

STAY_HERE = ("models", "out", "strict")  # options that no other machine gets


@dataclass(frozen=True)
class BenchOptions(DataOptions, UnprovedOptions, FleetOptions, measure.BenchOptions):
    """What to measure, of which models, on which pictures; the first model is the main one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        found = f"--out {self.out}, one file, for other machines"
        several = self.out is None or self.out.suffix != ".json" or not self.elsewhere
        require(several, found, "a folder: each result has its machine in its name", "--out")


@dataclass(frozen=True)
class Benched:
    """What was measured of one model, and where it is kept."""

    result_path: Path
    result: Result
    pictures: tuple[Picture, ...]

    __repr__ = brief


def command(options: BenchOptions, terminal: Terminal) -> None:
    """Measure accuracy, cold start, latency, throughput and memory here, with a verdict.

    VALID: believe the numbers. NOISY: something disturbed them, and it says what. INVALID (exit 1):
    wrong outputs, another provider, too few runs, or too coarse a clock.

    Examples: convnet-edge bench --provider cuda --io-binding · convnet-edge bench a.onnx b.onnx ·
    convnet-edge bench --pace 10hz --sustain 10m · convnet-edge bench --on pi@board --on rack
    """
    from ..runtime.measure import screen
    from ..runtime.measure.bench import Listener, require_believable

    if options.elsewhere:
        _command_elsewhere(options, terminal)
        return
    shown = screen.Screen(terminal.say, verbose=terminal.verbose)

    def done(one: Benched) -> None:
        shown.ended(one.result)
        if one.result.accuracy is None:
            terminal.note(_unscored(one.result))
        if terminal.chained:
            terminal.answer(screen.in_one_line(one.result))
        terminal.wrote((one.result_path,), one.pictures)

    listener = Listener(terminal.step, terminal.share, opened=shown.opened, timed=shown.timed)
    with terminal.progress():
        found = bench(options, listener, done)
    results = [one.result for one in found]
    terminal.finish(
        results[0] if len(results) == 1 else {"results": results},
        *("convnet-edge", "report"),
        *(one.result_path for one in found if options.out),
    )
    require_believable(results, strict=options.strict)


def bench(
    options: BenchOptions,
    listener: stage.Listener | None = None,
    done: Callable[[Benched], None] = lambda _: None,
) -> tuple[Benched, ...]:
    """Measure one model after the other, write and draw; compare the others with the first.

    Example: `ce.bench(ce.BenchOptions(["a.onnx", "b.onnx"], threads=1))[0].result.verdict`

    Raises:
        InputError: a model or the provider cannot be opened, or a result not be written.
        CheckFailedError: golden vectors are wrong; the result is still written.
        InterruptedRunError: Ctrl-C; what was measured until then is written.
    """
    from ..runtime import selftest
    from ..runtime.elsewhere import unproved
    from ..runtime.errors import InterruptedRunError
    from ..runtime.files import as_json
    from ..runtime.measure.bench import Listener, bench_model
    from ..runtime.measure.cold_start import Task

    listener, first, found = listener or Listener(), None, list[Benched]()
    models = [choose_model(path) for path in options.models or (None,)]
    for path in models:
        require_writable(options.result_path(path))
    _require_alike(models, options)
    for path in models:
        result_path = options.result_path(path)
        listener.stage(f"opening {path.name} on {options.provider}")
        classifier, test = _open(path, options)

        def keep(result: Result, path: Path = result_path) -> None:
            write_json(path, as_json(result))

        others = first if test is not None else None
        try:
            with unproved.stand_in(classifier.file) as contract_path:
                measured = bench_model(
                    classifier,
                    options,
                    name=path.name,
                    version=__version__,
                    test=test,
                    checks=selftest.run_selftest(classifier),
                    start=Task(path, contract_path=contract_path),
                    listener=replace(listener, keep=keep),
                    first=others,
                    rivals=[(first.result.model.title, first.classifier)] if first else [],
                )
        except InterruptedRunError as error:
            error.next_step = f"see what was measured with `convnet-edge report {result_path}`"
            raise
        listener.stage("drawing")
        pictures = tuple(_draw(result_path, measured, others))
        found.append(Benched(result_path, measured.result, pictures))
        done(found[-1])
        first = first or measured
    return tuple(found)


def _open(path: Path, options: BenchOptions) -> tuple[Classifier, ImageSet | None]:
    """Open a model, and find the pictures that it is scored on."""
    from ..data import dataset
    from ..runtime.classifier import Classifier
    from ..runtime.elsewhere import unproved

    file = unproved.open_any(path, options, ceiling=options.ceiling)
    classifier = Classifier(file, settings=options.session_settings)
    return classifier, dataset.find_test_set(dataset.Task.of(classifier.contract), options)


def _unscored(result: Result) -> str:
    """Return why there is no accuracy, and what would give one."""
    if result.model.proof == "unproved":
        return (
            "  accuracy: not measured, it is unproved and ran random pictures: name pictures with "
            "--data, and what they mean to it with --classes and --preprocessing"
        )
    return (
        "  accuracy: not measured here, needs the pictures that it was tested on: name them with "
        "--data"
    )


def _require_alike(models: Sequence[Path], options: BenchOptions) -> None:
    """Refuse what would be told only after minutes: no model, or one of other classes or batches.

    None stays open: beside the one that is measured there is no other in memory.

    Raises:
        InputError: so it is.
    """
    from ..runtime.elsewhere import unproved
    from ..runtime.measure.bench import batch_sizes_of
    from ..runtime.options import require

    files = [unproved.look_into(path, options) for path in models]
    unproved.require_used(files, options)
    first = files[0].contract.class_labels
    for file in files:
        found = f"{models[0].name} and {file.path} have other classes"
        same = file.contract.class_labels == first
        require(same, found, "the same", "them one at a time", verb="bench")
        if options.data is not None:
            unproved.require_told(file, options)
        if not options.quick:
            batch_sizes_of(file, options.batch_sizes)


def _draw(
    result_path: Path, measured: stage.Measured, first: stage.Measured | None
) -> Iterator[Picture]:
    """Draw what was measured, beside the result file and under its name."""
    from ..drawing import pictures

    def place(what: str) -> Path:
        return result_path.with_suffix(f".{what}.png")

    result, classifier, test = measured.result, measured.classifier, measured.test
    ran, score = result.provider, result.accuracy
    title = visible(result.model.title)
    title += f" on {ran.obtained}, {ran.threads} threads: time of one run"
    yield pictures.latency(place("latency"), measured.samples_ms, title)
    if score is not None and score.calibration is not None:
        yield pictures.confusion(place("confusion"), score)
        yield pictures.reliability(place("reliability"), score.calibration)
    if test is not None:
        yield pictures.draw_grid(place("predictions"), classifier, test).picture
    if measured.options.profile:
        yield pictures.nodes(place("profile"), result.profile)
    if result.paced is not None:
        yield pictures.minutes(place("minutes"), result.paced)
    if first is not None and test is not None:
        yield _draw_differences(place("differences"), first, measured, test)


def _draw_differences(
    path: Path, first: stage.Measured, second: stage.Measured, test: ImageSet
) -> Picture:
    from ..drawing import pictures
    from ..runtime.measure.tables import pair_line

    (pair,), labels = second.result.pairs, second.classifier.contract.class_labels
    images = test.images[pair.shown]
    answers = [measured.classifier(images).probabilities for measured in (first, second)]
    cells = [
        (f"{index}: is {pictures.short_name(labels[test.labels[index]])}", image, both)
        for index, image, *both in zip(pair.shown, images, *answers, strict=True)
    ]
    names = (visible(pair.name), visible(second.result.model.title))
    title = f"{names[1]} {pair_line(pair)}".replace(", ", "\n", 1)
    return pictures.differences(path, cells, labels, names=names, title=title)


def _command_elsewhere(options: BenchOptions, terminal: Terminal) -> None:
    """Measure on every machine that is named, and keep a result file of each here."""
    from ..bundling.options import BundleOptions
    from ..data import dataset
    from ..fleet.boards import require_all, visit
    from ..runtime.model_file import open_model

    models, hosts = [choose_model(path) for path in options.models or (None,)], options.machines()
    for host in hosts:
        require_writable(_path_of(options, models[0], host))
    given = {one.name: getattr(options, one.name) for one in declared(DataOptions)}
    task = dataset.Task.of(open_model(models[0]).contract)
    has_test = dataset.find_test_set(task, options) is not None
    bundle = BundleOptions(tuple(models), with_test_set=has_test, ceiling=options.ceiling, **given)
    words = as_words(options, measure.BenchOptions, STAY_HERE)
    commands = [["bench", "--json", "--model", path.name, *words] for path in models]
    with terminal.progress():
        visits = visit(hosts, bundle, commands, step=terminal.step)
    boards = []
    for number, one in enumerate(visits):
        kept, error = _keep_here(options, one, models, terminal)
        visits[number] = replace(one, error=error)
        boards.append({"host": one.host, "results": kept, "error": error.line if error else None})
        if error is not None:
            terminal.answer(error.line)
    terminal.finish({"boards": boards}, "convnet-edge", "report")
    require_all(visits)


def _path_of(options: BenchOptions, model: Path, host: str) -> Path:
    label = re.sub(r"[^\w.@-]", "-", host)
    folder = options.out or measure.RESULTS_DIR
    return folder / f"{options.run_name(model)}-{label}.json"


def _keep_here(
    options: BenchOptions, found: Visit, models: list[Path], terminal: Terminal
) -> tuple[list[str], EdgeError | None]:
    """Write a machine's results, and return where; and an error, also of what is no result."""
    from ..reporting.read import read_results
    from ..runtime.measure import screen

    kept = list[str]()
    for model, document in zip(models, found.answers, strict=False):
        path = _path_of(options, model, found.host)
        try:
            document["machine"]["name"] = found.host
            with TemporaryDirectory() as folder:  # a good result of before stays
                trial = Path(folder, path.name)
                write_json(trial, document)
                (result,) = read_results([trial]).values()
        except (InputError, ValueError, TypeError, KeyError) as misfit:  # ValueError: a NaN in it
            return kept, InputError(
                f"{found.host} answers nonsense of {model.name}: {misfit}"[:300],
                expected="a result of its bundle",
                next_step="see what its python3 is",
            )
        write_json(path, document)
        kept.append(str(path))
        if result.failed is None:
            terminal.answer(f"{found.host}: {screen.in_one_line(result)}")
        terminal.wrote((path,))
    return kept, found.error
