"""Keep the training images at hand, and make each step's batch from them.

The images stay uint8, on a GPU if it has room for all, else where they are, be it a file; an epoch
is one permutation with the random choices that go with it, drawn before it starts, so that any
share of a batch can be made anywhere, and no step draws anything.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from ..networks.convnet import to_planes
from ..networks.gradients import Batch
from ..runtime.contract import Array
from ..runtime.files import MIB
from ..runtime.measure.accuracy import ImageSet
from .recipes import Recipe

CHUNK_BYTES = 8 * MIB  # of images read at once
ERASED_SHARE = 0.25  # of the images, where that is asked for
GPU_SHARE = 0.5  # of a GPU's free memory that the images may take

# Which images, in which order, and what is done to each; a slice of every tensor makes a batch.
# order: (N,) int64. Where the recipe asks for it, mirrored: (N,) bool; shifts: (N, 2) int64 from 0
# to twice the margin, rows and columns; erased: (N, 4) int64, the first and the end row, the first
# and the end column of a rectangle; keep: (N, hidden) bool.
Choices = dict[str, Tensor]


class TrainingImages:
    """Images and labels to train on, cut to the `sides` (H, W) that reach the logits.

    moments: the means and standard deviations by channel that its batches are normalised by;
    normalization: the same, None where they change nothing.
    are_on_device: whether a batch is made without the host. memory_format: of its pixels.
    """

    def __init__(
        self,
        images: ImageSet,
        recipe: Recipe,
        *,
        sides: tuple[int, int],
        n_classes: int,
        balanced: bool,
        moments: tuple[list[float], list[float]] | None = None,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self._device, self._recipe, self._memory_format = device, recipe, memory_format
        labels = torch.tensor(images.labels)
        self._labels = labels.to(device)
        n_channels = math.prod(images.images.shape[3:])
        if moments is None and recipe.normalize:
            moments = pixel_moments(images.images)
        plain = [0.0] * n_channels, [1.0] * n_channels
        self.normalization = None if moments == plain else moments
        self.moments = means, deviations = moments or plain
        # x / 255, then (x - mean) / deviation, as one multiplication and one addition
        self._scale = self._by_channel([1 / (255 * deviation) for deviation in deviations])
        offsets = [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)]
        self._offset = self._by_channel(offsets) if any(offsets) else None
        # row y holds the probabilities to learn from label y, smoothed as in cross_entropy
        smoothing = recipe.label_smoothing
        targets = torch.eye(n_classes) * (1 - smoothing) + smoothing / n_classes
        self._targets = targets.to(device)
        # of each class, so that all weigh the same and the mean over the images is 1
        counts = labels.bincount(minlength=n_classes)
        shares = len(labels) / (counts.clamp(min=1) * (counts > 0).sum())
        self._weights = shares.to(device, torch.float32) if balanced else None
        self._places = [torch.arange(side, device=device) for side in sides]
        self._images = np.asarray(images.images)  # a memmap without its class: the file stays
        self._margin = round(recipe.shift * min(self._images.shape[1:3]))
        self.are_on_device = device.type != "cpu" and _fits(self._images, device)
        if self.are_on_device:
            self._copies = torch.empty(self._images.shape, dtype=torch.uint8, device=device)
            for part in _chunks(self._images):
                self._copies[part] = torch.from_numpy(np.array(self._images[part])).to(device)

    def _by_channel(self, values: list[float]) -> Tensor:
        return torch.tensor(values, device=self._device)[:, None, None]

    def draw(self, generator: torch.Generator, *, n_hidden: int) -> Choices:
        """Draw one epoch's choices on the CPU: the same on every process, whatever the device."""
        recipe, (n_images, *sides) = self._recipe, self._images.shape[:3]
        order = torch.randperm(n_images, generator=generator)[: round(n_images * recipe.share)]
        choices, n = {"order": order}, len(order)
        if "flip" in recipe.augment:
            choices["mirrored"] = torch.rand(n, generator=generator) < 0.5
        if "shift" in recipe.augment:
            high = 2 * self._margin + 1
            choices["shifts"] = torch.randint(0, high, (n, 2), generator=generator)
        if "erase" in recipe.augment:
            choices["erased"] = _draw_rectangles(n, generator, sides)
        if recipe.dropout:
            choices["keep"] = torch.rand(n, n_hidden, generator=generator) >= recipe.dropout
        return choices

    def batch(self, choices: Choices) -> Batch:
        """Return the batch of `choices`, its pixels scaled and moved as the recipe says."""
        order, keep = choices["order"], choices.get("keep")
        pixels = self._moved(self._gather(order), choices)
        x = to_planes(pixels).to(torch.float32, memory_format=self._memory_format)
        x.mul_(self._scale)
        if self._offset is not None:
            x += self._offset
        if "erased" in choices:
            ends, (rows, columns) = choices["erased"][:, :, None], self._places
            tall = (ends[:, 0] <= rows) & (rows < ends[:, 1])
            wide = (ends[:, 2] <= columns) & (columns < ends[:, 3])
            x.masked_fill_((tall[:, :, None] & wide[:, None])[:, None], 0)
        if keep is not None:
            keep = keep.to(torch.float32) / (1 - self._recipe.dropout)
        labels = self._labels.index_select(0, order)
        weights = None if self._weights is None else self._weights.index_select(0, labels)
        return Batch(x, labels, self._targets.index_select(0, labels), keep, weights)

    def _gather(self, order: Tensor) -> Tensor:
        if self.are_on_device:
            return self._copies.index_select(0, order)
        return torch.from_numpy(self._images.take(order.cpu().numpy(), 0)).to(self._device)

    def _moved(self, pixels: Tensor, choices: Choices) -> Tensor:
        """Return `pixels` (N, H, W) or (N, H, W, 3), moved and cut to the sides."""
        rows, columns = self._places
        if "shifts" not in choices:
            return pixels[:, : len(rows), : len(columns)]
        shifts = choices["shifts"]
        if self._recipe.edge == "black":
            pixels = F.pad(pixels, (0, 0) * (pixels.dim() - 3) + (self._margin,) * 4)
        else:
            shifts = shifts - self._margin
        n, height, width = pixels.shape[:3]
        rows = _reflect(shifts[:, :1] + rows, height - 1)
        columns = _reflect(shifts[:, 1:] + columns, width - 1)
        if "mirrored" in choices:
            columns = torch.where(choices["mirrored"][:, None], width - 1 - columns, columns)
        images = torch.arange(n, device=self._device)
        places = (images[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        # nine times as fast on CPUs as three indices (64 x 96 x 96 x 3)
        moved = pixels.flatten(0, 2).index_select(0, places.flatten())
        return moved.view(*places.shape, *pixels.shape[3:])


def _draw_rectangles(n: int, generator: torch.Generator, sides: Sequence[int]) -> Tensor:
    """Return (N, 4): an eighth to a half of each side anywhere inside, empty where not erased."""
    shares = torch.rand(n, 5, generator=generator)
    asked, ends = shares[:, 4] < ERASED_SHARE, []
    for i, side in enumerate(sides):
        length = (side * (0.125 + 0.375 * shares[:, i])).round() * asked
        first = (shares[:, 2 + i] * (side + 1 - length)).floor()
        ends += [first, first + length]
    return torch.stack(ends, 1).to(torch.int64)


def _reflect(places: Tensor, last: int) -> Tensor:
    return last - (last - places.abs()).abs()


def _fits(images: Array, device: torch.device) -> bool:
    """Tell whether the device has room for all images; only CUDA says what it has."""
    is_cuda = device.type == "cuda"
    return not is_cuda or images.nbytes <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]


def _chunks(images: Array) -> list[slice]:
    size = max(1, CHUNK_BYTES // math.prod(images.shape[1:]))
    return [slice(start, start + size) for start in range(0, len(images), size)]


def pixel_moments(images: Array) -> tuple[list[float], list[float]]:
    """Return each channel's mean and standard deviation over all pixels, in [0, 1].

    Where a channel has one value everywhere, its deviation is given as 1.
    """
    n_channels = math.prod(images.shape[3:])
    counts = np.zeros((n_channels, 256), np.int64)
    for part in _chunks(images):
        for count, values in zip(counts, images[part].reshape(-1, n_channels).T, strict=True):
            count += np.bincount(values, minlength=256)
    levels, means, deviations = np.arange(256) / 255, [], []
    for count in counts:
        means.append(float(count @ levels / count.sum()))
        deviations.append(float(count @ (levels - means[-1]) ** 2 / count.sum()) ** 0.5 or 1.0)
    return means, deviations
