"""THE order of measuring, on host and device alike.

Correctness comes first: the golden vectors are replayed on the provider that is then timed. What
was measured is handed out before each stage, so that it is there even when a check fails, or the
run is interrupted or killed. Files, pictures and printing are the caller's business.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..errors import CheckFailedError, EdgeError, InputError, InterruptedRunError
from ..providers import TESTED
from ..selftest import require
from ..session import Bound
from . import accuracy, cold_start, cost, machine, timing, verdict
from .options import BenchOptions
from .result import (
    SCHEMA,
    Check,
    ColdStart,
    FreshProcess,
    Latency,
    Machine,
    Minute,
    Model,
    Paced,
    Pair,
    Percentile,
    Provider,
    Reason,
    Result,
    Split,
    Throughput,
)
from .stats import percentiles_ms

Array = np.ndarray[Any, np.dtype[Any]]

N_PROCESSES = 5
QUICK_BATCH_SIZES = (1, 64)
QUICK_DURATION_S = 0.8
STEADY_S, QUICK_STEADY_S = 0.2, 0.02
THROUGHPUT_S, N_ROUNDS = 6.0, 3
PACED_S, MINUTE_S = 30.0, 60.0
SENSE_EVERY_S = 5.0
N_SPLIT_RUNS = 100
GALLERY_SIZE = 12
MAX_RAW_SAMPLES = 8_000  # with one number a line, the result stays below 200 kB
HISTOGRAM_STEP = 1.01


@dataclass(frozen=True)
class Listener:
    """What the caller wants to hear: stages, their share in [0, 1], and what was measured so far.

    keep: before each stage and at the end. opened: once it is known what runs where at what cost.
    """

    stage: Callable[[str], None] = lambda _: None
    share: Callable[[float], None] = timing.no_tick
    keep: Callable[[Result], None] = lambda _: None
    opened: Callable[[Result], None] = lambda _: None


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    logits: (N, C) of the test images on the provider timed, None without them. samples_ms: every
    timed run by batch size, also those that the result keeps as a histogram.
    """

    result: Result
    classifier: Classifier
    logits: Array | None
    samples_ms: dict[int, Array]


@dataclass
class _Run:
    """One model being measured."""

    classifier: Classifier
    options: BenchOptions
    test: accuracy.ImageSet | None
    listener: Listener
    result: Result
    logits: Array | None = None
    samples_ms: dict[int, Array] = field(default_factory=dict)
    others: tuple[Reason, ...] = ()

    @property
    def images(self) -> Array:
        """(N, H, W) uint8: the test images, the golden ones without them."""
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
) -> Measured:
    """Measure an opened model whose self-test gave `checks`, as `options` say.

    name: of the model file. version: of this program. test: None measures no accuracy. start: what
    a fresh process opens, path and member; the rest follows from the options. first: the model
    that this one is compared with.

    Raises:
        CheckFailedError: a check failed, or an output of a timed run is wrong.
        InterruptedRunError: Ctrl-C. What was measured until then was handed out in both cases.
    """
    began = _describe(classifier, options, name=name, version=version)
    run = _Run(
        classifier, options, test, listener or Listener(), replace(began, checks=tuple(checks))
    )
    with _handed_out(run):
        require(
            checks,
            what=f"{name} was not timed",
            next_step=f"check the file with `convnet-edge verify {start.model_path}`",
        )
        _measure(run, start)
        if first is not None:
            run.note(pairs=(_compare(first, run),))
    return Measured(run.result, classifier, run.logits, run.samples_ms)


def require_believable(results: Sequence[Result], *, strict: bool) -> None:
    """Raise if a verdict is INVALID, or NOISY where `strict`.

    Raises:
        CheckFailedError: naming the first such model and its reasons.
    """
    for result in results:
        found = result.verdict
        if found and (found.status == "INVALID" or (strict and found.status == "NOISY")):
            raise CheckFailedError(
                f"{result.model.name} is {found.status}: {found.reasons[0].text}",
                expected="VALID" if strict else "VALID or NOISY",
                next_step="read its result file",
            )


