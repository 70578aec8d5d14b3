"""Run MLPerf's own load generator against a model, and read what its logs say.

One command: `python benchmarks/loadgen.py [MODEL]`; needs `pip install mlcommons-loadgen`. The last
line is one JSON document.

LoadGen draws the queries, takes the times and judges VALID or INVALID. This is no MLPerf result:
nothing is submitted or reviewed, model and data set are none of MLPerf's, and a run lasts as long
as the caller says instead of MLPerf's 600 s. How fast the session alone is, without LoadGen's and
Python's share, is `bench`'s business.

Source: V. J. Reddi et al., "MLPerf Inference Benchmark", ISCA 2020, arXiv:1911.02549.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnet_edge.data.fashion_mnist import load_test_set
from convnet_edge.runtime.classifier import Classifier
from convnet_edge.runtime.errors import CheckFailedError, EdgeError, InputError
from convnet_edge.runtime.measure.timing import Recorder, loop
from convnet_edge.sealing.default_model import choose_model

Array = np.ndarray[Any, np.dtype[Any]]

SCENARIOS = {"single-stream": "SingleStream", "offline": "Offline"}
MODES = {"accuracy": "AccuracyOnly", "performance": "PerformanceOnly"}
SUMMARY_LOG = "mlperf_log_summary.txt"
DETAIL_LOG = "mlperf_log_detail.txt"
ACCURACY_LOG = "mlperf_log_accuracy.json"
DETAIL_PREFIX = ":::MLLOG "
LABEL_DTYPE = np.dtype("<i8")
PACE_S = 0.2
PACE_MIN_RUNS = 10
OFFLINE_HEADROOM = 1.2  # over the fastest run seen, so that noise cannot end the query too early

FIGURES = {  # LoadGen's keys, and ours
    "loadgen_version": "loadgen_version",
    "effective_min_duration_ms": "min_duration_ms",
    "effective_target_qps": "expected_qps",
    "generated_samples_per_query": "samples_per_query",
    "result_validity": "result",
    "result_min_duration_met": "min_duration_met",
    "result_min_queries_met": "min_queries_met",
    "early_stopping_met": "early_stopping_met",
    "num_errors": "n_errors",
}
SCENARIO_FIGURES = {
    "single-stream": {
        "result_90.00_percentile_latency_ns": "latency_p90_ns",
        "early_stopping_latency_ss": "latency_p90_early_stopping_ns",
        "result_mean_latency_ns": "latency_mean_ns",
        "result_qps_with_loadgen_overhead": "queries_per_s",
        "result_qps_without_loadgen_overhead": "queries_per_s_without_overhead",
    },
    "offline": {"result_samples_per_second": "samples_per_s"},
}


@dataclass(frozen=True)
class LoadgenRun:
    """What LoadGen's logs say of one run.

    scenario: "single-stream" or "offline"; mode: "accuracy" or "performance". valid: LoadGen's own
    word, None in accuracy mode, where it says none. results: its figures, by `FIGURES`. accuracy:
    in [0, 1], over all images, None in performance mode. recommendations: LoadGen's own sentences.
    """

    scenario: str
    mode: str
    valid: bool | None
    results: dict[str, str | float]
    accuracy: float | None
    n_queries: int
    log_dir: Path
    recommendations: tuple[str, ...]

    def summary(self) -> str:
        """Return `LoadGen offline performance: VALID, 41,234 images/s, 1 query of … (logs: …)`."""
        per_query = self.results["samples_per_query"]
        queries = f"{self.n_queries:,} quer{'y' if self.n_queries == 1 else 'ies'}"
        parts = [queries if per_query == 1 else f"{queries} of {per_query:,} images"]
        if "latency_p90_ns" in self.results:
            parts.insert(0, f"p90 {float(self.results['latency_p90_ns']) / 1e6:.3f} ms")
        if "samples_per_s" in self.results:
            parts.insert(0, f"{float(self.results['samples_per_s']):,.0f} images/s")
        if self.accuracy is not None:
            parts.insert(0, f"{self.accuracy * 100:.2f} %")
        if self.valid is not None:
            parts.insert(0, "VALID" if self.valid else "INVALID")
        advice = "".join(f"; {sentence}" for sentence in self.recommendations)
        head = f"LoadGen {self.scenario} {self.mode}"
        return f"{head}: {', '.join(parts)} (logs: {self.log_dir}){advice}"


def as_json(runs: Sequence[LoadgenRun]) -> list[dict[str, Any]]:
    """Return `runs` as plain JSON values."""
    return [
        asdict(run) | {"log_dir": str(run.log_dir), "recommendations": list(run.recommendations)}
        for run in runs
    ]


def run_loadgen(
    classifier: Classifier,
    images: Array,
    labels: Array,
    *,
    duration_s: float,
    log_dir: Path,
    batch_size: int = 64,
    stage: Callable[[str], None] = lambda _: None,
) -> tuple[LoadgenRun, ...]:
    """Run both scenarios in both modes on `images` (N, H, W) uint8 with `labels` (N,).

    Images are converted beforehand, untimed, as MLPerf's rules allow; LoadGen's time then spans
    the batch's gathering, the run, the argmax and the answer. duration_s: the least that a
    performance run shall last; an accuracy run lasts one pass. batch_size: of the offline runs.
    LoadGen's logs go to `log_dir`/<scenario>-<mode>. `stage` gets each run's name.

    Raises:
        InputError: LoadGen is not installed, the folder cannot be made, or the model fails.
        CheckFailedError: LoadGen's logs lack a result, or an answer to one of the images.
        KeyboardInterrupt: Ctrl-C. LoadGen cannot be stopped: the queries already drawn are first
            answered empty, about 0.2 s a second of duration at 0.1 ms a run; a second Ctrl-C
            ends the process at once.
        ValueError: no images, differing numbers of labels, a duration below 1 ms, no batch size.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{len(images)} images for {len(labels)} labels")
    if not duration_s >= 0.001 or batch_size < 1:
        raise ValueError(f"a duration of {duration_s} s and a batch size of {batch_size}")
    loadgen = _import_loadgen()
    inputs = classifier.to_input(images)
    runs = []
    for scenario in SCENARIOS:
        stage(f"LoadGen {scenario}: pace")
        size = batch_size if scenario == "offline" else 1
        pace_ns = _fastest_run_ns(classifier.session.run, inputs[np.arange(size) % len(inputs)])
        for mode in MODES:
            stage(f"LoadGen {scenario} {mode}")
            folder = _empty_log_dir(log_dir / f"{scenario}-{mode}")
            settings = _test_settings(loadgen, scenario, mode, duration_s)
            settings.single_stream_expected_latency_ns = pace_ns
            settings.offline_expected_qps = OFFLINE_HEADROOM * size / (pace_ns / 1e9)
            system = _System(loadgen, classifier.session.run, inputs, size)
            system.take(settings, folder)
            runs.append(_read_run(scenario, mode, labels, folder))
    return tuple(runs)


