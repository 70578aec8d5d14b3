"""Draw the pictures: training curve, parity, what `bench` measured, predictions.

Takes plain numbers and rows of a result; computes nothing that a report states. Without matplotlib
every function returns a picture marked as not drawn, and the command goes on.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np

from ..runtime.files import brief, percent, write_atomically
from ..runtime.measure.result import Accuracy, Calibration, NodeTime, Paced
from ..runtime.measure.stats import Array
from ..runtime.measure.tables import shorten
from . import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..runtime.classifier import Classifier
    from ..runtime.measure.accuracy import ImageSet

P = ParamSpec("P")

# at least 3:1 against a white and a dark page; charts tell them apart by marker and number too
COLORS = ("#0072b2", "#d55e00", "#00916a", "#a8609a", "#857600", "#777777")
BLUE, RED, *_, GREY = COLORS
INK = "#010203"  # of all text; in a page it stands for the page's own
SVG_NAMES = re.compile(r'\b(id="|url\(#|href="#)')
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), INK),
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.prop_cycle": f"cycler(color={list(COLORS)})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "convnet-edge",
    "text.parse_math": False,
}
GRID_COLUMNS, GRID_ROWS = 5, 3
N_SHOWN_CLASSES = 3
MAX_NAME = 22  # characters of a class or file; longer ones leave no room for the picture
N_FEW = 100  # images, of which a share is known to ±10 points at best
INSTALL = "pip install matplotlib"


@dataclass(frozen=True)
class Picture:
    """Where a picture is, or would be: drawn is False where matplotlib is not installed.

    svg: the same to put into a page, of charts. boxes: letters that no installed font has.
    """

    path: Path
    drawn: bool
    svg: str | None = None
    boxes: str = ""

    __repr__ = brief


@dataclass(frozen=True)
class Grid:
    """The tutorial's grid: which test images, what the model said, what they are."""

    picture: Picture
    indices: tuple[int, ...]
    names: tuple[str, ...]
    true_names: tuple[str, ...]


def draw(
    paint: Callable[Concatenate[Figure, P], None], *, svg: bool = False
) -> Callable[Concatenate[Path, P], Picture]:
    """Turn a function that paints on a figure into one that writes a picture to a path.

    The same numbers give the same bytes.
    """

    @functools.wraps(paint)
    def drawn(path: Path, /, *args: P.args, **kwargs: P.kwargs) -> Picture:
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure
        except ImportError:
            return Picture(path, drawn=False)
        with rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")  # `boxes` says it
            figure = Figure(dpi=140, layout="constrained")
            paint(figure, *args, **kwargs)
            png, missing = _png(figure), fonts.lacking(figure)
            if missing and (left := fonts.add_fonts(figure, missing)) != missing:
                png, missing = _png(figure), left
            inline = _inline(figure, path.stem) if svg else None
        write_atomically(path, png)
        return Picture(path, drawn=True, svg=inline, boxes="".join(map(chr, sorted(missing))))

    return drawn


def short_name(label: str) -> str:
    """Return a name as pictures show it: without its middle, if it is long."""
    return shorten(label, MAX_NAME)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _inline(figure: Figure, prefix: str) -> str:
    """Return SVG that is part of a page: its own ids, no style for others, the page's colour."""
    file, name = io.BytesIO(), re.sub(r"[^A-Za-z0-9]", "-", prefix)
    no_dates = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=no_dates)
    svg = file.getvalue().decode()
    body = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)

    def tag(match: re.Match[str]) -> str:
        return SVG_NAMES.sub(rf"\g<1>{name}-", match[0]).replace(INK, "currentColor")

    return re.sub(r"<[^>]+>", tag, body)


@draw
def training_curve(figure: Figure, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss and accuracy by epoch: training (before each update), validation if there was."""
    figure.set_size_inches(9, 3.6)
    left, right = figure.subplots(1, 2)
    for loss, share, look, label in (
        ("mean_loss", "accuracy", "o-", "training, before each update"),
        ("validation_loss", "validation_accuracy", "s--", "validation, after the epoch"),
    ):
        known = [epoch for epoch in epochs if epoch.get(share) is not None]
        if known:
            numbers = [epoch["epoch"] for epoch in known]
            left.plot(numbers, [epoch[loss] for epoch in known], look, label=label)
            right.plot(numbers, [100 * epoch[share] for epoch in known], look, label=label)
    left.set(xlabel="epoch", ylabel="mean cross-entropy", title="Loss")
    right.set(xlabel="epoch", ylabel="%", title="Accuracy")
    right.legend()
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)


@draw
def parity_errors(figure: Figure, errors: Array, *, floor: float, tolerance: float) -> None:
    """Draw the histogram of each image's largest logit error, with floor and tolerance."""
    figure.set_size_inches(8, 4)
    axes = figure.subplots()
    finite = np.maximum(errors[np.isfinite(errors)], 1e-9)
    top = max(float(finite.max(initial=tolerance)), tolerance) * 2
    low = min(float(finite.min(initial=floor)), floor) / 2
    axes.hist(finite, bins=np.geomspace(low, top, 80).tolist(), color=BLUE)
    axes.axvline(floor, color=GREY, linestyle="--", label=f"float32 floor {floor:.2g}")
    axes.axvline(tolerance, color=RED, label=f"tolerance {tolerance:.2g}")
    title = f"onnxruntime against PyTorch in float64, {len(errors):,} test images"
    axes.set(xlabel="largest |logit − float64 reference| of an image", ylabel="images", title=title)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0e}")  # its own writes TeX, which is not parsed here
    axes.xaxis.set_minor_formatter("")
    axes.legend()