def latency_row(
    timed: timing.Timing,
    batch_size: int,
    *,
    n_rows: int = 1,
    bound_ms: float | None = None,
    split: Split | None = None,
) -> Latency:
    """Return one batch size's timing, one of `n_rows`, with its verdict.

    bound_ms: the least time of one image. Up to a limit every sample is kept; beyond it a
    histogram with bins 1 % wide.
    """
    trace, samples = timed.trace, timed.trace.samples_ns
    found = percentiles_ms(samples)
    p50, is_short = found[0].value, len(samples) <= MAX_RAW_SAMPLES // n_rows
    return Latency(
        batch_size=batch_size,
        n_runs=len(samples),
        n_warmup=timed.n_warmup,
        elapsed_s=timed.elapsed_s,
        images_per_s=float(batch_size * len(samples) / (samples.sum() / 1e9)),
        mean_ms=float(samples.mean() / 1e6),
        min_ms=float(samples.min() / 1e6),
        max_ms=float(samples.max() / 1e6),
        percentiles_ms=found,
        cpu_ms_per_run=1e3 * timed.cpu_s / len(samples),
        n_switched=trace.n_switched,
        waited_share=trace.waited_share,
        timer_step_ns=trace.timer_step_ns,
        n_outputs_checked=timed.n_checked,
        largest_output_error=trace.error,
        share_of_bound=bound_ms * batch_size / p50 if bound_ms and p50 else None,
        split=split,
        verdict=verdict.judge(trace),
        samples_ns=samples.tolist() if is_short else None,
        histogram_ns=None if is_short else _histogram(samples),
    )


def _describe(classifier: Classifier, options: BenchOptions, *, name: str, version: str) -> Result:
    """Return what is known before anything is timed: model, provider, machine, settings."""
    session, file = classifier.session, classifier.file
    return Result(
        schema=SCHEMA,
        measured_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        convnet_edge=version,
        model=Model(
            name=name,
            model_bytes=len(file.data),
            model_sha256=file.sha256,
            graph_sha256=classifier.contract.graph_sha256,
            n_parameters=file.n_parameters,
            n_multiplications=file.n_multiplications,
            input_dtype=session.input_dtype,
            integers=classifier.contract.quantization is not None,
        ),
        provider=Provider(
            asked=options.provider,
            obtained=session.provider,
            tested=session.provider in TESTED,
            threads=session.threads,
            spin=session.settings.spin,
            io_binding=options.io_binding or options.cuda_graph,
            cuda_graph=options.cuda_graph,
            precision=session.precision,
            placement=session.placement,
            gpu_libraries=machine.mapped_gpu_libraries(),
        ),
        machine=Machine(**machine.passport()),
        settings=options.as_json(),
        interrupted=True,
    )


@contextmanager
def _handed_out(run: _Run) -> Iterator[None]:
    """Hand out the result whatever happens inside; it says so until all went well."""
    try:
        yield
        run.note(interrupted=False)
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "interrupted",
            expected="the whole measurement",
            next_step="what was measured until then is in the result file",
        ) from error
    except EdgeError as error:
        run.note(interrupted=False, failed=str(error))
        raise
    finally:
        run.note(peak_memory_bytes=machine.peak_memory_bytes())
        run.listener.keep(run.result)


def _measure(run: _Run, start: cold_start.Task) -> None:
    options = run.options
    run.begin("the machine's peak")
    run.note(cost=cost.estimate(run.classifier))
    _profile(run)
    run.listener.opened(run.result)
    if run.test is not None:
        _score(run, run.test)
    sizes = QUICK_BATCH_SIZES if options.quick else options.batch_sizes
    _start_cold(run, start, sizes)
    for batch_size in sizes:
        run.begin(f"latency, batch {batch_size}")
        run.note(latency=(*run.result.latency, _time_batch(run, batch_size, len(sizes))))
    run.note(verdict=verdict.combine(run.result.latency, run.others))
    if not options.quick:
        _measure_throughput(run)
    if options.pace_hz or options.sustain_s:
        _sustain(run)


def _profile(run: _Run) -> None:
    """Note where each node really ran, and as a reason if one strayed to the CPU unasked."""
    run.begin("placement")
    nodes = cost.profile(run.classifier, run.images[:1])
    names = [node.provider for node in nodes]
    provider = replace(
        run.result.provider,
        n_copies=cost.count_copies(nodes),
        n_nodes_run={name: names.count(name) for name in sorted(set(names))},
    )
    run.note(profile=nodes, provider=provider)
    session = run.classifier.session
    strays = [node.op_type for node in nodes if node.provider.lower() != session.provider]
    if strays and not session.settings.allow_cpu_nodes:
        text = (
            f"nodes that did not run on {session.provider}: {len(strays)} "
            f"({', '.join(sorted(set(strays)))}); pass --allow-cpu-nodes to accept that"
        )
        run.others = (Reason("wrong provider", "INVALID", len(strays), 0, text),)