class _System:
    """Answers LoadGen's queries with the likeliest class.

    The callbacks are called from C++, which an exception leaves in pieces (the process segfaults).
    So the first failure is kept, all further queries are answered empty, and `take` raises it.
    """

    def __init__(
        self, loadgen: Any, run: Callable[[Array], Array], inputs: Array, batch_size: int
    ) -> None:
        self._loadgen = loadgen
        self._run = run
        self._inputs = inputs
        self._batch_size = batch_size
        self._failure: BaseException | None = None

    def take(self, settings: Any, log_dir: Path) -> None:
        """Take the test of `settings`, with LoadGen's logs in `log_dir`."""
        n = len(self._inputs)
        sut = self._loadgen.ConstructSUT(self._issue, _nothing)
        qsl = self._loadgen.ConstructQSL(n, n, _nothing, _nothing)
        try:
            with self._interrupts_kept():
                self._loadgen.StartTestWithLogSettings(
                    sut,
                    qsl,
                    settings,
                    _log_settings(self._loadgen, log_dir),
                    # the default, audit.config in the current folder, overrides the settings
                    str(log_dir / "no-audit.config"),
                )
        finally:
            self._loadgen.DestroyQSL(qsl)
            self._loadgen.DestroySUT(sut)
        if self._failure is not None:
            raise self._failure

    def _issue(self, queries: Sequence[Any]) -> None:
        for start in range(0, len(queries), self._batch_size):
            self._answer(queries[start : start + self._batch_size])

    def _answer(self, queries: Sequence[Any]) -> None:
        address, size = 0, 0
        if self._failure is None:
            try:
                labels = np.empty(len(queries), LABEL_DTYPE)
                self._run(self._gather(queries)).argmax(axis=1, out=labels)
                # LoadGen copies the answers before this returns: `labels` lives long enough
                address, size = labels.ctypes.data, LABEL_DTYPE.itemsize
            except BaseException as error:  # noqa: BLE001 - raised again by `take`
                self._failure = error
        self._loadgen.QuerySamplesComplete(
            [
                self._loadgen.QuerySampleResponse(query.id, address + i * size, size)
                for i, query in enumerate(queries)
            ]
        )

    def _gather(self, queries: Sequence[Any]) -> Array:
        if len(queries) == 1:  # a view, where a list of indices would copy in the timed part
            index = queries[0].index
            return self._inputs[index : index + 1]
        return self._inputs[[query.index for query in queries]]

    @contextlib.contextmanager
    def _interrupts_kept(self) -> Iterator[None]:
        """Keep Ctrl-C as the failure instead of having it raised inside of a callback."""
        previous = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(previous):
            yield
            return

        def keep(_number: int, _frame: object) -> None:
            self._failure = self._failure or KeyboardInterrupt()
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        signal.signal(signal.SIGINT, keep)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _nothing(*_: object) -> None:
    """Answer LoadGen's calls to flush, load and unload: all images are in memory."""


