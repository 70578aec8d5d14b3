"""Draw the pictures of a data set: some of every class, and pairs of pictures that look alike.

Takes pixels and words; which pictures are alike is the data room's to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from ..runtime.measure.stats import Array
from .pictures import INK, RED, draw, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..runtime.measure.accuracy import ImageSet

N_CLASSES, N_A_CLASS = 20, 10
N_PAIRS, N_ACROSS = 24, 4
THUMBNAIL, GAP = 96, 8  # pixels


@dataclass(frozen=True)
class Side:
    """A picture of a pair: (H, W) or (H, W, 3) uint8; the part, the class, the file's name."""

    pixels: Array
    part: str
    label: str
    name: str


@draw
def contact_sheet(
    figure: Figure, class_labels: Sequence[str], parts: Mapping[str, ImageSet]
) -> None:
    """Draw up to 10 pictures of each of the first 20 classes, and how many each part has."""
    n_classes, shown = len(class_labels), class_labels[:N_CLASSES]
    filled = {name: part for name, part in parts.items() if len(part)}
    counts = {name: np.bincount(part.labels, minlength=n_classes) for name, part in filled.items()}
    names = []
    for index, label in enumerate(shown):
        numbers = [f"{counts[name][index]:,} {name}" for name in filled]
        names.append("\n".join([short_name(label), *numbers]))
    width, height = 2.2 + 0.72 * N_A_CLASS, 0.72 * len(shown) + 0.8
    figure.set_size_inches(width, height)
    figure.set_layout_engine("none")  # it lets labels of a picture of fixed aspect run out
    axes = figure.add_axes((2.1 / width, 0.4 / height, 1 - 2.2 / width, 1 - 0.8 / height))
    _show(axes, [_some(index, filled.values()) for index in range(len(shown))], N_A_CLASS)
    axes.set_yticks((np.arange(len(shown)) + 0.5) * (THUMBNAIL + GAP), names, fontsize=8)
    axes.set_title(f"{sum(map(len, filled.values())):,} pictures of {n_classes:,} classes")
    if n_classes > len(shown):
        axes.set_xlabel(f"and {n_classes - len(shown):,} more classes")


@draw
def pair_sheet(
    figure: Figure, pairs: Sequence[tuple[Side, Side, float | None]], *, n_pairs: int
) -> None:
    """Draw 24 of `pairs` side by side: equal ones first, across parts first, those in red.

    Their numbers are distances in levels of grey, None of equal pixels. n_pairs: how many there
    are, drawn or not.
    """
    shown = sorted(pairs, key=_urgency)[:N_PAIRS]
    n_across = min(len(shown), N_ACROSS)
    n_rows = -(-len(shown) // N_ACROSS)
    figure.set_size_inches(max(4, 3 * n_across), 2.3 * n_rows + 0.7)
    cells = list(figure.subplots(n_rows, n_across, squeeze=False).flat)
    for axes, (one, other, distance) in zip(cells, shown, strict=False):
        _show(axes, [[one.pixels, other.pixels]], 2)
        captions = [
            "\n".join(map(short_name, (side.part, side.label, side.name))) for side in (one, other)
        ]
        axes.set_xticks((np.arange(2) + 0.5) * (THUMBNAIL + GAP), captions, fontsize=7)
        how = "equal pixels" if distance is None else f"{distance:.1f} levels apart"
        where = ", two parts" * (one.part != other.part)
        where += ", two classes" * (one.label != other.label)
        axes.set_title(how + where, fontsize=8, color=RED if where else INK)
    for axes in cells[len(shown) :]:
        axes.axis("off")
    more = f", {len(shown)} of them here" * (n_pairs > len(shown))
    s = "s" * (n_pairs != 1)
    figure.suptitle(f"{n_pairs:,} pair{s} of equal or nearly equal pictures{more}", fontsize=10)


def _urgency(pair: tuple[Side, Side, float | None]) -> tuple[bool, bool, bool, float]:
    one, other, distance = pair
    is_near, is_one_part = distance is not None, one.part == other.part
    return is_near, is_one_part, one.label == other.label, distance or 0.0


def _some(label: int, parts: Iterable[ImageSet]) -> list[Array]:
    """Return up to 10 pictures of a class, evenly spaced in the first parts that have any."""
    found: list[Array] = []
    for part in parts:
        indices = np.flatnonzero(part.labels == label)
        spaced = np.linspace(0, len(indices) - 1, min(len(indices), N_A_CLASS - len(found)))
        found += [part.images[index] for index in indices[spaced.astype(int)]]
    return found


def _show(axes: Axes, rows: Sequence[Sequence[Array]], n_columns: int) -> None:
    """Show pictures in rows, each fitted into a square cell of one canvas."""
    cell = THUMBNAIL + GAP
    canvas = Image.new("RGB", (cell * n_columns, cell * len(rows)), "white")
    for row, pictures in enumerate(rows):
        for column, pixels in enumerate(pictures):
            picture, square = Image.fromarray(pixels).convert("RGB"), (THUMBNAIL, THUMBNAIL)
            fitted = ImageOps.pad(picture, square, Image.Resampling.BOX, "white")
            canvas.paste(fitted, (cell * column + GAP // 2, cell * row + GAP // 2))
    axes.imshow(canvas)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])
