"""Measure how many images a second a model answers, by batch size, threads and callers.

Callers share one session, as the threads of a server would. Settings are measured in turn, round
after round, so that a machine whose speed swings treats all alike.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..errors import CheckFailedError
from ..session import Settings
from . import machine
from .latency import Feed, Keeper, prepare
from .tuning import Tuning

Array = np.ndarray[Any, np.dtype[Any]]
Tick = Callable[[float], None]

TUNED_BATCH_SIZES = (1, 8, 64, 256)
N_ROUNDS = 3
TUNE_S = 18.0


@dataclass(frozen=True)
class Load:
    """How the model is used: images a run, intra-op threads of the session, callers at once."""

    batch_size: int
    threads: int
    n_callers: int


@dataclass(frozen=True)
class Throughput:
    """What one load gave. rounds_images_per_s: of each round, in order."""

    load: Load
    rounds_images_per_s: tuple[float, ...]

    @property
    def images_per_s(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds_images_per_s)


@dataclass
class _Caller:
    """One thread's runs: those counted, when the first of them began, and when the last ended."""

    n_runs: int = 0
    began_ns: int = 0
    ended_ns: int = 0
    keeper: Keeper = field(default_factory=Keeper)
    error: BaseException | None = None


def usual_loads(batch_sizes: Sequence[int], threads: int) -> tuple[Load, ...]:
    """Return what `bench` measures: each batch size alone, and the largest from several callers."""
    alone = [Load(size, threads, 1) for size in batch_sizes]
    several = [Load(max(batch_sizes), 1, n) for n in (machine.usable_cores(),) if n > 1]
    return (*alone, *several)


def tuning_loads() -> tuple[Load, ...]:
    """Return what tuning searches: threads times callers at most the cores, by batch size."""
    cores = machine.usable_cores()
    powers = sorted({1, cores, *(2**i for i in range(cores.bit_length()) if 2**i <= cores)})
    pairs = [(t, c) for t in powers for c in powers if t * c <= cores]
    return tuple(Load(size, t, c) for size in TUNED_BATCH_SIZES for t, c in pairs)


def measure_throughput(
    opened: dict[int, Classifier],
    images: Array,
    loads: Sequence[Load],
    *,
    duration_s: float,
    n_rounds: int = N_ROUNDS,
    tick: Tick = lambda _share: None,
) -> tuple[Throughput, ...]:
    """Measure each load in each round, all in `duration_s` together.

    opened: the model by threads of its session. images: (N, H, W) uint8.

    Raises:
        CheckFailedError: an output of a timed run differs from the reference run.
    """
    some = next(iter(opened.values()))
    feeds = {size: prepare(some, images, size) for size in {load.batch_size for load in loads}}
    slot_s = duration_s / (n_rounds * len(loads))
    found: dict[Load, list[float]] = {load: [] for load in loads}
    for number in range(n_rounds):
        for index, load in enumerate(loads):
            feed = feeds[load.batch_size]
            found[load].append(_measure(opened[load.threads], feed, load, slot_s))
            tick((number * len(loads) + index + 1) / (n_rounds * len(loads)))
    return tuple(Throughput(load, tuple(rounds)) for load, rounds in found.items())


def tune(
    model: bytes, settings: Settings, provider: str, images: Array, *, tick: Tick = lambda _: None
) -> tuple[Tuning, tuple[Throughput, ...]]:
    """Search the loads of this machine for at most 20 s; return the best and all measurements.

    A load replaces the default (all cores, one caller; of batch sizes, the one with most images a
    second) only if it was faster in every round: chance alone does not move it.
    """
    loads = tuning_loads()
    opened = {
        threads: Classifier(model, provider, threads, settings=settings)
        for threads in {load.threads for load in loads}
    }
    found = measure_throughput(opened, images, loads, duration_s=TUNE_S, tick=tick)
    cores = machine.usable_cores()
    single = [row for row in found if row.load.batch_size == 1 and row.load.n_callers == 1]
    fastest = _best(single, next(row for row in single if row.load.threads == cores))
    usual = [row for row in found if row.load.threads == cores and row.load.n_callers == 1]
    most = _best(found, max(usual, key=lambda row: row.images_per_s)).load
    tuning = Tuning(fastest.load.threads, most.threads, most.n_callers, most.batch_size)
    return tuning, found


def _best(rows: Sequence[Throughput], default: Throughput) -> Throughput:
    best = max(rows, key=lambda row: row.images_per_s)
    pairs = zip(best.rounds_images_per_s, default.rounds_images_per_s, strict=True)
    return best if all(mine > others for mine, others in pairs) else default


def _measure(classifier: Classifier, feed: Feed, load: Load, slot_s: float) -> float:
    """Return the images a second of one slot; its first tenth warms up and is not counted."""
    callers = [_Caller() for _ in range(load.n_callers)]
    counting, stop = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=_call, args=(caller, classifier, feed, counting, stop), daemon=True)
        for caller in callers
    ]
    for thread in threads:
        thread.start()
    try:
        time.sleep(slot_s * 0.1)
        counting.set()
        time.sleep(slot_s * 0.9)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for caller in callers:
        if caller.error is not None:
            raise caller.error
        _require_right(classifier, feed.largest_error(caller.keeper.kept), load)
    return load.batch_size * sum(
        1e9 * caller.n_runs / (caller.ended_ns - caller.began_ns)
        for caller in callers
        if caller.n_runs
    )


def _call(
    caller: _Caller,
    classifier: Classifier,
    feed: Feed,
    counting: threading.Event,
    stop: threading.Event,
) -> None:
    index, clock = 0, time.perf_counter_ns
    try:
        while not stop.is_set() or (counting.is_set() and caller.n_runs < 1):
            counted, before = counting.is_set(), clock()
            logits = classifier.session.run(feed.batches[index % len(feed.batches)])
            if counted:
                caller.began_ns = caller.began_ns or before
                caller.ended_ns = clock()
                caller.n_runs += 1
            caller.keeper.offer(index, logits)
            index += 1
    except Exception as error:  # noqa: BLE001 - raised again in the thread that measures
        caller.error = error


def _require_right(classifier: Classifier, error: float, load: Load) -> None:
    tolerance = classifier.tolerance
    if not error <= tolerance:
        raise CheckFailedError(
            f"a timed run at batch size {load.batch_size} with {load.n_callers} callers gave "
            f"logits off by {error:.2g}",
            expected=f"at most {tolerance:.2g}, as in the first run",
            next_step="check this machine with `convnet-edge verify`",
        )
