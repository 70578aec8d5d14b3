"""Put the normalisation that a network was trained with inside it: a device knows pixels alone."""

from collections.abc import Sequence

import torch
from torch import nn


class Normalized(nn.Module):
    """A network that takes pixels in [0, 1] where `network` takes (pixel - mean) / deviation.

    Input (N, C, H, W) float. mean, deviation: of each of the C channels; computed in float64 and
    rounded once, to one multiplication and one addition a pixel.
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        pairs = list(zip(mean, deviation, strict=True))
        scale, offset = [1 / d for _, d in pairs], [-m / d for m, d in pairs]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("offset", torch.tensor(offset)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pixels (N, C, H, W) to logits (N, n_classes)."""
        logits: torch.Tensor = self.network(x * self.scale + self.offset)
        return logits