def _score(run: _Run, test: accuracy.ImageSet) -> None:
    run.begin(f"accuracy on {len(test):,} test images")
    predicted = run.classifier(test.images)
    run.logits = predicted.logits
    score = accuracy.score(predicted.labels, test.labels, predicted.class_labels)
    calibration = accuracy.calibrate(predicted.probabilities, test.labels)
    run.note(accuracy=replace(score, calibration=calibration, images_sha256=test.images_sha256))


def _start_cold(run: _Run, start: cold_start.Task, sizes: tuple[int, ...]) -> None:
    quick = run.options.quick
    task = replace(
        start,
        settings=run.classifier.session.settings,
        batch_sizes=sizes if quick else tuple(sorted({1, *sizes})),
        steady_s=QUICK_STEADY_S if quick else STEADY_S,
    )
    run.begin(f"cold start, {N_PROCESSES} fresh processes")
    found: list[FreshProcess] = []
    for number in range(N_PROCESSES):
        process, _ = cold_start.start_process(task)
        timing.require_right(process.error or 0.0, run.classifier.tolerance, what="a fresh process")
        found.append(process)
        run.note(cold_start=ColdStart(len(found), tuple(found)))
        run.listener.share((number + 1) / N_PROCESSES)


def _time_batch(run: _Run, batch_size: int, n_rows: int) -> Latency:
    options, classifier = run.options, run.classifier
    feed = timing.prepare(classifier, run.images, batch_size)
    bound = _bind(run, feed.batches[0]) if options.io_binding or options.cuda_graph else None
    timed = timing.time_runs(
        bound.run if bound else classifier.session.run,
        feed,
        duration_s=QUICK_DURATION_S if options.quick else options.duration_s,
        min_runs=verdict.MIN_RUNS if options.quick else options.min_runs,
        tick=run.listener.share,
    )
    trace = replace(
        timed.trace,
        tolerance=classifier.tolerance,
        provider_error=classifier.session.provider_error(),
    )
    run.samples_ms[batch_size] = trace.samples_ns / 1e6
    return latency_row(
        replace(timed, trace=trace),
        batch_size,
        n_rows=n_rows,
        bound_ms=run.result.cost.bound_ms if run.result.cost else None,
        split=_split(bound, feed.batches[0]) if bound else None,
    )


def _bind(run: _Run, example: Array) -> Bound:
    classifier = run.classifier
    session = classifier.session
    if run.options.cuda_graph:  # a captured graph holds one batch size
        graphed = replace(session.settings, cuda_graph=True)
        session = Classifier(classifier.file, settings=graphed).session
    return session.bind(example, len(classifier.contract.class_labels))


def _split(bound: Bound, example: Array) -> Split:
    parts = [bound.run_split(example)[1] for _ in range(N_SPLIT_RUNS)]
    return Split(*(np.median(parts, axis=0) / 1e6).tolist())


def _measure_throughput(run: _Run) -> None:
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
    run.note(
        throughput=tuple(
            Throughput(
                load.batch_size,
                load.classifier.session.threads,
                load.n_callers,
                float(np.median(found)),
                found,
            )
            for load, found in zip(loads, rounds, strict=True)
        )
    )


