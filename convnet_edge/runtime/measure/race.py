"""Which of two models is faster here: both timed in turn, and one sentence on what that shows."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..classifier import Classifier
from . import machine, stats, timing
from .result import Race
from .stats import Array

BATCH_SIZES = (1, 64)
N_ROUNDS, SLOT_S = 7, 0.2


def run(
    classifier: Classifier,
    other: Classifier,
    images: Array,
    *,
    names: tuple[str, str],
    slot_s: float,
    threads: int | None = None,
    tick: timing.Tick = lambda _: None,
) -> tuple[Race, ...]:
    """Time both models in turn: one image and a batch, on one core and on all.

    images: (N, H, W) or (N, H, W, 3) uint8. names: of both, in their order. threads: these alone.
    slot_s: of one measurement of one of them.
    """
    settings = classifier.session.settings
    counts = [threads] if threads else sorted({1, machine.usable_cores()})
    takes_one = classifier.file.takes_one or other.file.takes_one
    uses = [(size, n) for size in BATCH_SIZES[: 1 if takes_one else None] for n in counts]
    found: list[Race] = []
    for size, n in uses:
        same = replace(settings, threads=n)
        opened = [Classifier(one.file, settings=same) for one in (classifier, other)]
        loads = [timing.Load(one, size) for one in opened]
        rates = timing.take_turns(loads, images, n_rounds=N_ROUNDS, slot_s=slot_s)
        ratios = tuple(mine / theirs for mine, theirs in zip(*rates, strict=True))
        ms, other_ms = (timing.median_ms(rate, size) for rate in rates)
        interval, middle = stats.median_interval(np.array(ratios)), float(np.median(ratios))
        found.append(Race(*names, size, n, ms, other_ms, middle, interval, ratios))
        tick(len(found) / len(uses))
    return tuple(found)


def advise(races: Sequence[Race]) -> tuple[str, ...]:
    """Say in a sentence for each that a model raced which to deploy on a machine like this one.

    Where the model is slower, that comes first.
    """
    others = dict.fromkeys(race.other for race in races)
    return tuple(_advise([race for race in races if race.other == other]) for other in others)


def _advise(races: Sequence[Race]) -> str:
    name, other = races[0].name, races[0].other
    slower, faster, even = (
        [race for race in races if race.outcome == outcome]
        for outcome in ("slower", "faster", "cannot tell")
    )
    if slower and faster:
        return (
            f"on machines like this one {other} is faster at {_uses(slower, _inverse)}, "
            f"{name} at {_uses(faster, _ratio)}"
        )
    if not slower and not faster:
        return "neither is shown to be faster here"
    winner, loser, won, ratio = (
        (other, name, slower, _inverse) if slower else (name, other, faster, _ratio)
    )
    where = f"at {_uses(won, ratio)}" if even or len(won) == 1 else _span(won, ratio)
    where += ", and nowhere shown to be slower" * bool(even)
    return f"on machines like this one deploy {winner}: faster than {loser} {where}"


def _ratio(race: Race) -> float:
    return race.ratio


def _inverse(race: Race) -> float:
    return 1 / race.ratio


def _uses(races: Sequence[Race], ratio: Callable[[Race], float]) -> str:
    return ", ".join(f"{race.use} ({ratio(race):.2f} ×)" for race in races)


def _span(races: Sequence[Race], ratio: Callable[[Race], float]) -> str:
    """Return by how much, of all uses."""
    ratios = sorted(map(ratio, races))
    ends = dict.fromkeys(f"{one:.2f}" for one in (ratios[0], ratios[-1]))
    return f"in all {len(races)} uses ({' to '.join(ends)} ×)"