def _import_loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise InputError(
            f"mlperf_loadgen cannot be imported: {error}",
            expected="MLPerf LoadGen (mlcommons-loadgen on the package index)",
            next_step="pip install mlcommons-loadgen",
        ) from error
    return mlperf_loadgen


def _test_settings(loadgen: Any, scenario: str, mode: str, duration_s: float) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, SCENARIOS[scenario])
    settings.mode = getattr(loadgen.TestMode, MODES[mode])
    settings.min_duration_ms = round(duration_s * 1e3)
    return settings


def _log_settings(loadgen: Any, log_dir: Path) -> Any:
    settings = loadgen.LogSettings()
    output = loadgen.LogOutputSettings()
    output.outdir = str(log_dir)
    output.copy_summary_to_stdout = output.copy_detail_to_stdout = False
    settings.log_output = output
    settings.enable_trace = False
    return settings


def _fastest_run_ns(run: Callable[[Array], Array], batch: Array) -> int:
    """Return the fastest of the runs of 0.2 s and at least 10: LoadGen draws its queries by it.

    A fast run in doubt: a pace too slow makes LoadGen run out of queries, and the result INVALID.
    """
    recorder, deadline = Recorder(), time.perf_counter_ns() + int(PACE_S * 1e9)
    loop(run, (batch,), recorder, lambda now, n: n < PACE_MIN_RUNS or now < deadline)
    return max(1, min(recorder.samples_ns))


def _empty_log_dir(path: Path) -> Path:
    """Make the folder, without the logs of an earlier run: they must not pass for this one's."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in (SUMMARY_LOG, DETAIL_LOG, ACCURACY_LOG):
            (path / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}",
            expected="a folder for LoadGen's logs",
            next_step="choose another place",
        ) from error
    return path


def _read_run(scenario: str, mode: str, labels: Array, log_dir: Path) -> LoadgenRun:
    detail = _read_detail(log_dir / DETAIL_LOG)
    figures = FIGURES | SCENARIO_FIGURES[scenario]
    performance = mode == "performance"
    wanted = {"generated_samples_per_query", "generated_query_count"}
    missing = wanted | ({"result_validity", "result_query_count"} if performance else set())
    if missing := missing - detail.keys():
        raise CheckFailedError(
            f"{log_dir / DETAIL_LOG} lacks {', '.join(sorted(missing))}",
            expected="the log of a run that came to its end",
            next_step="read the log, and run again",
        )
    return LoadgenRun(
        scenario=scenario,
        mode=mode,
        valid=detail["result_validity"] == "VALID" if performance else None,
        results={ours: detail[theirs] for theirs, ours in figures.items() if theirs in detail},
        accuracy=None if performance else _read_accuracy(log_dir / ACCURACY_LOG, labels),
        n_queries=detail["result_query_count" if performance else "generated_query_count"],
        log_dir=log_dir,
        recommendations=_read_recommendations(log_dir / SUMMARY_LOG),
    )


def _read_detail(path: Path) -> dict[str, Any]:
    """Return the log's values by key, the last one where a key repeats; none without a log."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line[len(DETAIL_PREFIX) :]) for line in lines if DETAIL_PREFIX in line]
    return {entry["key"]: entry["value"] for entry in entries}


def _read_accuracy(path: Path, labels: Array) -> float:
    """Return the share of `labels` (N,) that the log's answers, hexadecimal int64, are equal to."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    indices = np.array([entry["qsl_idx"] for entry in entries], np.int64)
    said = np.frombuffer(bytes.fromhex("".join(entry["data"] for entry in entries)), LABEL_DTYPE)
    if len(said) != len(indices) or not np.array_equal(np.sort(indices), np.arange(len(labels))):
        raise CheckFailedError(
            f"{path} holds {len(said)} answers to {len(np.unique(indices))} images",
            expected=f"one answer to each of the {len(labels)} images",
            next_step="read the logs beside it, and run again",
        )
    return float(np.mean(said == labels[indices]))


def _read_recommendations(path: Path) -> tuple[str, ...]:
    """Return the points of the summary's list; the detailed log runs them together."""
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    points = []
    for line in lines:
        if line.startswith("Recommendations:"):
            for point in lines:
                if not point.startswith(" * "):
                    break
                points.append(point.removeprefix(" * "))
    return tuple(points)


def main() -> int:
    """Run both scenarios on the test images; print each run's line, and all as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds a performance run")
    parser.add_argument("--logs", type=Path, default=Path("benchmarks/results/loadgen"))
    given = parser.parse_args()
    test = load_test_set()
    try:
        classifier = Classifier(choose_model(given.model), given.provider, given.threads)
        found = run_loadgen(
            classifier,
            test.images,
            test.labels,
            duration_s=given.duration,
            log_dir=given.logs,
            stage=lambda name: print(name, file=sys.stderr),
        )
    except EdgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for run in found:
        print(run.summary())
    print(json.dumps(as_json(found)))
    return 0 if all(run.valid is not False for run in found) else CheckFailedError.exit_code


if __name__ == "__main__":
    sys.exit(main())
