"""Draw the pictures: training curve, parity, latency, confusion, predictions.

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

from .runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

GRID_COLUMNS, GRID_ROWS = 5, 3
BLUE, RED, GREY = "#2563a8", "#c0392b", "#7f8790"
INSTALL = 'pip install "convnet-edge[plot]"'


@dataclass(frozen=True)
class Picture:
    """Where a picture is, or would be: drawn is False where matplotlib is not installed."""

    path: Path
    drawn: bool


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