@draw
def latency(figure: Figure, samples_ms: Mapping[int, Array], title: str) -> None:
    """Draw each batch size's run times: every sample in order, and their distribution."""
    figure.set_size_inches(10, 2.2 * len(samples_ms) + 0.8)
    rows = figure.subplots(len(samples_ms), 2, squeeze=False, width_ratios=(2, 1))
    for (batch_size, samples), (trace, spread) in zip(samples_ms.items(), rows, strict=True):
        median, top = float(np.median(samples)), float(np.quantile(samples, 0.995)) * 1.1
        trace.plot(samples, ".", markersize=1.5, color=BLUE, alpha=0.5)
        n_above = int((samples > top).sum())
        note = f"; {n_above} of {len(samples):,} above the frame" if n_above else ""
        trace.set(ylim=(0, top), ylabel="ms a run", title=f"batch {batch_size}{note}")
        spread.hist(samples, bins=np.linspace(0, top, 80), color=BLUE)
        spread.axvline(median, color=RED)
        spread.set(title=f"median {median:.3g} ms", yticks=[], ylabel="how often")
    rows[-1][0].set_xlabel("run")
    rows[-1][1].set_xlabel("ms a run")
    figure.suptitle(title)


@draw
def confusion(figure: Figure, score: Accuracy) -> None:
    """Draw the confusion matrix; colours follow the share of the true class.

    Of many classes the pairs that are confused most.
    """
    figure.set_size_inches(7, 6.4)
    axes = figure.subplots()
    if not score.confusion:
        _worst_pairs(axes, score)
        return
    matrix, labels = np.array(score.confusion), [short_name(one.label) for one in score.classes]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[row, column] > 0.4 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, test images")


