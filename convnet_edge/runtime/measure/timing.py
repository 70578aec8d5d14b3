"""Time runs on varying real images: THE loop, for one caller, several at once, or a camera's pace.

Measures one run: from a batch in host memory to logits in host memory. Some outputs of the timed
runs are kept and compared afterwards. What a trace may claim is judged in `verdict`; the order of
measuring is `bench`'s.
"""

from __future__ import annotations

import statistics
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..errors import CheckFailedError
from . import machine
from .verdict import MIN_RUNS, Trace

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Any], Any]
Tick = Callable[[float], None]

N_IMAGES = 2048
MIN_WARMUP_RUNS = 10
WARMUP_SHARE = 0.1
N_CHECKED_OUTPUTS = 64
TICK_EVERY_NS = 100_000_000
LATE_SHARE = 0.1  # of a period: a run that starts later than that is counted as late


def no_tick(_share: float) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Feed:
    """What the timed runs are given, and what they must answer.

    batches: contiguous, of differing images, in the type that the model takes. reference: their
    logits, run at another batch size: an error that only this batch size has cannot hide in it.
    """

    batches: tuple[Array, ...]
    reference: tuple[Array, ...]

    def largest_error(self, kept: dict[int, Array]) -> float:
        """Return the worst difference of outputs kept by run number; infinite if any is NaN."""
        n = len(self.batches)
        errors = [np.abs(logits - self.reference[i % n]).max() for i, logits in kept.items()]
        worst = float(np.max(errors, initial=0.0))  # NaN if any is
        return worst if np.isfinite(worst) else float("inf")


@dataclass(frozen=True)
class Timing:
    """The timed runs at one batch size, one caller.

    trace: times in order and what disturbed them. elapsed_s: of the whole timed loop; cpu_s: that
    this process spent in it, over all threads. n_checked: outputs compared; trace.error: the worst.
    n_late: runs that began over a tenth of a period late; n_dropped: periods that passed while a
    run was still going; 0 without a pace.
    """

    trace: Trace
    n_warmup: int
    elapsed_s: float
    cpu_s: float
    n_checked: int
    n_late: int
    n_dropped: int


@dataclass(frozen=True)
class Load:
    """A use of an opened model: images a run, and callers that share its session."""

    classifier: Classifier
    batch_size: int
    n_callers: int = 1


class Recorder:
    """Collects runs: their times and starts, and some outputs, evenly from first to last."""

    def __init__(self) -> None:
        self.samples_ns, self.starts_ns = array("q"), array("q")
        self.kept: dict[int, Any] = {}
        self.n_late = self.n_dropped = 0
        self._every = 1

    def add(self, before_ns: int, after_ns: int, logits: Any) -> None:
        """Take one run."""
        index = len(self.samples_ns)
        self.samples_ns.append(after_ns - before_ns)
        self.starts_ns.append(before_ns)
        if index % self._every == 0:
            self.kept[index] = logits
            if len(self.kept) == N_CHECKED_OUTPUTS:
                self._every *= 2
                self.kept = {i: self.kept[i] for i in self.kept if i % self._every == 0}


