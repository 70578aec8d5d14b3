"""Draw a report's charts from plain numbers: as PNG file, and as SVG for inside a page.

Decides nothing that the report states: names, fronts and intervals come in. Without matplotlib
a chart has neither picture nor SVG. The SVG follows the page's text colour, has no date and no
random ids: the same numbers give the same text.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..runtime.files import write_atomically
from .pictures import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

# at least 3:1 against both pages' backgrounds; told apart by marker and number too
COLORS = ("#0072b2", "#d55e00", "#00916a", "#a8609a", "#857600", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES = ("-", "--", "-.", ":")
INK = "#010203"  # stands for the page's text colour
WIDTH_IN = 4.7  # a phone's width at about this font size
SHOWN = (0.0005, 0.999)  # of the runs, from and to
SVG_NAMES = re.compile(r'\b(id="|url\(#|href="#)')
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "convnet-edge",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Chart:
    """A drawing to be made. paint: puts it on an empty figure, with the given ink."""

    title: str
    height_in: float
    paint: Callable[[Figure, str], None]


@dataclass(frozen=True)
class Drawing:
    """A chart that was drawn; svg is None without matplotlib."""

    picture: Picture
    svg: str | None


@dataclass(frozen=True)
class Series:
    """One result in a chart. style: its number from 0, which fixes colour and marker."""

    label: str
    style: int


@dataclass(frozen=True)
class Distribution(Series):
    """Times of single runs: each with how often it came; percentiles None where not known."""

    values_ms: Array
    counts: Array
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Sweep(Series):
    """Images per second by batch size."""

    batch_sizes: tuple[int, ...]
    images_per_s: tuple[float, ...]


@dataclass(frozen=True)
class Point(Series):
    """Accuracy in percent against a time, each as (low, value, high)."""

    latency_ms: tuple[float, float, float]
    accuracy: tuple[float, float, float]


@dataclass(frozen=True)
class Front:
    """Points that none of the same machine dominates. label: its name in the legend."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Size(Series):
    """A model file's size."""

    kilobytes: float


