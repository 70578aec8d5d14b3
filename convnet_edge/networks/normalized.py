"""Let a network that was trained on normalised pixels take pixels in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import nn


class Normalized(nn.Module):
    """`network` behind (pixel - mean) / deviation, as one multiplication and one addition.

    mean, deviation: of each channel. A convolution that pads takes neither into its weights.
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        means, deviations = (torch.tensor(v, dtype=torch.float64) for v in (mean, deviation))
        for name, values in (("scale", 1 / deviations), ("offset", -means / deviations)):
            self.register_buffer(name, values.float()[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pixels (N, C, H, W) in [0, 1] to the network's logits."""
        logits: torch.Tensor = self.network(x * self.scale + self.offset)
        return logits
