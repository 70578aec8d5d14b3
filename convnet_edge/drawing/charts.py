"""Draw a report's charts: results side by side, as pictures and as SVG for inside the page.

Only results that hold what a chart shows come in; which of them form a front, the report says.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..runtime.measure.result import Latency, Result
from ..runtime.measure.stats import Array
from ..runtime.measure.tables import NONE, shorten
from .pictures import COLORS, INK, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

chart = functools.partial(draw, svg=True)

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES = ("-", "--", "-.", ":")
MAX_LABEL = 52  # characters that fit
WIDTH_IN = 4.7  # a phone's width at about this font size
SHOWN = (0.0005, 0.999)  # of the runs, from and to
PLAIN = "{x:,.6g}"  # of an axis' numbers


@dataclass(frozen=True)
class Entry:
    """A result in a report.

    number: from 1, fixes colour and marker. path: of its file. letter: its machine's, where there
    are several; their times cannot be compared. row: the timing that is charted.
    """

    number: int
    path: Path
    letter: str
    result: Result
    row: Latency | None

    @property
    def name(self) -> str:
        """The model file's title, the result file's name where it has none."""
        return self.result.model.title or self.path.name

    @property
    def status(self) -> str:
        """VALID, NOISY or INVALID, a dash without a verdict; of all that was timed."""
        return self.result.verdict.status if self.result.verdict else NONE

    @property
    def where(self) -> str:
        """Provider, threads, and the machine's letter."""
        provider = self.result.provider
        letter = f", {self.letter}" * bool(self.letter)
        return f"{provider.obtained} {provider.threads or NONE}{letter}"

    @property
    def label(self) -> str:
        """What tells it from others where the charted row is shown alone."""
        return self.labelled(self.row.verdict.status if self.row and self.row.verdict else NONE)

    def labelled(self, status: str) -> str:
        """Return what tells it from others, as far as a chart has room, and a doubtful status."""
        end = f", {self.where}" + f" ({status})" * (status in ("NOISY", "INVALID"))
        room = max(MAX_LABEL - len(end), 5)
        return shorten(f"{self.number} {self.name}", room) + end[:MAX_LABEL]

    @property
    def look(self) -> dict[str, Any]:
        """How its points and lines look."""
        color, marker = (choice[(self.number - 1) % len(choice)] for choice in (COLORS, MARKERS))
        return {"color": color, "marker": marker, "markersize": 5.5, "linewidth": 1.4}

    @property
    def times(self) -> tuple[Array, Array]:
        """Milliseconds of single runs, and how often each came; empty where none is known."""
        row = self.row
        pairs = row and (row.histogram_ns or [(sample, 1) for sample in row.samples_ns or ()])
        known = np.array([pair for pair in pairs or () if min(pair) > 0], float).reshape(-1, 2)
        return known[:, 0] / 1e6, known[:, 1]

    @property
    def rates(self) -> list[tuple[int, float]]:
        """(batch size, images/s), ordered."""
        rows = self.result.latency
        return sorted((row.batch_size, row.images_per_s) for row in rows if row.images_per_s)

    def percentile(self, p: float) -> tuple[float, ...]:
        """Return a percentile in milliseconds and the ends of its interval, empty if not known."""
        found = self.row and self.row.percentile(p)
        value = found and found.value
        return (value, found.low or value, found.high or value) if found and value else ()

    @property
    def accuracy(self) -> tuple[float, ...]:
        """The accuracy in percent and the ends of its interval, empty if not known."""
        score = self.result.accuracy
        ends = (score.accuracy, score.interval.low, score.interval.high) if score else ()
        return tuple(100 * share for share in ends)

    @property
    def point(self) -> tuple[float, ...]:
        """p50 and accuracy, empty unless both are known."""
        p50, accuracy = self.percentile(0.5), self.accuracy
        return (p50[0], accuracy[0]) if p50 and accuracy else ()


@chart
def latency(figure: Figure, entries: Sequence[Entry], title: str) -> None:
    """Chart one row a result: how often each time came, the median, and p99 if known."""
    figure.set_size_inches(WIDTH_IN, 1.1 + 0.58 * len(entries))
    axes = figure.subplots()
    ends = [[_quantile(*one.times, share) for one in entries] for share in SHOWN]
    p99s = [found[0] for one in entries if (found := one.percentile(0.99))]
    low, high = min(ends[0]) / 1.05, max(*ends[1], *p99s, min(ends[0]) * 1.1) * 1.05
    edges = np.geomspace(low, high, 240)
    for bottom, one in enumerate(reversed(entries)):
        centres, heights = _density(*one.times, edges)
        color = one.look["color"]
        axes.fill_between(centres, bottom, bottom + 0.62 * heights, color=color, linewidth=0)
        for p, height in ((0.5, 0.62), (0.99, 0.3)):
            if found := one.percentile(p):
                axes.vlines(found[0], bottom, bottom + height, color=INK, linewidth=1.2)
        axes.text(low, bottom + 0.66, one.label, fontsize=8, va="bottom")
    axes.set(xlim=(low, high), ylim=(-0.1, len(entries) + 0.05), yticks=[], title=title)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("ms a run; long line: p50, short: p99")
    _log_axis(axes, "x", (low, high))


