"""Draw the pictures: training curve, parity, what `bench` measured, predictions.

Takes plain numbers; computes nothing that a report states. Without matplotlib every function
returns a picture marked as not drawn, and the command goes on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

GRID_COLUMNS, GRID_ROWS = 5, 3
BLUE, RED, GREY, ORANGE = "#2563a8", "#c0392b", "#7f8790", "#e08a1e"
N_SHOWN_CLASSES = 3
INSTALL = 'pip install "convnet-edge[plot]"'


@dataclass(frozen=True)
class Picture:
    """Where a picture is, or would be: drawn is False where matplotlib is not installed."""

    path: Path
    drawn: bool


@dataclass(frozen=True)
class Difference:
    """One image of two models: image (H, W) uint8; probabilities: of each model, (C,)."""

    index: int
    image: Array
    true_name: str
    probabilities: tuple[Array, ...]


def training_curve(path: Path, epochs: Sequence[dict[str, Any]]) -> Picture:
    """Draw loss and accuracy by epoch: training (before each update), validation if there was."""

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        numbers = [epoch["epoch"] for epoch in epochs]
        left.plot(numbers, [epoch["mean_loss"] for epoch in epochs], "o-", color=BLUE)
        right.plot(
            numbers,
            [100 * epoch["accuracy"] for epoch in epochs],
            "o-",
            color=BLUE,
            label="training, before each update",
        )
        validated = [epoch for epoch in epochs if epoch.get("validation_accuracy") is not None]
        if validated:
            numbers = [epoch["epoch"] for epoch in validated]
            losses = [epoch["validation_loss"] for epoch in validated]
            shares = [100 * epoch["validation_accuracy"] for epoch in validated]
            left.plot(numbers, losses, "s--", color=RED)
            right.plot(numbers, shares, "s--", color=RED, label="validation, after the epoch")
        left.set(xlabel="epoch", ylabel="mean cross-entropy", title="Loss")
        right.set(xlabel="epoch", ylabel="%", title="Accuracy")
        right.legend()
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)

    return _draw(path, (9, 3.6), paint)


def parity_errors(path: Path, errors: Array, *, floor: float, tolerance: float) -> Picture:
    """Draw the histogram of each image's largest logit error, with floor and tolerance."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        finite = np.maximum(errors[np.isfinite(errors)], 1e-9)
        top = max(float(finite.max(initial=tolerance)), tolerance) * 2
        low = min(float(finite.min(initial=floor)), floor) / 2
        axes.hist(finite, bins=np.geomspace(low, top, 80).tolist(), color=BLUE)
        axes.axvline(floor, color=GREY, linestyle="--", label=f"float32 floor {floor:.2g}")
        axes.axvline(tolerance, color=RED, label=f"tolerance {tolerance:.2g}")
        axes.set_xscale("log")
        axes.set(
            xlabel="largest |logit − float64 reference| of an image",
            ylabel="images",
            title=f"onnxruntime against PyTorch in float64, {len(errors):,} test images",
        )
        axes.legend()

    return _draw(path, (8, 4), paint)


def latency(path: Path, samples_ms: dict[int, Array], title: str) -> Picture:
    """Draw each batch size's run times: every sample in order, and their distribution."""

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(samples_ms), 2, squeeze=False, width_ratios=(2, 1))
        for (batch_size, samples), (trace, spread) in zip(samples_ms.items(), rows, strict=True):
            median, top = float(np.median(samples)), float(np.quantile(samples, 0.995)) * 1.1
            trace.plot(samples, ".", markersize=1.5, color=BLUE, alpha=0.5, rasterized=True)
            n_above = int((samples > top).sum())
            note = f"; {n_above} of {len(samples):,} above the frame" if n_above else ""
            trace.set(ylim=(0, top), ylabel="ms", title=f"batch {batch_size}{note}")
            spread.hist(samples, bins=np.linspace(0, top, 80), color=BLUE)
            spread.axvline(median, color=RED)
            spread.set_title(f"median {median:.3g} ms", color=RED)
            spread.set_yticks([])
        rows[-1][0].set_xlabel("run")
        rows[-1][1].set_xlabel("ms")
        figure.suptitle(title)

    return _draw(path, (10, 2.2 * len(samples_ms) + 0.8), paint)