def _sustain(run: _Run) -> None:
    """Run one image at a time for long, and tell each minute apart.

    What a benchmark of seconds cannot show: heat, falling clocks, and what pauses between runs
    cost (onnxruntime issues 17711, 16135).
    """
    options = run.options
    duration_s = options.sustain_s or PACED_S
    run.begin(f"one image a run for {duration_s:g} s")
    feed = timing.prepare(run.classifier, run.images, 1)
    minutes: list[Minute] = []
    samples: list[Array] = []
    paced = Paced(options.pace_hz, duration_s, 0, 0, (), (), None)
    alone = next((row.percentile(0.5) for row in run.result.latency if row.batch_size == 1), None)
    while (left_s := duration_s - len(minutes) * MINUTE_S) > 0:
        sensors = _Sensors(run.listener.share, len(minutes) * MINUTE_S, duration_s)
        timed = timing.time_runs(
            run.classifier.session.run,
            feed,
            duration_s=min(MINUTE_S, left_s),
            min_runs=1,
            warmup_share=0.0,
            pace_hz=options.pace_hz,
            tick=sensors.tick,
        )
        number = len(minutes)
        timing.require_right(
            timed.trace.error, run.classifier.tolerance, what=f"a run in minute {number + 1}"
        )
        samples.append(timed.trace.samples_ns)
        p50, p90 = percentiles_ms(samples[-1])[:2]
        minutes.append(Minute(number, len(samples[-1]), p50.value, p90.value, *sensors.medians()))
        found = percentiles_ms(np.concatenate(samples))
        paced = replace(
            paced,
            n_late=paced.n_late + timed.n_late,
            n_dropped=paced.n_dropped + timed.n_dropped,
            percentiles_ms=found,
            minutes=tuple(minutes),
            penalty=_ratio(found[0], alone),
        )
        run.note(paced=paced)
        run.listener.keep(run.result)


class _Sensors:
    """Reads clock and temperature every few seconds, from between the runs."""

    def __init__(self, share: timing.Tick, passed_s: float, duration_s: float) -> None:
        self._share, self._passed_s, self._duration_s = share, passed_s, duration_s
        self._readings: list[tuple[float | None, float | None]] = []
        self._due_s = 0.0

    def tick(self, share: float) -> None:
        """Take the share of a minute that is done."""
        now_s = share * min(MINUTE_S, self._duration_s - self._passed_s)
        self._share(min(1.0, (self._passed_s + now_s) / self._duration_s))
        if now_s >= self._due_s:
            self._due_s = now_s + SENSE_EVERY_S
            self._readings.append((machine.clock_mhz(), machine.temperature_c()))

    def medians(self) -> tuple[float | None, float | None]:
        """Return the median clock in MHz and temperature in °C, None where unreadable."""
        known = [[value for value in column if value is not None] for column in
                 zip(*self._readings, strict=True)] or [[], []]  # fmt: skip
        clock, temperature = (float(np.median(values)) if values else None for values in known)
        return clock, temperature


def _ratio(paced: Percentile, alone: Percentile | None) -> float | None:
    if alone is None or not alone.value or paced.value is None:
        return None
    return paced.value / alone.value


def _compare(first: Measured, run: _Run) -> Pair:
    """Compare with the first model, on the labels and on which images they differ."""
    name = first.result.model.name
    if run.test is None or first.logits is None or run.logits is None:
        raise InputError(
            f"{name} and {run.result.model.name} were not run on test images",
            expected="test images to compare them on",
            next_step="bench them one at a time",
        )
    if first.logits.shape != run.logits.shape:
        raise InputError(
            f"{name} and {run.result.model.name} have different classes",
            expected="models of the same task",
            next_step="bench them one at a time",
        )
    predicted = (first.logits.argmax(axis=1), run.logits.argmax(axis=1))
    pairing = accuracy.compare(*predicted, run.test.labels)
    return Pair(
        name=name,
        model_sha256=first.result.model.model_sha256 or "",
        n=pairing.n,
        n_lost=pairing.n_lost,
        n_gained=pairing.n_gained,
        n_differing=len(pairing.differing),
        differing=list(pairing.differing),
        mcnemar_p=pairing.p_value,
        shown=_most_differing(first.logits, run.logits).tolist(),
    )


def _most_differing(first: Array, second: Array) -> Array:
    """Return images that both label differently, then those nearest to it, by index.

    How near: the smaller margin between the likeliest two classes, of both models.
    """
    margins = [np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0] for logits in (first, second)]
    nearness = np.minimum(*margins)
    nearness[first.argmax(axis=1) != second.argmax(axis=1)] -= 1e6
    return np.argsort(nearness, kind="stable")[:GALLERY_SIZE]


def _histogram(samples: Array) -> list[tuple[int, int]]:
    bins = np.floor(np.log(np.maximum(samples, 1)) / np.log(HISTOGRAM_STEP)).astype(int)
    numbers, counts = np.unique(bins, return_counts=True)
    edges = (HISTOGRAM_STEP**numbers).astype(int)
    return list(zip(edges.tolist(), counts.tolist(), strict=True))
