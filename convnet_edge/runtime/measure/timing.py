"""Time runs on varying real images: THE loop, for one caller, several at once, or a camera's pace.

A run is from a batch in host memory to logits in host memory. What the times may claim is judged in
`verdict`; the order of measuring is `bench`'s.
"""

import statistics
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..errors import CheckFailedError
from . import machine
from .result import Latency
from .stats import Array, percentiles_ms
from .verdict import MIN_RUNS

Run = Callable[[Any], Any]
Tick = Callable[[float], None]

N_IMAGES = 2048
MIN_WARMUP_RUNS = 10
WARMUP_SHARE = 0.1
N_CHECKED_OUTPUTS = 64
TICK_EVERY_NS = 100_000_000
LATE_SHARE = 0.1  # of a period: a run that starts later than that is counted as late


@dataclass(frozen=True)
class Feed:
    """What the timed runs are given, and what they must answer.

    batches: contiguous, of differing images, in the type that the model takes. reference: their
    logits, of runs at another batch size: an error that only this one has cannot hide in them.
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
    """The timed runs at one batch size, one caller, and what a result says of them: its row.

    samples_ns, starts_ns: (R,) int64, each run's wall time and when it began, in order.
    n_late, n_dropped: as in `result.Paced`.
    """

    row: Latency
    samples_ns: Array
    starts_ns: Array
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
    used = images[: max(N_IMAGES, 2 * batch_size)]
    logits = classifier.logits(used, batch_size=32 if batch_size != 32 else 16)
    return cut(classifier.to_input(used), logits, batch_size)


def cut(inputs: Array, logits: Array, batch_size: int) -> Feed:
    """Cut a model's inputs (N, 1, H, W) and their logits (N, C) into batches, two at least.

    The images are used anew where there are too few; even then no batch is the one before it.
    """
    n = len(inputs)
    stride = batch_size if batch_size % n else 1
    firsts = np.arange(max(2, min(N_IMAGES, n) // batch_size)) * stride
    places = (firsts[:, None] + np.arange(batch_size)) % n  # (B, batch_size)
    return Feed(tuple(inputs[places]), tuple(logits[places]))


def time_runs(
    run: Run,
    feed: Feed,
    *,
    duration_s: float,
    min_runs: int = MIN_RUNS,
    warmup_share: float = WARMUP_SHARE,
    pace_hz: float | None = None,
    tick: Tick = lambda _: None,
) -> Timing:
    """Time runs for `duration_s` and at least `min_runs`, after a share of that to warm up.

    pace_hz: so many runs a second, None for back to back. `tick` gets the share done, in [0, 1],
    between runs and outside the timing.
    """
    clock, warm, recorder = time.perf_counter_ns, Recorder(), Recorder()
    warm_until = clock() + int(warmup_share * duration_s * 1e9)
    loop(run, feed.batches, warm, lambda now, n: n < MIN_WARMUP_RUNS or now < warm_until)
    duration_ns, n_switched, switches = duration_s * 1e9, 0, machine.involuntary_switches()
    waited_before, cpu_before = machine.waited_ns(), time.process_time_ns()
    started = last_tick = clock()

    def go_on(now_ns: int, n_runs: int) -> bool:
        nonlocal n_switched, switches, last_tick
        before, switches = switches, machine.involuntary_switches()
        n_switched += n_runs > 0 and before != switches  # not what was before the first
        passed_ns = now_ns - started
        if now_ns - last_tick > TICK_EVERY_NS:
            last_tick = now_ns
            tick(min(1.0, passed_ns / duration_ns, n_runs / min_runs))
        return passed_ns < duration_ns or n_runs < min_runs

    loop(run, feed.batches, recorder, go_on, period_ns=int(1e9 / pace_hz) if pace_hz else 0)
    elapsed_ns, cpu_ns = clock() - started, time.process_time_ns() - cpu_before
    waited_after, waited_share = machine.waited_ns(), None
    if waited_before is not None and waited_after is not None:  # threads that ended take theirs
        waited_share = max(0, waited_after - waited_before) / elapsed_ns
    samples_ns, batch_size = np.array(recorder.samples_ns), len(feed.batches[0])
    row = Latency(
        batch_size,
        n_runs=len(samples_ns),
        n_warmup=len(warm.samples_ns),
        elapsed_s=elapsed_ns / 1e9,
        images_per_s=float(1e9 * batch_size / samples_ns.mean()),
        mean_ms=float(samples_ns.mean() / 1e6),
        min_ms=float(samples_ns.min() / 1e6),
        max_ms=float(samples_ns.max() / 1e6),
        percentiles_ms=percentiles_ms(samples_ns),
        cpu_ms_per_run=cpu_ns / 1e6 / len(samples_ns),
        n_switched=None if switches is None else n_switched,
        waited_share=waited_share,
        timer_step_ns=_timer_step_ns(),
        n_outputs_checked=len(recorder.kept),
        largest_output_error=feed.largest_error(recorder.kept),
    )
    starts_ns = np.array(recorder.starts_ns)
    return Timing(row, samples_ns, starts_ns, recorder.n_late, recorder.n_dropped)


def _timer_step_ns() -> float:
    """Return the smallest step that the clock is seen to make, in nanoseconds."""
    steps = np.diff(np.array([time.perf_counter_ns() for _ in range(2000)], np.int64))
    return float(steps[steps > 0].min(initial=np.iinfo(np.int64).max))


def take_turns(
    loads: Sequence[Load],
    images: Array,
    *,
    n_rounds: int,
    slot_s: float,
    tick: Tick = lambda _: None,
) -> tuple[tuple[float, ...], ...]:
    """Return the images a second of each round, by load, measured in turn, round after round.

    So a machine whose speed swings treats all alike. images: (N, H, W) uint8. slot_s: of each
    measurement; its first tenth warms up and is not counted. A wrong output is a CheckFailedError.
    """
    feeds = [prepare(load.classifier, images, load.batch_size) for load in loads]
    rates: list[float] = []
    for load, feed in list(zip(loads, feeds, strict=True)) * n_rounds:
        rates.append(_rate(load, feed, slot_s))
        tick(len(rates) / (n_rounds * len(loads)))
    return tuple(tuple(rates[index :: len(loads)]) for index in range(len(loads)))


def median_ms(images_per_s: Sequence[float], batch_size: int = 1) -> float:
    """Return the milliseconds of a run at the median of the rounds."""
    return 1e3 * batch_size / statistics.median(images_per_s)


def require_right(error: float, tolerance: float, *, what: str) -> None:
    """Raise CheckFailedError unless outputs of timed runs are those of the reference run."""
    if not error <= tolerance:  # NaN too
        raise CheckFailedError(
            f"{what} gave logits off by {error:.2g}",
            expected=f"at most {tolerance:.2g}, as in the first run",
            next_step="check this machine with `convnet-edge verify`",
        )


def _rate(load: Load, feed: Feed, slot_s: float) -> float:
    """Return the images a second of all callers, each from its first run after the warm-up on."""
    began_ns, slot_ns = time.perf_counter_ns(), slot_s * 1e9
    warm_ns, until_ns = began_ns + WARMUP_SHARE * slot_ns, began_ns + slot_ns

    def call(recorder: Recorder) -> None:
        def go_on(now_ns: int, n_runs: int) -> bool:
            return now_ns < until_ns or not n_runs or recorder.starts_ns[-1] < warm_ns

        loop(load.classifier.session.run, feed.batches, recorder, go_on)

    recorders = [Recorder() for _ in range(load.n_callers)]
    with ThreadPoolExecutor(load.n_callers) as pool:
        list(pool.map(call, recorders))  # raises what a caller met
    runs_per_s = 0.0
    for recorder in recorders:
        error, starts_ns = feed.largest_error(recorder.kept), recorder.starts_ns
        what = f"a timed run at batch size {load.batch_size} with {load.n_callers} callers"
        require_right(error, load.classifier.tolerance, what=what)
        first = bisect_left(starts_ns, warm_ns)
        ended_ns = starts_ns[-1] + recorder.samples_ns[-1]
        runs_per_s += 1e9 * (len(starts_ns) - first) / (ended_ns - starts_ns[first])
    return load.batch_size * runs_per_s
