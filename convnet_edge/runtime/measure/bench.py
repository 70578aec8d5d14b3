"""THE order of measuring, on host and device alike.

Correctness comes first: the golden vectors are replayed on the provider that is then timed. What
was measured is handed out before each stage, so that it is there even when a check fails, or the
run is interrupted or killed. Files, pictures and printing are the caller's business.
"""

import datetime
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from shlex import quote
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..errors import CheckFailedError, EdgeError, InputError, InterruptedRunError
from ..model_file import ModelFile
from ..options import require as require_option
from ..providers import ON_CUDA, TESTED, short_name
from ..selftest import require
from ..session import Bound
from . import accuracy, cold_start, cost, machine, race, timing, verdict
from . import result as results
from .check import Check
from .options import DEVICE_BATCH_SIZES, BenchOptions
from .result import Latency, Minute, Pair, Reason, Result
from .stats import Array, percentiles_ms

N_PROCESSES = 5
QUICK_BATCH_SIZES, QUICK_DURATION_S = (1, 64), 0.8
STEADY_S, QUICK_STEADY_S = 0.2, 0.02
QUICK_RACE_S = 0.03
THROUGHPUT_S, N_ROUNDS = 6.0, 3
PACED_S, MINUTE_S = 30.0, 60.0
SENSE_EVERY_S = 5.0
N_SPLIT_RUNS = 100
N_SCORED_AT_ONCE = 1024  # images, between two words of progress
GALLERY_SIZE = 12
MAX_RAW_SAMPLES = 8_000  # with one number a line, the result stays below 200 kB
HISTOGRAM_STEP = 1.01
UNSTATED = ("models", "out", "provider")  # these options do not decide the measurement


@dataclass(frozen=True)
class Listener:
    """What the caller wants to hear: stages, their share in [0, 1], and what was measured so far.

    keep: before each stage and at the end. opened: once it is known what runs where at what cost.
    timed: after each batch size.
    """

    stage: Callable[[str], None] = lambda _: None
    share: timing.Tick = lambda _: None
    keep: Callable[[Result], None] = lambda _: None
    opened: Callable[[Result], None] = lambda _: None
    timed: Callable[[Result], None] = lambda _: None


@dataclass
class Measured:
    """One model, and what was measured of it so far.

    logits: (N, C) of the test images on the provider timed, None without them. samples_ms: every
    timed run by batch size, also those that the result keeps as a histogram.
    """

    classifier: Classifier
    options: BenchOptions
    test: accuracy.ImageSet | None
    listener: Listener
    result: Result
    logits: Array | None = None
    samples_ms: dict[int, Array] = field(default_factory=dict)

    @property
    def images(self) -> Array:
        """uint8 pixels: the test images, the golden ones without them."""
        goldens: Array = self.classifier.contract.goldens.images
        return goldens if self.test is None else self.test.images

    def note(self, **found: Any) -> None:
        """Add to the result."""
        self.result = replace(self.result, **found)

    def begin(self, stage: str) -> None:
        """Hand out what was measured so far, and say what comes next."""
        self.listener.keep(self.result)
        self.listener.stage(stage)


def bench_model(
    classifier: Classifier,
    options: BenchOptions,
    *,
    name: str,
    version: str,
    test: accuracy.ImageSet | None,
    checks: Sequence[Check],
    start: cold_start.Task,
    listener: Listener | None = None,
    first: Measured | None = None,
    rivals: Sequence[tuple[str, Classifier]] = (),
) -> Measured:
    """Measure an opened model whose self-test gave `checks`, as `options` say.

    version: of this program. test: None measures no accuracy. start: what a fresh process opens,
    path and member; the rest follows from the options. first: the model whose answers to compare
    with. rivals: name and model of those to time in turn with it.

    Raises:
        CheckFailedError: a check failed, or an output of a timed run is wrong.
        InterruptedRunError: Ctrl-C. What was measured until then was handed out in both cases.
    """
    if options.quick:
        options = replace(
            options,
            batch_sizes=QUICK_BATCH_SIZES,
            duration_s=QUICK_DURATION_S,
            min_runs=verdict.MIN_RUNS,
        )
    sizes = batch_sizes_of(classifier.file, options.batch_sizes)
    options = replace(options, batch_sizes=sizes)
    began = replace(_describe(classifier, options, name, version), checks=tuple(checks))
    run = Measured(classifier, options, test, listener or Listener(), began)
    proof = f"`convnet-edge verify {quote(str(start.model_path))}`"
    if start.member:
        proof = f"`python3 {quote(start.model_path.name)} selftest`"
    try:
        require(checks, what=f"{name} was not timed", next_step=f"see {proof}", listed=True)
        _measure(run, start)
        if first is not None:
            run.note(pairs=(_compare(first, run),))
        for rival in rivals:
            _race(run, *rival)
        run.note(interrupted=False)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "interrupted",
            expected="the whole measurement",
            next_step="run it again; a result file (--out) holds what was measured until then",
        ) from error
    except EdgeError as error:
        run.note(interrupted=False, failed=error.line)
        raise
    finally:
        run.note(peak_memory_bytes=machine.peak_memory_bytes())
        run.listener.keep(run.result)
    return run