def confusion(path: Path, counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Picture:
    """Draw the confusion matrix; colours follow the share of the true class."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        matrix = np.array(counts)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares**0.5, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.4 else "black"
                axes.text(
                    column, row, f"{count}", ha="center", va="center", color=color, fontsize=8
                )
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, test images")

    return _draw(path, (7, 6.4), paint)


def reliability(path: Path, calibration: dict[str, Any]) -> Picture:
    """Draw accuracy against confidence, bin by bin, with the share of images in each."""

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        bins = [found for found in calibration["bins"] if found["n"]]
        centres = [(found["low"] + found["high"]) / 2 for found in bins]
        width = bins[0]["high"] - bins[0]["low"]
        upper.bar(centres, [found["accuracy"] for found in bins], width * 0.92, color=BLUE,
                  label="share that is right")  # fmt: skip
        upper.plot([found["confidence"] for found in bins], [found["accuracy"] for found in bins],
                   "o", color=ORANGE, label="at the bin's mean probability")  # fmt: skip
        upper.plot([0, 1], [0, 1], "--", color=GREY, label="a probability that means what it says")
        upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1),
                  title=f"Expected calibration error {calibration['error']:.2%}")  # fmt: skip
        upper.legend(fontsize=8, loc="upper left")
        total = sum(found["n"] for found in bins)
        lower.bar(centres, [found["n"] / total for found in bins], width * 0.92, color=GREY)
        lower.set(xlabel="probability of the likeliest class", ylabel="share of images")

    return _draw(path, (6, 5.6), paint)


def nodes(path: Path, profile: Sequence[dict[str, Any]]) -> Picture:
    """Draw the time of each node, in running order; orange where the CPU ran it for another."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        names = [f"{index + 1} {node['op_type']}" for index, node in enumerate(profile)]
        several = len({node["provider"] for node in profile}) > 1
        colors = [ORANGE if several and node["provider"] == "CPU" else BLUE for node in profile]
        bars = axes.barh(names, [node["median_us"] for node in profile], color=colors)
        axes.bar_label(bars, [f" {node['share']:.0%}" for node in profile], fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        where = "; orange: on the CPU" if several else ""
        axes.set(xlabel="µs a run, while profiled (slower than undisturbed)",
                 title=f"Where the time of one image goes{where}")  # fmt: skip

    return _draw(path, (8, 0.36 * len(profile) + 1.4), paint)


def minutes(path: Path, paced: dict[str, Any]) -> Picture:
    """Draw p50 and p90 by minute, beside clock and temperature where they could be read."""

    def paint(figure: Figure) -> None:
        rows = paced["minutes"]
        sensors = [
            (name, label)
            for name, label in (("clock_mhz", "MHz"), ("temperature_c", "°C"))
            if any(row[name] is not None for row in rows)
        ]
        top, *others = figure.subplots(1 + len(sensors), 1, sharex=True, squeeze=False)[:, 0]
        numbers = [row["minute"] + 1 for row in rows]
        for name, color in (("p50_ms", BLUE), ("p90_ms", ORANGE)):
            values = [float("nan") if row[name] is None else row[name] for row in rows]
            top.plot(numbers, values, "o-", color=color, label=name.removesuffix("_ms"))
        pace = f"{paced['pace_hz']:g} a second" if paced["pace_hz"] else "back to back"
        missing = "" if sensors else "; neither clock nor temperature can be read here"
        top.set(ylabel="ms a run", title=f"One image a run, {pace}{missing}")
        top.set_ylim(bottom=0)
        top.legend()
        top.set_xlim(0.5, max(numbers) + 0.5)
        for axes, (name, label) in zip(others, sensors, strict=True):
            axes.plot(numbers, [row[name] for row in rows], "o-", color=RED)
            axes.set_ylabel(label)
        (others or [top])[-1].set_xlabel("minute")
        top.xaxis.get_major_locator().set_params(integer=True)

    return _draw(path, (8, 4), paint)


def differences(
    path: Path,
    cells: Sequence[Difference],
    labels: Sequence[str],
    *,
    names: tuple[str, str],
    title: str,
) -> Picture:
    """Draw images that two models label differently or nearly so, with both probability bars."""

    def paint(figure: Figure) -> None:
        n_columns = 2
        grid = figure.subplots(-(-len(cells) // n_columns), 2 * n_columns, squeeze=False,
                               width_ratios=(1, 2) * n_columns)  # fmt: skip
        for axes in grid.flat:
            axes.axis("off")
        for cell, (picture, bars) in zip(cells, grid.reshape(-1, 2), strict=False):
            picture.imshow(cell.image, cmap="gray", vmin=0, vmax=255)
            picture.set_title(f"{cell.index}: {cell.true_name}", fontsize=8)
            _paint_pair(bars, cell, labels)
        from matplotlib.patches import Patch

        handles = [Patch(color=c, label=n) for c, n in zip((BLUE, ORANGE), names, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
        figure.suptitle(title, fontsize=9)

    return _draw(path, (9, 1.15 * -(-len(cells) // 2) + 1), paint)


def _paint_pair(axes: Any, cell: Difference, labels: Sequence[str]) -> None:
    both = np.stack(cell.probabilities)  # (2, C)
    shown = np.argsort(-both.max(axis=0))[:N_SHOWN_CLASSES]
    places = np.arange(len(shown))
    axes.axis("on")
    for row, (color, shift) in zip(both, ((BLUE, -0.2), (ORANGE, 0.2)), strict=True):
        axes.barh(places + shift, row[shown], 0.38, color=color)
    axes.set_yticks(places, [labels[index] for index in shown], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], [])
    axes.invert_yaxis()


def prediction_grid(
    path: Path, images: Array, names: Sequence[str], true_names: Sequence[str]
) -> Picture:
    """Draw the seed's 5 x 3 grid: title `Label?`, wrong ones in red with the true label."""

    def paint(figure: Figure) -> None:
        cells = figure.subplots(GRID_ROWS, GRID_COLUMNS).flat
        for axes, image, name, true_name in zip(cells, images, names, true_names, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            right = name == true_name
            title = f"{name}?" if right else f"{name}?\n(is {true_name})"
            axes.set_title(title, color="black" if right else RED, fontsize=10)
            axes.axis("off")

    return _draw(path, (8.5, 6), paint)


def _draw(path: Path, size_in: tuple[float, float], paint: Callable[[Figure], None]) -> Picture:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return Picture(path, drawn=False)
    figure = Figure(figsize=size_in, dpi=110, layout="constrained")
    paint(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    return Picture(path, drawn=True)