def latency(rows: Sequence[Distribution], *, batch_size: int) -> Chart:
    """Chart one row a result: how often each time came, the median, and p99 if known."""

    def paint(figure: Figure, ink: str) -> None:
        axes = figure.subplots()
        low = min(_quantile(row, SHOWN[0]) for row in rows) / 1.05
        high = max(_quantile(row, SHOWN[1]) for row in rows) * 1.05
        high = max(high, *(row.p99_ms * 1.05 for row in rows if row.p99_ms), low * 1.2)
        edges = np.geomspace(low, high, 240)
        for place, row in enumerate(reversed(rows)):
            color = COLORS[row.style % len(COLORS)]
            centres, heights = _density(row, edges)
            axes.fill_between(centres, place, place + 0.62 * heights, color=color, linewidth=0)
            if row.p50_ms is not None:
                axes.plot([row.p50_ms] * 2, [place, place + 0.62], color=ink, linewidth=1.3)
            if row.p99_ms is not None:
                axes.plot([row.p99_ms] * 2, [place, place + 0.3], color=ink, linewidth=1.0)
            axes.text(low, place + 0.66, row.label, fontsize=8, color=ink, va="bottom")
        axes.set(xlim=(low, high), ylim=(-0.1, len(rows) + 0.05), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("ms a run; long line: p50, short: p99")
        _log_axis(axes, "x", (low, high))

    title = f"Time of one run, batch {batch_size}"
    return Chart(title, 0.9 + 0.58 * len(rows), paint)


def batches(rows: Sequence[Sweep]) -> Chart:
    """Chart throughput against batch size, one line a result."""

    def paint(figure: Figure, ink: str) -> None:
        axes = figure.subplots()
        for row in rows:
            dashes = DASHES[row.style // len(COLORS) % len(DASHES)]
            axes.plot(row.batch_sizes, row.images_per_s, dashes, label=row.label, **_style(row))
        for row, indent in zip(rows, _indents(rows), strict=True):
            end = (row.batch_sizes[-1], row.images_per_s[-1])
            _number(axes, row, end, offset=(6 + 9 * indent, -3), color=ink)
        sizes = sorted({size for row in rows for size in row.batch_sizes})
        rates = [rate for row in rows for rate in row.images_per_s]
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("images a run (batch size)")
        axes.set_ylabel("images/s")
        _log_axis(axes, "y", (min(rates), max(rates)))
        _legend(figure, axes)

    return Chart("Throughput by batch size", 2.9 + 0.17 * len(rows), paint)


def accuracy(points: Sequence[Point], fronts: Sequence[Front]) -> Chart:
    """Chart accuracy against p50, with intervals and each machine's Pareto front."""

    def paint(figure: Figure, ink: str) -> None:
        axes = figure.subplots()
        for front, dashes in zip(fronts, itertools.cycle(DASHES), strict=False):
            times = [point.latency_ms[1] for point in front.points]
            shares = [point.accuracy[1] for point in front.points]
            style: dict[str, Any] = {"linestyle": dashes, "linewidth": 1, "alpha": 0.7}
            axes.step(times, shares, where="post", color=ink, label=front.label, **style)
        for point in points:
            (left, x, right), (bottom, y, top) = point.latency_ms, point.accuracy
            look = {**_style(point), "linestyle": "", "elinewidth": 1, "label": point.label}
            axes.errorbar(x, y, _arms(bottom, y, top), _arms(left, x, right), **look)
            _number(axes, point, (x, max(top, y)), offset=(0, 3), ha="center", color=ink)
        axes.set_xlabel("p50 ms a run")
        axes.set_ylabel("test accuracy, %")
        axes.margins(0.12)
        times = [time for point in points for time in point.latency_ms]
        _log_axis(axes, "x", (min(times), max(times)))
        _legend(figure, axes)

    return Chart("Accuracy against time", 3.0 + 0.17 * (len(points) + len(fronts)), paint)


def sizes(bars: Sequence[Size]) -> Chart:
    """Chart the model files' sizes."""

    def paint(figure: Figure, ink: str) -> None:
        axes = figure.subplots()
        for place, bar in enumerate(reversed(bars)):
            axes.barh(place + 0.18, bar.kilobytes, 0.32, color=COLORS[bar.style % len(COLORS)])
            label = f"{bar.label}: {bar.kilobytes:,.0f} kB"
            axes.text(0, place + 0.42, label, fontsize=8, color=ink, va="bottom")
        axes.set(ylim=(-0.1, len(bars)), yticks=[], xlabel="kB", xlim=(0, None))
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(_plain)
        axes.locator_params(axis="x", nbins=5)

    return Chart("Model file", 0.8 + 0.46 * len(bars), paint)


def draw(chart: Chart, path: Path) -> Drawing:
    """Write the chart to `path` as PNG, and return it as SVG too."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return Drawing(Picture(path, drawn=False), None)
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # names in any script
        figure = Figure(figsize=(WIDTH_IN, chart.height_in + 0.2), dpi=160, layout="constrained")
        chart.paint(figure, "black")
        figure.suptitle(chart.title, fontsize=10)
        png = _bytes(figure, "png")
        inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        follow: dict[Any, Any] = dict.fromkeys((*inks, "grid.color"), INK)
        with rc_context(follow):
            figure = Figure(figsize=(WIDTH_IN, chart.height_in), layout="constrained")
            chart.paint(figure, INK)
            svg = _inline(_bytes(figure, "svg", transparent=True).decode(), prefix=path.stem)
    write_atomically(path, png)
    return Drawing(Picture(path, drawn=True), svg)


def _bytes(figure: Figure, kind: str, *, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    names = ("Creator", "Date", "Format", "Type") if kind == "svg" else ("Software",)
    figure.savefig(
        buffer, format=kind, transparent=transparent, metadata=dict.fromkeys(names, None)
    )
    return buffer.getvalue()


def _inline(svg: str, *, prefix: str) -> str:
    """Make an SVG file part of a page: its own ids, no style for others, the page's colour."""
    name = re.sub(r"[^A-Za-z0-9]", "-", prefix)
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)

    def tag(match: re.Match[str]) -> str:
        return SVG_NAMES.sub(rf"\g<1>{name}-", match[0]).replace(INK, "currentColor")

    return re.sub(r"<[^>]+>", tag, body)


def _style(series: Series) -> dict[str, Any]:
    return {
        "color": COLORS[series.style % len(COLORS)],
        "marker": MARKERS[series.style % len(MARKERS)],
        "markersize": 5.5,
        "linewidth": 1.4,
    }


def _number(
    axes: Axes,
    series: Series,
    place: tuple[float, float],
    *,
    offset: tuple[float, float],
    **look: Any,
) -> None:
    text = str(series.style + 1)
    axes.annotate(text, place, xytext=offset, textcoords="offset points", fontsize=8, **look)


def _indents(rows: Sequence[Sweep]) -> list[int]:
    """Return how far right each number goes, so that lines that end together can be told apart."""
    ends = [(row.batch_sizes[-1], row.images_per_s[-1]) for row in rows]
    return [
        sum(size == end[0] and abs(rate / end[1] - 1) < 0.15 for size, rate in ends[:index])
        for index, end in enumerate(ends)
    ]


def _legend(figure: Figure, axes: Axes) -> None:
    handles, _ = axes.get_legend_handles_labels()
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(handles, labels, loc="outside lower left", handlelength=2.6, borderpad=0)


def _arms(low: float, value: float, high: float) -> list[list[float]]:
    return [[max(value - low, 0)], [max(high - value, 0)]]


def _plain(value: float, _: float) -> str:
    return f"{value:,.6g}"


def _log_axis(axes: Axes, name: Literal["x", "y"], ends: tuple[float, float]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if name == "x" else axes.yaxis
    is_wide = ends[1] > 8 * ends[0]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(5))
    axis.set_major_formatter(_plain)
    axis.set_minor_formatter(NullFormatter())


def _quantile(row: Distribution, share: float) -> float:
    order = np.argsort(row.values_ms, kind="stable")
    reached = np.cumsum(row.counts[order]) / row.counts.sum()
    return float(row.values_ms[order][np.searchsorted(reached, share)])


def _density(row: Distribution, edges: Array) -> tuple[Array, Array]:
    """Return a curve of height 1: a histogram, smoothed over three bins each side."""
    counts, _ = np.histogram(row.values_ms, bins=edges, weights=row.counts)
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    return np.sqrt(edges[:-1] * edges[1:]), smooth / max(float(smooth.max()), 1e-12)