def batch_sizes_of(file: ModelFile, asked: tuple[int, ...]) -> tuple[int, ...]:
    """Return the batch sizes to measure: those asked for, or 1 where the graph takes no more.

    Raises:
        InputError: others than the usual ones are asked for, and it takes 1 alone.
    """
    if not file.takes_one:
        return asked
    require_option(
        asked in ((1,), BenchOptions.batch_sizes, QUICK_BATCH_SIZES, DEVICE_BATCH_SIZES),
        f"batch sizes {', '.join(map(str, asked))} for a graph that is fixed at 1",
        "--batch-sizes 1, or a graph whose batch axis is free",
        "--batch-sizes",
    )
    return (1,)


def require_believable(found: Sequence[Result], *, strict: bool) -> None:
    """Raise CheckFailedError if a verdict is INVALID, or NOISY where `strict`."""
    refused = ("INVALID", "NOISY") if strict else ("INVALID",)
    for each in found:
        if each.verdict and each.verdict.status in refused:
            raise CheckFailedError(
                f"{each.model.title} is {each.verdict.status}: {each.verdict.reasons[0].text}",
                expected="VALID" if strict else "VALID or NOISY",
                next_step="read its result file",
            )


def _describe(classifier: Classifier, options: BenchOptions, name: str, version: str) -> Result:
    """Return what is known before anything is timed: model, provider, machine, settings."""
    session, file = classifier.session, classifier.file
    on_cuda = session.provider in map(short_name, ON_CUDA)  # else another package mapped them
    return Result(
        schema=results.SCHEMA,
        measured_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        convnet_edge=version,
        model=results.Model(
            name=name,
            model_bytes=len(file.data),
            model_sha256=file.sha256,
            n_parameters=file.n_parameters,
            n_multiplications=file.n_multiplications,
            input_dtype=session.input_dtype,
            integers=classifier.contract.quantization is not None,
            proof=classifier.contract.proof,
        ),
        provider=results.Provider(
            asked=options.provider,
            obtained=session.provider,
            tested=session.provider in TESTED,
            threads=session.threads,
            spin=session.settings.spin,
            io_binding=options.io_binding or options.cuda_graph,
            cuda_graph=options.cuda_graph,
            precision="float32",
            placement=session.placement,
            gpu_libraries=machine.mapped_gpu_libraries() if on_cuda else None,
        ),
        machine=results.Machine(**machine.passport()),
        settings={
            one.name: getattr(options, one.name)
            for one in fields(BenchOptions)  # and not a subclass's, which say where pictures are
            if one.name not in UNSTATED
        },
        interrupted=True,
    )


def _measure(run: Measured, start: cold_start.Task) -> None:
    options = run.options
    run.begin("the machine's peak")
    run.note(cost=cost.estimate(run.classifier))
    others = _profile(run)
    run.listener.opened(run.result)
    if run.test is not None:
        _score(run, run.test)
    _start_cold(run, start)
    for batch_size in options.batch_sizes:
        run.begin(f"latency, batch {batch_size}")
        run.note(latency=(*run.result.latency, _time_batch(run, batch_size)))
        run.listener.timed(run.result)
    _relate_to_bound(run)
    run.note(verdict=verdict.combine(run.result.latency, others))
    if not options.quick:
        _measure_throughput(run)
    if options.pace_hz or options.sustain_s:
        _sustain(run)


def _profile(run: Measured) -> list[Reason]:
    """Note where each node really ran; return a reason if one strayed to the CPU unasked."""
    run.begin("placement")
    nodes = cost.profile(run.classifier, run.images[:1])
    names = [node.provider for node in nodes]
    provider = replace(
        run.result.provider,
        n_copies=sum(node.op_type.startswith(cost.COPY) for node in nodes),
        n_nodes_run={name: names.count(name) for name in sorted(set(names))},
    )
    run.note(profile=nodes, provider=provider)
    session = run.classifier.session
    strays = [node.op_type for node in nodes if node.provider.lower() != session.provider]
    if not strays or session.settings.allow_cpu_nodes:
        return []
    text = (
        f"nodes that did not run on {session.provider}: {len(strays)} "
        f"({', '.join(sorted(set(strays)))}); pass --allow-cpu-nodes to accept that"
    )
    return [Reason("wrong provider", "INVALID", len(strays), 0, text)]


