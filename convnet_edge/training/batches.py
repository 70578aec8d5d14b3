"""Keep the training images on the device, and make each step's batch from them.

The images stay uint8; an epoch is one permutation with the random choices that go with it, drawn
before it starts, so that any share of a batch can be made anywhere, and no step draws anything.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ..data.fashion_mnist import CLASS_LABELS
from ..networks.convnet_gradients import Batch
from ..runtime.measure.accuracy import ImageSet
from .recipes import Recipe

# Which images, in which order, and what is done to each; a slice of every tensor makes a batch.
# order: (N,) int64. Where the recipe asks for it, mirrored: (N,) bool; shifts: (N, 2) int64 in
# 0, 1, 2, rows and columns of the image padded by 1; keep: (N, hidden) bool.
Choices = dict[str, Tensor]


def draw_choices(n: int, n_hidden: int, recipe: Recipe, generator: torch.Generator) -> Choices:
    """Draw one epoch's choices on the CPU: the same on every process, whatever the device."""
    order = torch.randperm(n, generator=generator)[: round(n * recipe.share)]
    choices, n = {"order": order}, len(order)
    if recipe.flip_and_shift:
        choices["mirrored"] = torch.rand(n, generator=generator) < 0.5
        choices["shifts"] = torch.randint(0, 3, (n, 2), generator=generator)
    if recipe.dropout:
        choices["keep"] = torch.rand(n, n_hidden, generator=generator) >= recipe.dropout
    return choices


class TrainingImages:
    """Images and labels on the device, cut to the `sides` (H, W) that reach the logits.

    moments: the mean and standard deviation that its batches are normalised by.
    """

    def __init__(
        self, images: ImageSet, recipe: Recipe, *, sides: tuple[int, int], device: torch.device
    ) -> None:
        self._labels = torch.from_numpy(images.labels.copy()).to(device, torch.int64)
        self.moments = mean, deviation = pixel_moments(images) if recipe.normalize else (0.0, 1.0)
        # x / 255, then (x - mean) / deviation, as one multiplication and one addition
        self._scale, self._offset = 1 / (255 * deviation), -mean / deviation
        # row y holds the probabilities to learn from label y, smoothed as in cross_entropy
        n_classes, smoothing = len(CLASS_LABELS), recipe.label_smoothing
        targets = torch.eye(n_classes) * (1 - smoothing) + smoothing / n_classes
        self._targets, self._dropout = targets.to(device), recipe.dropout
        pixels = torch.from_numpy(images.images.copy())
        self._full_width = pixels.shape[2]
        if recipe.flip_and_shift:
            self._pixels = F.pad(pixels, (1, 1, 1, 1)).to(device)
            self._rows, self._columns = (torch.arange(side, device=device) for side in sides)
        else:
            self._pixels = pixels[:, None, : sides[0], : sides[1]].contiguous().to(device)

    def batch(self, choices: Choices) -> Batch:
        """Return the batch of `choices`, its pixels scaled and moved as the recipe says."""
        order, keep = choices["order"], choices.get("keep")
        if "shifts" in choices:
            rows = choices["shifts"][:, :1] + self._rows
            columns = choices["shifts"][:, 1:] + self._columns
            mirrored = self._full_width + 1 - columns
            columns = torch.where(choices["mirrored"][:, None], mirrored, columns)
            x = self._pixels[order[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]
        else:
            x = self._pixels.index_select(0, order)
        x = x.to(torch.float32).mul_(self._scale)
        if self._offset:
            x += self._offset
        if keep is not None:
            keep = keep.to(torch.float32) / (1 - self._dropout)
        labels = self._labels.index_select(0, order)
        return Batch(x, labels, self._targets.index_select(0, labels), keep)


def pixel_moments(images: ImageSet) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels, in [0, 1]."""
    counts = np.bincount(images.images.ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    return mean, float(counts @ (levels - mean) ** 2 / counts.sum()) ** 0.5
