"""Take an object off its background: an even wall or sheet, however the light falls on it.

The background is a bowl, fitted to the outermost pixels: a plane, and light that falls off with the
square of the distance, as a lamp's does. Whether a picture has such a background is for the
contract's decision to say, by `unevenness`. The page repeats this file line by line in JavaScript.
"""

from dataclasses import dataclass

import numpy as np

from .decode import Array

WORK_SIDE = 192  # an object of a third of it still has more pixels than the network takes
N_REFITS = 8
LEAST_SPREAD = 1.0  # grey levels; rounding alone moves a pixel by half of one
LEAST_CONTRAST = 16.0  # grey levels; less is noise, or the light
OBJECT_SHARE = 0.12  # of the contrast; above the 1/9 that a single pixel leaves in a local mean
NO_OBJECT = 1.0
RIDGE = 1e-9  # decides where a line of pixels, or one alone, does not


@dataclass(frozen=True)
class Cleared:
    """An object without its background.

    values: (h', w') float64, 0 to 255, light on dark, cropped to the object. is_inverted: it was
    dark on light. unevenness: the share of the outermost pixels that stand out from the background
    as the object does, 0 to 1; 1 where nothing stands out.
    """

    values: Array
    is_inverted: bool
    unevenness: float


def remove(grey: Array, *, invert: bool | None = None) -> Cleared:
    """Return the object in `grey`, (h, w) float64 of 0 to 255, neither side above `WORK_SIDE`.

    `invert`: the object is what is darker (True) or lighter (False) than the background; None lets
    the one that differs more be it.
    """
    border = np.zeros(grey.shape, bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    terms = _terms(*grey.shape)
    bowl = _fit(terms[:, border], grey[border])
    difference = grey - np.tensordot(bowl, terms, 1)
    darker, lighter = np.maximum(-difference, 0), np.maximum(difference, 0)
    is_inverted = bool((darker**2).sum() > (lighter**2).sum()) if invert is None else invert
    values = darker if is_inverted else lighter
    local = _local_mean(values)
    contrast = float(local.max())
    if contrast < LEAST_CONTRAST:
        return Cleared(values, is_inverted, NO_OBJECT)
    faintest = OBJECT_SHARE * contrast
    unevenness = float((np.abs(difference[border]) >= faintest).mean())
    rows, columns = (np.flatnonzero((local >= faintest).any(axis)) for axis in (1, 0))
    cropped = values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Cleared(np.minimum(cropped * (255 / contrast), 255), is_inverted, unevenness)


def _terms(height: int, width: int) -> Array:
    """Return (4, h, w): what a bowl is a sum of, about the middle, 1 at the longer sides."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = ((2 * one - (n - 1)) / max(height, width) for one, n in ((y, height), (x, width)))
    return np.stack([np.ones((height, width)), y, x, y * y + x * x])


def _fit(terms: Array, values: Array) -> Array:
    """Return the terms' (4,) factors: a least squares fit to the (n,) values, refitted.

    Each refit trusts a value less the farther it is from the last bowl (Geman and McClure's
    weights), so that an object that touches the border does not tilt it.
    """
    weights = np.ones(len(values))
    for _ in range(1 + N_REFITS):
        squares = (terms * weights) @ terms.T + RIDGE * weights.sum() * np.eye(len(terms))
        factors: Array = np.linalg.solve(squares, (terms * weights) @ values)
        distances = np.abs(values - factors @ terms)
        spread = max(float((weights * distances).sum() / weights.sum()), LEAST_SPREAD)
        weights = 1 / (1 + (distances / spread) ** 2) ** 2
    return factors


def _local_mean(values: Array) -> Array:
    """Average each pixel with its eight neighbours; beyond the edge its own pixels go on."""
    (height, width), padded = values.shape, np.pad(values, 1, mode="edge")
    nine = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    mean: Array = np.add.reduce(nine) / len(nine)
    return mean