def _score(run: Measured, test: accuracy.ImageSet) -> None:
    run.begin(f"accuracy on {len(test):,} test images")
    parts, n = [], len(test)
    for start in range(0, n, N_SCORED_AT_ONCE):
        parts.append(run.classifier(test.images[start : start + N_SCORED_AT_ONCE]))
        run.listener.share(min(1.0, (start + N_SCORED_AT_ONCE) / n))
    run.logits = np.concatenate([part.logits for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    score = accuracy.score(labels, test.labels, parts[0].class_labels)
    probabilities = np.concatenate([part.probabilities for part in parts])
    calibration = accuracy.calibrate(probabilities, test.labels)
    run.note(accuracy=replace(score, calibration=calibration, test_sha256=test.sha256))


def _start_cold(run: Measured, start: cold_start.Task) -> None:
    task = replace(
        start,
        settings=run.classifier.session.settings,
        batch_sizes=tuple(sorted({1, *run.options.batch_sizes})),
        steady_s=QUICK_STEADY_S if run.options.quick else STEADY_S,
    )
    run.begin(f"cold start, {N_PROCESSES} fresh processes")
    found: tuple[results.FreshProcess, ...] = ()
    while len(found) < N_PROCESSES:
        process, _ = cold_start.start_process(task)
        timing.require_right(process.error or 0.0, run.classifier.tolerance, what="a fresh process")
        found += (process,)
        run.note(cold_start=results.ColdStart(len(found), found))
        run.listener.share(len(found) / N_PROCESSES)


def _time_batch(run: Measured, batch_size: int) -> Latency:
    """Time one batch size. Of more samples than a result may hold, a histogram is kept."""
    options, classifier = run.options, run.classifier
    feed = timing.prepare(classifier, run.images, batch_size)
    bound = _bind(run, feed.batches[0]) if run.result.provider.io_binding else None
    timed = timing.time_runs(
        bound.run if bound else classifier.session.run,
        feed,
        duration_s=options.duration_s,
        min_runs=options.min_runs,
        tick=run.listener.share,
    )
    row, samples_ns, split = timed.row, timed.samples_ns, None
    if bound:
        parts_ns = [bound.run_split(feed.batches[0])[1] for _ in range(N_SPLIT_RUNS)]
        split = results.Split(*(np.median(parts_ns, axis=0) / 1e6).tolist())
    run.samples_ms[batch_size] = samples_ns / 1e6
    is_short = len(samples_ns) <= MAX_RAW_SAMPLES // len(options.batch_sizes)
    return replace(
        row,
        split=split,
        verdict=verdict.judge(row, samples_ns, timed.starts_ns, tolerance=classifier.tolerance),
        samples_ns=samples_ns.tolist() if is_short else None,
        histogram_ns=None if is_short else histogram(samples_ns),
    )


def _relate_to_bound(run: Measured) -> None:
    """Note each row's share of the bound that follows from the larger of two peaks.

    One was measured before the rows, one is after: what ran beside it made either too low.
    """
    run.begin("the machine's peak, once more")
    known = [one for one in (run.result.cost, cost.estimate(run.classifier)) if one]
    best = max(known, key=lambda one: one.peak_multiplications_per_s or 0.0)
    bound_ms, rows = best.bound_ms, []
    for row in run.result.latency:
        p50_ms = row.percentiles_ms[0].value
        share = row.batch_size * bound_ms / p50_ms if bound_ms and p50_ms else None
        rows.append(replace(row, share_of_bound=share))
    run.note(cost=best, latency=tuple(rows))


def _bind(run: Measured, example: Array) -> Bound:
    classifier = run.classifier
    session = classifier.session
    if run.options.cuda_graph:  # a captured graph holds one batch size
        graphed = replace(session.settings, cuda_graph=True)
        session = Classifier(classifier.file, settings=graphed).session
    return Bound(session, example, len(classifier.contract.class_labels))


def histogram(samples_ns: Array) -> list[tuple[int, int]]:
    """Return (lower edge, count) of bins 1 % wide."""
    bins = np.floor(np.log(np.maximum(samples_ns, 1)) / np.log(HISTOGRAM_STEP)).astype(int)
    numbers, counts = np.unique(bins, return_counts=True)
    edges = (HISTOGRAM_STEP**numbers).astype(int)
    return list(zip(edges.tolist(), counts.tolist(), strict=True))


def _measure_throughput(run: Measured) -> None:
    """Measure each batch size alone, and the largest from several callers."""
    run.begin("throughput")
    classifier, cores = run.classifier, machine.usable_cores()
    loads = [timing.Load(classifier, size) for size in run.options.batch_sizes]
    if cores > 1:
        single = replace(classifier.session.settings, threads=1)
        alone = Classifier(classifier.file, settings=single)
        loads.append(timing.Load(alone, max(run.options.batch_sizes), cores))
    slot_s = THROUGHPUT_S / (N_ROUNDS * len(loads))
    rounds = timing.take_turns(
        loads, run.images, n_rounds=N_ROUNDS, slot_s=slot_s, tick=run.listener.share
    )
    for load, found in zip(loads, rounds, strict=True):
        threads, middle = load.classifier.session.threads, statistics.median(found)
        row = results.Throughput(load.batch_size, threads, load.n_callers, middle, found)
        run.note(throughput=(*run.result.throughput, row))


def _race(run: Measured, name: str, rival: Classifier) -> None:
    if rival.contract.goldens.images.shape[1:] != run.images.shape[1:]:
        return  # they never see the same picture
    run.begin(f"in turn with {name}")
    session = run.classifier.session
    found = race.run(
        run.classifier,
        rival,
        run.images,
        names=(run.result.model.title, name),
        threads=run.options.threads if session.provider == "cpu" else session.threads,
        slot_s=QUICK_RACE_S if run.options.quick else race.SLOT_S,
        tick=run.listener.share,
    )
    run.note(races=(*run.result.races, *found))


def _sustain(run: Measured) -> None:
    """Run one image at a time for long, and tell each minute apart.

    What a benchmark of seconds cannot show: heat, falling clocks, and what pauses between runs
    cost (onnxruntime issues 17711, 16135).
    """
    pace_hz, duration_s = run.options.pace_hz, run.options.sustain_s or PACED_S
    minutes: list[Minute] = []
    timings: list[timing.Timing] = []
    run.begin(f"one image a run for {duration_s:g} s")
    feed = timing.prepare(run.classifier, run.images, 1)
    alone = [row.percentiles_ms[0].value for row in run.result.latency if row.batch_size == 1]
    while len(minutes) * MINUTE_S < duration_s:
        minute, timed = _time_minute(run, feed, len(minutes), duration_s)
        minutes.append(minute)
        timings.append(timed)
        found = percentiles_ms(np.concatenate([one.samples_ns for one in timings]))
        p50_ms, alone_ms = found[0].value, alone[0] if alone else None
        paced = results.Paced(
            pace_hz,
            duration_s,
            n_late=sum(one.n_late for one in timings),
            n_dropped=sum(one.n_dropped for one in timings),
            percentiles_ms=found,
            minutes=tuple(minutes),
            penalty=p50_ms / alone_ms if p50_ms and alone_ms else None,
        )
        run.note(paced=paced)
        run.listener.keep(run.result)


def _time_minute(
    run: Measured, feed: timing.Feed, number: int, duration_s: float
) -> tuple[Minute, timing.Timing]:
    """Time one minute of a run of `duration_s`; read clock and temperature in between."""
    passed_s = number * MINUTE_S
    minute_s = min(MINUTE_S, duration_s - passed_s)
    sensed = [(machine.clock_mhz(), machine.temperature_c())]

    def tick(share: float) -> None:
        run.listener.share(min(1.0, (passed_s + share * minute_s) / duration_s))
        if share * minute_s >= SENSE_EVERY_S * len(sensed):
            sensed.append((machine.clock_mhz(), machine.temperature_c()))

    timed = timing.time_runs(
        run.classifier.session.run,
        feed,
        duration_s=minute_s,
        min_runs=1,
        warmup_share=0.0,
        pace_hz=run.options.pace_hz,
        tick=tick,
    )
    error = timed.row.largest_output_error or 0.0
    timing.require_right(error, run.classifier.tolerance, what=f"a run in minute {number + 1}")
    p50, p90 = timed.row.percentiles_ms[:2]
    known = ([value for value in column if value is not None] for column in zip(*sensed))  # noqa: B905 - pairs
    medians = (statistics.median(values) if values else None for values in known)
    return Minute(number, timed.row.n_runs, p50.value, p90.value, *medians), timed


def _compare(first: Measured, run: Measured) -> Pair:
    """Compare with the first model, by the labels of the test images."""
    model, test, one, other = first.result.model, run.test, first.logits, run.logits
    known = first.test.sha256 if first.test else None
    if (
        test is None
        or one is None
        or other is None
        or (known, one.shape) != (test.sha256, other.shape)
    ):
        raise InputError(
            f"{model.name} and {run.result.model.name} cannot be compared",
            expected="models of the same classes, and the same test images for both",
            next_step="bench them one at a time",
        )
    labels, other_labels = one.argmax(axis=1), other.argmax(axis=1)
    # shown are images labelled differently, then those nearest to it: by the smaller margin between
    # the likeliest two classes, of both models
    margins = [np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0] for logits in (one, other)]
    nearness = np.where(labels == other_labels, 0, -1e6) + np.minimum(*margins)
    return replace(
        accuracy.compare(labels, other_labels, test.labels),
        name=model.title,
        model_sha256=model.model_sha256 or "",
        shown=np.argsort(nearness, kind="stable")[:GALLERY_SIZE].tolist(),
    )
