"""Keep the training images on the device, and make each step's batch from them.

The images stay uint8; an epoch is one permutation with the random choices that go with it, drawn
before it starts, so that any share of a batch can be made anywhere, and no step draws anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from ..data.fashion_mnist import CLASS_LABELS
from ..networks.convnet_gradients import Batch
from ..runtime.measure.accuracy import ImageSet
from .recipes import Recipe

Tensor = torch.Tensor


class Choices(NamedTuple):
    """Which images, in which order, and what is done to each; a slice of it makes a batch.

    order: (N,) int64. mirrored: (N,) bool. shifts: (N, 2) int64 in 0, 1, 2: rows and columns of the
    image padded by 1. keep: (N, hidden) bool. None where the recipe does not ask for it.
    """

    order: Tensor
    mirrored: Tensor | None = None
    shifts: Tensor | None = None
    keep: Tensor | None = None

    def part(self, start: int, stop: int) -> Choices:
        """Return the choices of images [start, stop) of the epoch, as views."""
        return self.each(lambda t: t[start:stop])

    def each(self, change: Callable[[Tensor], Tensor]) -> Choices:
        """Return these choices with every tensor changed by `change`."""
        return Choices._make(None if t is None else change(t) for t in self)


def draw_choices(n: int, n_hidden: int, recipe: Recipe, generator: torch.Generator) -> Choices:
    """Draw one epoch's choices on the CPU: the same on every process, whatever the device."""
    order = torch.randperm(n, generator=generator)
    if recipe.share < 1:
        n = round(n * recipe.share)
        order = order[:n]
    mirrored = shifts = keep = None
    if recipe.flip_and_shift:
        mirrored = torch.rand(n, generator=generator) < 0.5
        shifts = torch.randint(0, 3, (n, 2), generator=generator)
    if recipe.dropout:
        keep = torch.rand(n, n_hidden, generator=generator) >= recipe.dropout
    return Choices(order, mirrored, shifts, keep)


class TrainingImages:
    """Images and labels on the device, cut to the `sides` (H, W) that reach the logits."""

    def __init__(
        self, images: ImageSet, recipe: Recipe, *, sides: tuple[int, int], device: torch.device
    ) -> None:
        self.labels = torch.from_numpy(images.labels.copy()).to(device, torch.int64)
        self.mean, self.deviation = pixel_moments(images) if recipe.normalize else (0.0, 1.0)
        # x / 255, then (x - mean) / deviation, as one multiplication and one addition
        self._scale, self._offset = 1 / (255 * self.deviation), -self.mean / self.deviation
        self._targets = target_rows(recipe.label_smoothing).to(device)
        self._dropout = recipe.dropout
        pixels = torch.from_numpy(images.images.copy())
        self._full_width = pixels.shape[2]
        if recipe.flip_and_shift:
            self._pixels = F.pad(pixels, (1, 1, 1, 1)).to(device)
            self._rows, self._columns = (torch.arange(side, device=device) for side in sides)
        else:
            self._pixels = pixels[:, None, : sides[0], : sides[1]].contiguous().to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, choices: Choices) -> Batch:
        """Return the batch of `choices`, its pixels scaled and moved as the recipe says."""
        keep = choices.keep
        if choices.mirrored is not None and choices.shifts is not None:
            x = self._moved(choices.order, choices.mirrored, choices.shifts)
        else:
            x = self._pixels.index_select(0, choices.order)
        x = x.to(torch.float32).mul_(self._scale)
        if self._offset:
            x += self._offset
        if keep is not None:
            keep = keep.to(torch.float32) / (1 - self._dropout)
        labels = self.labels.index_select(0, choices.order)
        return Batch(x, labels, self._targets.index_select(0, labels), keep)

    def _moved(self, order: Tensor, mirrored: Tensor, shifts: Tensor) -> Tensor:
        rows = shifts[:, :1] + self._rows
        columns = shifts[:, 1:] + self._columns
        columns = torch.where(mirrored[:, None], self._full_width + 1 - columns, columns)
        return self._pixels[order[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]


def target_rows(label_smoothing: float) -> Tensor:
    """Return (n_classes, n_classes): row y holds the probabilities to learn from label y.

    label_smoothing: the share of each that is spread evenly over all classes, as in
    torch.nn.functional.cross_entropy.
    """
    n_classes = len(CLASS_LABELS)
    return torch.eye(n_classes) * (1 - label_smoothing) + label_smoothing / n_classes


def pixel_moments(images: ImageSet) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels, in [0, 1]."""
    counts = np.bincount(images.images.ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    return mean, float(counts @ (levels - mean) ** 2 / counts.sum()) ** 0.5