@chart
def batches(figure: Figure, entries: Sequence[Entry], title: str) -> None:
    """Chart throughput against batch size, one line a result."""
    figure.set_size_inches(WIDTH_IN, 3.1 + 0.17 * len(entries))
    axes = figure.subplots()
    ends: list[tuple[int, float]] = []
    for one in entries:
        dashes = DASHES[(one.number - 1) // len(COLORS) % len(DASHES)]
        label = one.labelled(one.status)
        axes.plot(*zip(*one.rates, strict=True), dashes, label=label, **one.look)
        size, rate = one.rates[-1]
        n_near = sum(at == size and abs(other / rate - 1) < 0.15 for at, other in ends)
        ends.append((size, rate))
        _number(axes, one, (size, rate), (6 + 9 * n_near, -3))
    sizes = sorted({size for one in entries for size, _ in one.rates})
    rates = [rate for one in entries for _, rate in one.rates]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="images a run (batch size)", ylabel="images/s", title=title)
    _log_axis(axes, "y", (min(rates), max(rates)))
    _legend(figure, axes)


@chart
def accuracy(
    figure: Figure, entries: Sequence[Entry], title: str, fronts: Mapping[str, Sequence[Entry]]
) -> None:
    """Chart accuracy against p50, with the intervals of both; fronts: named, fastest first."""
    figure.set_size_inches(WIDTH_IN, 3.2 + 0.17 * (len(entries) + len(fronts)))
    axes = figure.subplots()
    for (label, front), dashes in zip(fronts.items(), itertools.cycle(DASHES), strict=False):
        axes.step(*zip(*(one.point for one in front), strict=True), where="post", color=INK,
                  label=label, linestyle=dashes, linewidth=1, alpha=0.7)  # fmt: skip
    times: list[float] = []
    for one in entries:
        (x, across), (y, along) = _with_reach(*one.percentile(0.5)), _with_reach(*one.accuracy)
        axes.errorbar(x, y, along, across, linestyle="", elinewidth=1, label=one.label, **one.look)
        _number(axes, one, (x, y + along[1, 0]), (0, 3), ha="center")
        times += [x, x + across[1, 0]]
    axes.set(xlabel="p50 ms a run", ylabel="test accuracy, %", title=title)
    axes.margins(0.12)
    _log_axis(axes, "x", (min(times), max(times)))
    _legend(figure, axes)


@chart
def sizes(figure: Figure, entries: Sequence[Entry], title: str) -> None:
    """Chart the model files' sizes."""
    figure.set_size_inches(WIDTH_IN, 1.0 + 0.46 * len(entries))
    axes = figure.subplots()
    for place, one in enumerate(reversed(entries)):
        kilobytes = (one.result.model.model_bytes or 0) / 1e3
        axes.barh(place + 0.18, kilobytes, 0.32, color=one.look["color"])
        label = f"{one.number} {one.result.model.title:.40}: {kilobytes:,.0f} kB"
        axes.text(0, place + 0.42, label, fontsize=8, va="bottom")
    axes.set(ylim=(-0.1, len(entries)), yticks=[], xlabel="kB", xlim=(0, None), title=title)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.locator_params(axis="x", nbins=5)


def _number(
    axes: Axes, one: Entry, place: tuple[float, float], offset: tuple[float, float], **look: Any
) -> None:
    text = str(one.number)
    axes.annotate(text, place, xytext=offset, textcoords="offset points", fontsize=8, **look)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, _ = axes.get_legend_handles_labels()
    labels = [str(handle.get_label()) for handle in handles]  # also those that begin with _
    figure.legend(handles, labels, loc="outside lower left", handlelength=2.6, borderpad=0)


def _with_reach(value: float, low: float, high: float) -> tuple[float, Array]:
    """Return a value, and how far its interval reaches down and up, (2, 1)."""
    return value, np.clip([[value - low], [high - value]], 0, None)


def _log_axis(axes: Axes, name: Literal["x", "y"], ends: tuple[float, float]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if name == "x" else axes.yaxis
    is_wide = ends[1] > 8 * ends[0]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(5))
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


def _quantile(times_ms: Array, counts: Array, share: float) -> float:
    order = np.argsort(times_ms, kind="stable")
    reached = np.cumsum(counts[order]) / counts.sum()
    return float(times_ms[order][np.searchsorted(reached, share)])


def _density(times_ms: Array, counts: Array, edges: Array) -> tuple[Array, Array]:
    """Return a curve of height 1: a histogram, smoothed over three bins each side."""
    found, _ = np.histogram(times_ms, bins=edges, weights=counts)
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    smooth = np.convolve(found, kernel / kernel.sum(), mode="same")
    return np.sqrt(edges[:-1] * edges[1:]), smooth / max(float(smooth.max()), 1e-12)
