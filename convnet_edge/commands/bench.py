"""Measure models on this machine: provider, correctness, accuracy, latency, throughput, memory.

Correctness comes first: the golden vectors are replayed on the provider that is then timed. The
result file holds the raw samples, the verdict and the machine. It is written anew before each
stage, so it is there even when a check fails, or the run is interrupted or killed. How each thing
is measured is the runtime's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..data import fashion_mnist as data
from ..drawing import pictures as plots
from ..drawing.grid import draw_grid
from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import CheckFailedError, EdgeError, InputError, InterruptedRunError
from ..runtime.files import write_json
from ..runtime.idx import ImageSet
from ..runtime.measure import (
    accuracy,
    cold_start,
    cost,
    machine,
    pace,
    profile,
    throughput,
    tuning,
    verdict,
)
from ..runtime.measure.document import (
    accuracy_json,
    cost_json,
    describe,
    latency_json,
    percentile_json,
    verdict_json,
)
from ..runtime.measure.latency import Latency, measure_latency
from ..runtime.measure.options import BenchOptions
from ..runtime.model_file import read_model_bytes
from ..runtime.selftest import Check
from ..runtime.session import Settings
from ..sealing.default_model import choose_model
from . import loadgen

N_PROCESSES = 5
QUICK_BATCH_SIZES = (1, 64)
QUICK_DURATION_S = 0.8
STEADY_S, QUICK_STEADY_S = 0.2, 0.02
THROUGHPUT_S = 6.0
LOADGEN_S = 5.0
PACED_S = 30.0
N_SPLIT_RUNS = 100
GALLERY_SIZE = 12

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class BenchResult:
    """What was measured of one model; `document` is what the result file holds."""

    model_path: Path
    result_path: Path
    checks: tuple[Check, ...]
    score: accuracy.Accuracy
    latencies: tuple[Latency, ...]
    verdict: verdict.Verdict
    document: dict[str, Any]
    pictures: tuple[plots.Picture, ...] = ()


@dataclass(frozen=True)
class Listener:
    """What the caller wants to hear: stages, their share in [0, 1], the cost, each result."""

    stage: Callable[[str], None] = lambda _: None
    share: Callable[[float], None] = lambda _: None
    opened: Callable[[Path, dict[str, Any]], None] = lambda *_: None
    measured: Callable[[BenchResult], None] = lambda _: None


@dataclass
class _Run:
    """One model being measured. logits: (N, C) of the test images, on the provider timed."""

    config: BenchOptions
    path: Path
    classifier: Classifier
    test: ImageSet
    listener: Listener
    document: dict[str, Any]
    latencies: list[Latency] = field(default_factory=list)
    logits: Array | None = None

    @property
    def settings(self) -> Settings:
        """How the session runs."""
        return self.classifier.session.settings

    def keep(self) -> None:
        """Write what was measured so far."""
        write_json(self.config.result_path(self.path), self.document)

    def begin(self, stage: str) -> None:
        """Keep what was measured so far, and say what comes next."""
        self.keep()
        self.listener.stage(stage)


def bench(config: BenchOptions, listener: Listener | None = None) -> tuple[BenchResult, ...]:
    """Measure as `config` says, one model after the other; compare the others with the first.

    Raises:
        InputError: a model or the provider cannot be opened.
        CheckFailedError: golden vectors are wrong; the result is still written.
        InterruptedRunError: Ctrl-C; what was measured until then is written.
    """
    listener = listener or Listener()
    test = data.load_test_set()
    results: list[BenchResult] = []
    first: _Run | None = None
    for path in [choose_model(model) for model in config.models or (None,)]:
        run, checks = _open(config, path, test, listener)
        with _written(run):
            selftest.require(
                checks,
                what=f"{path} was not timed",
                next_step=f"read {config.result_path(path)}; check the file with "
                f"`convnet-edge verify {path}`",
            )
            result = _measure(run, checks)
            others = [_compare(first, run)] if first is not None else []
        listener.stage("drawing")
        results.append(replace(result, pictures=(*_draw(run, result), *others)))
        listener.measured(results[-1])
        first = first or run
    return tuple(results)


def require_believable(results: tuple[BenchResult, ...], *, strict: bool) -> None:
    """Raise if a verdict is INVALID, or NOISY where `strict`.

    Raises:
        CheckFailedError: naming the first such model and its reasons.
    """
    for result in results:
        status = result.verdict.status
        if status == "INVALID" or (strict and status == "NOISY"):
            raise CheckFailedError(
                f"{result.model_path} is {status}: {result.verdict.reasons[0].text}",
                expected="VALID" if strict else "VALID or NOISY",
                next_step=f"read {result.result_path}",
            )


def _open(
    config: BenchOptions, path: Path, test: ImageSet, listener: Listener
) -> tuple[_Run, tuple[Check, ...]]:
    listener.stage(f"opening {path.name} on {config.provider}")
    model = read_model_bytes(path)
    settings = Settings(
        tf32=config.tf32, allow_cpu_nodes=config.allow_cpu_nodes, spin=config.spin
    )  # fmt: skip
    rows = None
    if config.tune:
        listener.stage("tuning: threads, callers and batch size")
        tuned, rows = throughput.tune(
            model, settings, config.provider, test.images, tick=listener.share
        )
        tuning.write(path, model, config.provider, tuned)
    classifier = Classifier(path, config.provider, config.threads, settings=settings)
    checks = selftest.run_selftest(model, classifier)
    document = describe(
        classifier,
        name=path.name,
        asked=config.provider,
        version=__version__,
        settings=config.as_json(),
    )
    document["checks"] = selftest.as_json(checks)
    if rows is not None:
        document["tuning"] = {**asdict(tuned), "searched": [_throughput_json(row) for row in rows]}
    return _Run(config, path, classifier, test, listener, document), checks


@contextmanager
def _written(run: _Run) -> Iterator[None]:
    """Write the result file whatever happens inside; it says so until all went well."""
    path, document = run.config.result_path(run.path), run.document
    document["interrupted"] = True
    try:
        yield
        del document["interrupted"]
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            "interrupted",
            expected="the whole measurement",
            next_step=f"what was measured until then is in {path}",
        ) from error
    except EdgeError as error:
        del document["interrupted"]
        document["failed"] = str(error)
        raise
    finally:
        document["peak_memory_bytes"] = machine.peak_memory_bytes()
        run.keep()


def _measure(run: _Run, checks: tuple[Check, ...]) -> BenchResult:
    config, document = run.config, run.document
    run.begin("the machine's peak")
    document["cost"] = cost_json(cost.estimate(run.classifier))
    wrong_provider = _profile(run)
    run.listener.opened(run.path, document)
    score = _score(run)
    _start_cold(run)
    sizes = QUICK_BATCH_SIZES if config.quick else config.batch_sizes
    document["latency"] = []
    for batch_size in sizes:
        run.begin(f"latency, batch {batch_size}")
        _time_batch(run, batch_size, len(sizes))
    judged, document["verdict"] = verdict_json(run.latencies, wrong_provider)
    if not config.quick:
        _measure_throughput(run)
    if config.pace_hz or config.sustain_s:
        _sustain(run)
    if config.loadgen:
        _run_loadgen(run)
    path = config.result_path(run.path)
    return BenchResult(run.path, path, checks, score, tuple(run.latencies), judged, document)


def _profile(run: _Run) -> tuple[verdict.Reason, ...]:
    """Note where each node really ran; return a reason if one strayed to the CPU unasked."""
    run.begin("placement")
    nodes = profile.profile(run.classifier, run.test.images[:1], run.settings)
    run.document["profile"] = [asdict(node) for node in nodes]
    provider = run.document["provider"]
    provider["n_copies"] = profile.count_copies(nodes)
    provider["n_nodes_run"] = {
        name: sum(node.provider == name for node in nodes)
        for name in sorted({node.provider for node in nodes})
    }
    asked = run.classifier.session.provider
    strays = [node.op_type for node in nodes if node.provider.lower() != asked]
    if not strays or run.settings.allow_cpu_nodes:
        return ()
    text = (
        f"nodes that did not run on {asked}: {len(strays)} ({', '.join(sorted(set(strays)))}); "
        "pass --allow-cpu-nodes to accept that"
    )
    return (verdict.Reason("wrong provider", "INVALID", len(strays), 0, text),)


def _score(run: _Run) -> accuracy.Accuracy:
    run.begin(f"accuracy on {len(run.test):,} test images")
    predicted = run.classifier(run.test.images)
    run.logits = predicted.logits
    score, run.document["accuracy"] = accuracy_json(predicted, run.test)
    return score


def _start_cold(run: _Run) -> None:
    config = run.config
    task = cold_start.Task(
        model_path=run.path,
        provider=config.provider,
        threads=run.classifier.session.threads,
        batch_sizes=QUICK_BATCH_SIZES if config.quick else tuple(sorted({1, *config.batch_sizes})),
        steady_s=QUICK_STEADY_S if config.quick else STEADY_S,
        allow_cpu_nodes=config.allow_cpu_nodes,
        spin=config.spin,
        tf32=config.tf32,
    )
    run.begin(f"cold start, {N_PROCESSES} fresh processes")
    rows: list[dict[str, Any]] = []
    run.document["cold_start"] = {"n_processes": 0, "processes": rows}
    tolerance = run.classifier.tolerance
    for number in range(N_PROCESSES):
        found = cold_start.start_process(task)
        if not found.error <= tolerance:
            raise CheckFailedError(
                f"a fresh process gave logits off by {found.error:.2g}",
                expected=f"at most {tolerance:.2g}",
                next_step=f"check this machine with `convnet-edge verify {run.path}`",
            )
        rows.append(found.as_json())
        run.document["cold_start"]["n_processes"] = len(rows)
        run.listener.share((number + 1) / N_PROCESSES)


def _time_batch(run: _Run, batch_size: int, n_batch_sizes: int) -> None:
    config, classifier = run.config, run.classifier
    bound = None
    if config.io_binding or config.cuda_graph:
        session = classifier.session
        if config.cuda_graph:  # a captured graph holds one batch size
            graphed = replace(run.settings, cuda_graph=True)
            session = Classifier(
                classifier.model, config.provider, session.threads, settings=graphed
            ).session
        example = classifier.to_input(run.test.images[:batch_size])
        bound = session.bind(example, len(classifier.contract.class_labels))
    latency = measure_latency(
        classifier,
        run.test.images,
        batch_size=batch_size,
        duration_s=QUICK_DURATION_S if config.quick else config.duration_s,
        min_runs=verdict.MIN_RUNS if config.quick else config.min_runs,
        bound=bound,
        tick=run.listener.share,
    )
    run.latencies.append(latency)
    row = latency_json(latency, n_rows=n_batch_sizes, bound_ms=run.document["cost"]["bound_ms"])
    if bound is not None:
        splits = [bound.run_split(example)[1] for _ in range(N_SPLIT_RUNS)]
        parts = np.median([list(asdict(split).values()) for split in splits], axis=0) / 1e6
        names = ("host_to_device_ms", "compute_ms", "device_to_host_ms")
        row["split"] = dict(zip(names, parts.tolist(), strict=True))
    run.document["latency"].append(row)


def _measure_throughput(run: _Run) -> None:
    run.begin("throughput")
    classifier, session = run.classifier, run.classifier.session
    loads = throughput.usual_loads(run.config.batch_sizes, session.threads)
    opened = {session.threads: classifier}
    for threads in {load.threads for load in loads} - set(opened):
        opened[threads] = Classifier(
            classifier.model, run.config.provider, threads, settings=run.settings
        )
    rows = throughput.measure_throughput(
        opened, run.test.images, loads, duration_s=THROUGHPUT_S, tick=run.listener.share
    )
    run.document["throughput"] = [_throughput_json(row) for row in rows]


def _sustain(run: _Run) -> None:
    config = run.config
    duration_s = config.sustain_s or PACED_S
    what = f"{config.pace_hz:g} a second" if config.pace_hz else "back to back"
    run.begin(f"{what} for {duration_s:g} s")
    minutes: list[dict[str, Any]] = []
    paced: dict[str, Any] = {
        "pace_hz": config.pace_hz, "duration_s": duration_s, "n_late": 0, "n_dropped": 0,
        "minutes": minutes,
    }  # fmt: skip
    run.document["paced"] = paced
    samples: list[Array] = []
    for minute in pace.sustain(
        run.classifier, run.test.images, duration_s=duration_s, pace_hz=config.pace_hz,
        tick=run.listener.share,
    ):  # fmt: skip
        samples.append(minute.samples_ns)
        paced["n_late"] += minute.n_late
        paced["n_dropped"] += minute.n_dropped
        minutes.append(
            {
                "minute": minute.number,
                "n_runs": len(minute.samples_ns),
                "p50_ms": minute.p50_ms.value,
                "p90_ms": minute.p90_ms.value,
                "clock_mhz": minute.clock_mhz,
                "temperature_c": minute.temperature_c,
            }
        )
        paced["percentiles_ms"] = percentile_json(np.concatenate(samples))
        run.keep()
    alone = next((row for row in run.latencies if row.batch_size == 1), None)
    p50, back_to_back = paced["percentiles_ms"][0]["value"], alone and alone.percentiles_ms()[0]
    paced["penalty"] = p50 / back_to_back.value if p50 and back_to_back else None


def _run_loadgen(run: _Run) -> None:
    run.begin("MLPerf LoadGen")
    logs = run.config.result_path(run.path).with_suffix(".loadgen")
    found = loadgen.run_loadgen(
        run.classifier, run.test.images, run.test.labels, duration_s=LOADGEN_S, log_dir=logs,
        stage=run.listener.stage,
    )  # fmt: skip
    rows = zip(loadgen.as_json(found), found, strict=True)
    run.document["loadgen"] = [{**row, "text": ran.summary()} for row, ran in rows]


def _compare(first: _Run, run: _Run) -> plots.Picture:
    """Compare with the first model; draw where they differ, or are nearest to it."""
    names = (first.path.name, run.path.name)
    if first.logits is None or run.logits is None or first.logits.shape != run.logits.shape:
        raise InputError(
            f"{names[0]} and {names[1]} have different classes",
            expected="models of the same task",
            next_step="bench them one at a time",
        )
    predicted = (first.logits.argmax(axis=1), run.logits.argmax(axis=1))
    pairing = accuracy.compare(*predicted, run.test.labels)
    shown = _most_differing(first.logits, run.logits)
    run.document["pairs"] = [
        {
            "name": first.path.name,
            "model_sha256": first.document["model"]["model_sha256"],
            "n": pairing.n,
            "n_lost": pairing.n_lost,
            "n_gained": pairing.n_gained,
            "n_differing": len(pairing.differing),
            "differing": list(pairing.differing),
            "mcnemar_p": pairing.p_value,
            "shown": [int(index) for index in shown],
        }
    ]
    path = run.config.result_path(run.path).with_suffix(".differences.png")
    cells = [
        plots.Difference(
            index=int(index),
            image=run.test.images[index],
            true_name=run.classifier.contract.class_labels[run.test.labels[index]],
            probabilities=(_softmax(first.logits[index]), _softmax(run.logits[index])),
        )
        for index in shown
    ]  # fmt: skip
    title = (
        f"{len(pairing.differing)} of {pairing.n:,} images labelled differently\n"
        f"{names[0]} alone is right on {pairing.n_lost}, {names[1]} alone on {pairing.n_gained} "
        f"(exact McNemar p = {pairing.p_value:.2g})"
    )
    labels = run.classifier.contract.class_labels
    return plots.differences(path, cells, labels, names=names, title=title)


def _most_differing(first: Array, second: Array) -> Array:
    """Return images that both label differently, then those nearest to it, by index.

    How near: the smaller margin between the likeliest two classes, of both models.
    """
    margins = [np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0] for logits in (first, second)]
    nearness = np.minimum(*margins)
    nearness[first.argmax(axis=1) != second.argmax(axis=1)] -= 1e6
    return np.argsort(nearness, kind="stable")[:GALLERY_SIZE]


def _softmax(logits: Array) -> Array:
    shifted: Array = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum())


def _throughput_json(row: throughput.Throughput) -> dict[str, Any]:
    return {
        **asdict(row.load),
        "images_per_s": row.images_per_s,
        "rounds_images_per_s": list(row.rounds_images_per_s),
    }


def _draw(run: _Run, result: BenchResult) -> tuple[plots.Picture, ...]:
    stem = result.result_path.with_suffix("")
    labels = run.classifier.contract.class_labels
    session = run.classifier.session
    title = f"{run.path.name} on {session.provider}, {session.threads} threads: time of one run"
    samples = {latency.batch_size: latency.samples_ns / 1e6 for latency in result.latencies}
    pictures = [
        plots.latency(Path(f"{stem}.latency.png"), samples, title),
        plots.confusion(Path(f"{stem}.confusion.png"), result.score.confusion, labels),
        plots.reliability(
            Path(f"{stem}.reliability.png"), result.document["accuracy"]["calibration"]
        ),
        draw_grid(Path(f"{stem}.predictions.png"), run.classifier, run.test).picture,
    ]
    if run.config.profile:
        pictures.append(plots.nodes(Path(f"{stem}.profile.png"), result.document["profile"]))
    if "paced" in result.document:
        pictures.append(plots.minutes(Path(f"{stem}.minutes.png"), result.document["paced"]))
    return tuple(pictures)