def _worst_pairs(axes: Axes, score: Accuracy) -> None:
    pairs = score.confused
    names = [f"{short_name(pair.true)}\ntaken for {short_name(pair.predicted)}" for pair in pairs]
    bars = axes.barh(range(len(pairs)), [pair.n for pair in pairs], color=BLUE)
    axes.bar_label(bars, [f" {pair.n} of {pair.n_of_class}" for pair in pairs])
    axes.set_yticks(range(len(pairs)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(visible=False, axis="y")
    axes.axis("on" if pairs else "off")
    n_wrong = f"{score.n - score.n_correct:,} of {score.n:,} test images are wrong"
    axes.set(xlabel="images", title=f"The pairs most confused; {n_wrong}")


@draw
def reliability(figure: Figure, calibration: Calibration) -> None:
    """Draw accuracy against confidence, bin by bin, with the share of images in each."""
    figure.set_size_inches(6, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [one for one in calibration.bins if one.n]
    centres = [(one.low + one.high) / 2 for one in bins]
    widths = [0.92 * (one.high - one.low) for one in bins]
    right, said = [[getattr(one, name) for one in bins] for name in ("accuracy", "confidence")]
    named = {}  # a bar of each kind
    for bar, one in zip(upper.bar(centres, right, widths, color=BLUE), bins, strict=True):
        bar.set_alpha(0.35 if one.n < N_FEW else None)
        few = f", of fewer than {N_FEW} images" * (one.n < N_FEW)
        bar.set_label(f"share that is right{few}")
        named[few] = bar
    upper.plot(said, right, "o", color=RED, label="at the bin's mean probability")
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="a probability that means what it says")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.set_title(f"Expected calibration error {percent(calibration.error, 2)}")
    upper.legend(handles=[*named.values(), *upper.lines], loc="upper left")
    total = sum(one.n for one in bins)
    lower.bar(centres, [one.n / total for one in bins], widths, color=GREY)
    lower.set(xlabel="probability of the likeliest class", ylabel="share of images")


@draw
def nodes(figure: Figure, profile: Sequence[NodeTime]) -> None:
    """Draw the time of each node, in running order; red where the CPU ran it for another."""
    figure.set_size_inches(8, 0.36 * len(profile) + 1.4)
    axes = figure.subplots()
    names = [f"{number} {node.op_type}" for number, node in enumerate(profile, start=1)]
    several = len({node.provider for node in profile}) > 1
    colors = [RED if several and node.provider == "CPU" else BLUE for node in profile]
    bars = axes.barh(names, [node.median_us for node in profile], color=colors)
    axes.bar_label(bars, [f" {percent(node.share, 0)}" for node in profile])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(f"Where the time of one image goes{'; red: on the CPU' * several}")
    axes.set_xlabel("µs a run, while profiled (slower than undisturbed)")


@draw
def minutes(figure: Figure, paced: Paced) -> None:
    """Draw p50 and p90 by minute, beside clock and temperature where they could be read."""
    figure.set_size_inches(8, 4)
    panels = {"ms a run": ["p50_ms", "p90_ms"]}
    for unit, name in (("MHz", "clock_mhz"), ("°C", "temperature_c")):
        if any(getattr(row, name) is not None for row in paced.minutes):
            panels[unit] = [name]
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    numbers = [row.minute + 1 for row in paced.minutes]
    for axes, (unit, names) in zip(grid, panels.items(), strict=True):
        for name in names:
            values = np.array([getattr(row, name) for row in paced.minutes], float)  # None is NaN
            axes.plot(numbers, values, "o-", label=name.removesuffix("_ms"))
        axes.set_ylabel(unit)
    top, bottom = grid[0], grid[-1]
    pace = f"{paced.pace_hz:g} a second" if paced.pace_hz else "back to back"
    missing = "" if len(panels) > 1 else "; neither clock nor temperature can be read here"
    top.set(title=f"One image a run, {pace}{missing}", xlim=(0.5, max(numbers) + 0.5))
    top.set_ylim(bottom=0)
    top.legend()
    top.xaxis.get_major_locator().set_params(integer=True)
    bottom.set_xlabel("minute")


@draw
def differences(
    figure: Figure,
    cells: Sequence[tuple[str, Array, Sequence[Array]]],
    labels: Sequence[str],
    *,
    names: tuple[str, str],
    title: str,
) -> None:
    """Draw images that two models label differently or nearly so, with both probability bars.

    cells: number and true label, image (H, W) uint8, the probabilities (C,) of both models.
    """
    from matplotlib.patches import Patch

    n_rows = -(-len(cells) // 2)
    figure.set_size_inches(9, 1.15 * n_rows + 1)
    grid = figure.subplots(n_rows, 4, squeeze=False, width_ratios=(1, 2) * 2)
    for axes in grid.flat:
        axes.axis("off")
    for (caption, image, both), (picture, bars) in zip(cells, grid.reshape(-1, 2), strict=False):
        picture.imshow(image, cmap="gray", vmin=0, vmax=255)
        picture.set_title(caption, fontsize=8)
        shown = np.argsort(-np.max(both, axis=0))[:N_SHOWN_CLASSES]
        places = np.arange(len(shown))
        bars.axis("on")
        for row, color, shift in zip(both, (BLUE, RED), (-0.2, 0.2), strict=True):
            bars.barh(places + shift, row[shown], 0.38, color=color)
        bars.set_yticks(places, [short_name(labels[index]) for index in shown], fontsize=8)
        bars.set(xlim=(0, 1))
        bars.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)
        bars.invert_yaxis()
    handles = [Patch(color=c, label=n) for c, n in zip((BLUE, RED), names, strict=True)]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        title="bars: probability of a class by",
    )
    figure.suptitle(title)


@draw
def prediction_grid(
    figure: Figure, images: Array, names: Sequence[str], true_names: Sequence[str]
) -> None:
    """Draw the tutorial's 5 x 3 grid: title `Label?`, wrong ones in red with the true label."""
    figure.set_size_inches(8.5, 6)
    cells = figure.subplots(GRID_ROWS, GRID_COLUMNS).ravel()
    for axes in cells:
        axes.axis("off")
    for axes, image, name, true_name in zip(cells, images, names, true_names, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        right = name == true_name
        title = f"{short_name(name)}?" + f"\n(is {short_name(true_name)})" * (not right)
        axes.set_title(title, color=INK if right else RED)


def draw_grid(path: Path, classifier: Classifier, test: ImageSet, *, seed: int = 0) -> Grid:
    """Predict 15 of the test images, or all of fewer, chosen by `seed`, and draw them to `path`."""
    n_cells = min(GRID_COLUMNS * GRID_ROWS, len(test))
    chosen = np.random.default_rng(seed).choice(len(test), n_cells, replace=False)
    names = tuple(classifier(test.images[chosen]).names)
    true_names = tuple(classifier.contract.class_labels[label] for label in test.labels[chosen])
    picture = prediction_grid(path, test.images[chosen], names, true_names)
    return Grid(picture, tuple(map(int, chosen)), names, true_names)