def loop(
    run: Run,
    batches: Sequence[Any],
    recorder: Recorder,
    go_on: Callable[[int, int], bool],
    *,
    period_ns: int = 0,
) -> None:
    """Run the batches in turn while `go_on(now_ns, n_runs)`, asked between runs, says so.

    period_ns: start a run so often, 0 for back to back. As with a camera, a frame that comes while
    a run is still going is dropped, not kept waiting. Only the run itself is timed.
    """
    clock, index, n_batches = time.perf_counter_ns, 0, len(batches)
    due = clock()
    while go_on(due, index):
        batch = batches[index % n_batches]
        if period_ns:
            time.sleep(max(0, due - clock()) / 1e9)
        before = clock()
        logits = run(batch)
        after = clock()
        recorder.add(before, after, logits)
        index += 1
        if period_ns:
            recorder.n_late += before - due > LATE_SHARE * period_ns
            n_passed = max(1, (after - due) // period_ns + 1)
            recorder.n_dropped += n_passed - 1
            due += n_passed * period_ns
        else:
            due = after


def prepare(classifier: Classifier, images: Array, batch_size: int) -> Feed:
    """Convert `images` (N, H, W) uint8 into batches to time, and run them once for reference."""
    n_batches = max(2, min(N_IMAGES, len(images)) // batch_size)
    chosen = np.arange(n_batches * batch_size) % len(images)
    other_size = 32 if batch_size != 32 else 16
    inputs = classifier.to_input(images[chosen])
    logits = classifier.logits(images[chosen], batch_size=other_size)
    cuts = [slice(i * batch_size, (i + 1) * batch_size) for i in range(n_batches)]
    batches = tuple(np.ascontiguousarray(inputs[cut]) for cut in cuts)
    return Feed(batches, tuple(logits[cut] for cut in cuts))


def time_runs(
    run: Run,
    feed: Feed,
    *,
    duration_s: float,
    min_runs: int = MIN_RUNS,
    warmup_share: float = WARMUP_SHARE,
    pace_hz: float | None = None,
    tick: Tick = no_tick,
) -> Timing:
    """Time runs for `duration_s` and at least `min_runs`, after a share of that to warm up.

    pace_hz: so many runs a second, None for back to back. `tick` gets the share done, in [0, 1],
    between runs and outside the timing.
    """
    clock, warm = time.perf_counter_ns, Recorder()
    warm_until = clock() + int(warmup_share * duration_s * 1e9)
    loop(run, feed.batches, warm, lambda now, n: n < MIN_WARMUP_RUNS or now < warm_until)
    recorder, waited_before = Recorder(), machine.waited_ns()
    cpu_started, started = time.process_time_ns(), clock()
    watch = _Watch(int(duration_s * 1e9), min_runs, tick)
    loop(run, feed.batches, recorder, watch.go_on, period_ns=int(1e9 / pace_hz) if pace_hz else 0)
    elapsed_ns, cpu_s = clock() - started, (time.process_time_ns() - cpu_started) / 1e9
    waited_after = machine.waited_ns()
    trace = Trace(
        samples_ns=np.array(recorder.samples_ns, np.int64),
        starts_ns=np.array(recorder.starts_ns, np.int64),
        n_switched=watch.n_switched,
        timer_step_ns=timer_step_ns(),
        waited_share=None
        if waited_before is None or waited_after is None
        else max(0, waited_after - waited_before) / elapsed_ns,  # threads that ended take theirs
        error=feed.largest_error(recorder.kept),
    )
    return Timing(
        trace,
        n_warmup=len(warm.samples_ns),
        elapsed_s=elapsed_ns / 1e9,
        cpu_s=cpu_s,
        n_checked=len(recorder.kept),
        n_late=recorder.n_late,
        n_dropped=recorder.n_dropped,
    )


def take_turns(
    loads: Sequence[Load], images: Array, *, n_rounds: int, slot_s: float, tick: Tick = no_tick
) -> tuple[tuple[float, ...], ...]:
    """Return the images a second of each round, by load, measured in turn, round after round.

    So a machine whose speed swings treats all alike. images: (N, H, W) uint8. slot_s: of each
    measurement; its first tenth warms up and is not counted.

    Raises:
        CheckFailedError: an output of a timed run differs from the reference run.
    """
    feeds = [prepare(load.classifier, images, load.batch_size) for load in loads]
    rounds: list[list[float]] = [[] for _ in loads]
    for number in range(n_rounds):
        for index, (load, feed) in enumerate(zip(loads, feeds, strict=True)):
            rounds[index].append(_rate(load, feed, slot_s))
            tick((number * len(loads) + index + 1) / (n_rounds * len(loads)))
    return tuple(tuple(found) for found in rounds)


def median_ms(images_per_s: Sequence[float], batch_size: int = 1) -> float:
    """Return the milliseconds of a run at the median of the rounds."""
    return 1e3 * batch_size / statistics.median(images_per_s)


def require_right(error: float, tolerance: float, *, what: str, next_step: str = "") -> None:
    """Raise unless the outputs of timed runs are those of the reference run.

    Raises:
        CheckFailedError: `error` exceeds `tolerance`, or is NaN.
    """
    if not error <= tolerance:
        raise CheckFailedError(
            f"{what} gave logits off by {error:.2g}",
            expected=f"at most {tolerance:.2g}, as in the first run",
            next_step=next_step or "check this machine with `convnet-edge verify`",
        )


def timer_step_ns(n_looks: int = 2000) -> float:
    """Return the smallest step that the clock is seen to make, in nanoseconds."""
    looks = np.array([time.perf_counter_ns() for _ in range(n_looks)], np.int64)
    steps = np.diff(looks)
    return float(steps[steps > 0].min(initial=np.iinfo(np.int64).max))


class _Watch:
    """Says how long to go on, and counts the runs in which the kernel took a core away."""

    def __init__(self, duration_ns: int, min_runs: int, tick: Tick) -> None:
        self._duration_ns, self._min_runs, self._tick = max(1, duration_ns), min_runs, tick
        self._started = self._last_tick = time.perf_counter_ns()
        self._switches = machine.involuntary_switches()
        self.n_switched = None if self._switches is None else 0

    def go_on(self, now_ns: int, n_runs: int) -> bool:
        """Look around between two runs; return whether another one is due."""
        switches = machine.involuntary_switches()
        if self.n_switched is not None:
            self.n_switched += switches != self._switches
        self._switches = switches
        passed = now_ns - self._started
        if now_ns - self._last_tick > TICK_EVERY_NS:
            self._last_tick = now_ns
            self._tick(min(1.0, passed / self._duration_ns, n_runs / max(1, self._min_runs)))
        return passed < self._duration_ns or n_runs < self._min_runs


class _Caller(threading.Thread):
    """One thread's runs, until told to stop; at least one begins after the counting did."""

    def __init__(self, load: Load, feed: Feed, counting: threading.Event, stop: threading.Event):
        super().__init__(daemon=True)
        self.recorder = Recorder()
        self._load, self._feed, self._counting, self._halt = load, feed, counting, stop
        self.error: BaseException | None = None
        self._n_before = 0

    def run(self) -> None:
        run = self._load.classifier.session.run
        try:
            loop(run, self._feed.batches, self.recorder, self._go_on)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that measures
            self.error = error

    def rate(self) -> float:
        """Return the runs a second since the counting began."""
        starts, samples = self.recorder.starts_ns, self.recorder.samples_ns
        first = self._n_before
        ended = starts[-1] + samples[-1]
        return 1e9 * (len(starts) - first) / (ended - starts[first])

    def _go_on(self, _now_ns: int, n_runs: int) -> bool:
        if not self._counting.is_set():
            self._n_before = n_runs + 1
            return not self._halt.is_set()
        return not self._halt.is_set() or n_runs <= self._n_before


def _rate(load: Load, feed: Feed, slot_s: float) -> float:
    counting, stop = threading.Event(), threading.Event()
    callers = [_Caller(load, feed, counting, stop) for _ in range(load.n_callers)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(slot_s * WARMUP_SHARE)
        counting.set()
        time.sleep(slot_s * (1 - WARMUP_SHARE))
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    what = f"a timed run at batch size {load.batch_size} with {load.n_callers} callers"
    for caller in callers:
        if caller.error is not None:
            raise caller.error
        error = feed.largest_error(caller.recorder.kept)
        require_right(error, load.classifier.tolerance, what=what)
    return load.batch_size * sum(caller.rate() for caller in callers)
