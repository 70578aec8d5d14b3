"""Run for long, back to back or at a camera's pace, and tell each minute apart.

What a benchmark of seconds cannot show: heat, falling clocks, and what pauses between runs cost
(onnxruntime issues 17711, 16135).
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..errors import CheckFailedError
from . import machine
from .latency import Feed, Keeper, Run, prepare
from .stats import Percentile, percentile

Array = np.ndarray[Any, np.dtype[Any]]
Tick = Callable[[float], None]

MINUTE_S = 60.0
WARMUP_RUNS = 10
LATE_SHARE = 0.1  # of a period: a run that starts later than that is counted as late
SENSE_EVERY_S = 5.0


@dataclass(frozen=True)
class Minute:
    """The runs of one minute (the last may be shorter), and the machine meanwhile.

    samples_ns: (R,) int64. n_late: runs that started over a tenth of a period late. n_dropped:
    periods that passed while a run was still going. clock_mhz, temperature_c: medians, None where
    they cannot be read. error: the worst of the outputs checked.
    """

    number: int
    samples_ns: Array
    n_late: int
    n_dropped: int
    clock_mhz: float | None
    temperature_c: float | None
    error: float

    @property
    def p50_ms(self) -> Percentile:
        """The minute's median."""
        return percentile(self.samples_ns / 1e6, 0.5)

    @property
    def p90_ms(self) -> Percentile:
        """The minute's 90th percentile."""
        return percentile(self.samples_ns / 1e6, 0.9)


class _Recorder:
    """Collects one minute."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.samples = array("q")
        self.keeper = Keeper()
        self.n_late = self.n_dropped = 0
        self._clocks: list[float] = []
        self._temperatures: list[float] = []
        self._sensed_at = 0.0

    def sense(self, now_s: float) -> None:
        """Read clock and temperature, every few seconds."""
        if now_s - self._sensed_at < SENSE_EVERY_S:
            return
        self._sensed_at = now_s
        clock, temperature = machine.clock_mhz(), machine.temperature_c()
        self._clocks += [clock] if clock is not None else []
        self._temperatures += [temperature] if temperature is not None else []

    def close(self, feed: Feed) -> Minute:
        """Return what was collected."""
        return Minute(
            self.number,
            np.array(self.samples, np.int64),
            self.n_late,
            self.n_dropped,
            float(np.median(self._clocks)) if self._clocks else None,
            float(np.median(self._temperatures)) if self._temperatures else None,
            feed.largest_error(self.keeper.kept),
        )


def sustain(
    classifier: Classifier,
    images: Array,
    *,
    duration_s: float,
    pace_hz: float | None,
    tick: Tick = lambda _share: None,
) -> Iterator[Minute]:
    """Run one image at a time for `duration_s`, `pace_hz` times a second (None: back to back).

    Yields each minute as it ends. As with a camera, a frame that comes while a run is still going
    is dropped, not kept waiting. Only the run itself is timed.

    Raises:
        CheckFailedError: an output of a timed run differs from the reference run.
    """
    feed = prepare(classifier, images, 1)
    run: Run = classifier.session.run
    for index in range(WARMUP_RUNS):
        run(feed.batches[index])
    period_s = 1 / pace_hz if pace_hz else 0.0
    started = due = time.perf_counter()
    end, index = started + duration_s, 0
    recorder = _Recorder(0)
    while due < end:
        if period_s:
            time.sleep(max(0.0, due - time.perf_counter()))
        before = time.perf_counter_ns()
        logits = run(feed.batches[index % len(feed.batches)])
        after = time.perf_counter_ns()
        recorder.samples.append(after - before)
        recorder.keeper.offer(index, logits)
        index += 1
        now = after / 1e9
        recorder.sense(now)
        tick(min(1.0, (now - started) / duration_s))
        if period_s:
            recorder.n_late += before / 1e9 - due > LATE_SHARE * period_s
            n_passed = max(1, int((now - due) / period_s) + 1)
            recorder.n_dropped += n_passed - 1
            due += n_passed * period_s
        else:
            due = now
        if due - started >= (recorder.number + 1) * MINUTE_S or due >= end:
            yield _right(recorder.close(feed), classifier)
            recorder, index = _Recorder(recorder.number + 1), 0


def _right(minute: Minute, classifier: Classifier) -> Minute:
    tolerance = classifier.tolerance
    if not minute.error <= tolerance:
        raise CheckFailedError(
            f"a run in minute {minute.number + 1} gave logits off by {minute.error:.2g}",
            expected=f"at most {tolerance:.2g}, as in the first run",
            next_step="check this machine with `convnet-edge verify`, its heat and its power",
        )
    return minute
