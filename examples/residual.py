"""A small residual network, as one's own file may hold it.

convnet-edge train --data letters --arch residual.py:Residual
"""

import torch
from torch import nn


def convolve(channels: int) -> list[nn.Module]:
    """Return a convolution that keeps the size, and its normalisation."""
    return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]


class Block(nn.Module):
    """Two convolutions, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolve(channels), nn.ReLU(), *convolve(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return torch.relu(x + self.body(x))


class Residual(nn.Module):
    """Images (N, C, H, W) in, logits (N, num_classes) out; it is told classes and channels."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(in_channels, width, 3, stride=2, padding=1), nn.ReLU(), Block(width)),
            *(nn.MaxPool2d(2), Block(width), nn.MaxPool2d(2), Block(width)),
            *(nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(num_classes)),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        logits: torch.Tensor = self.layers(images)
        return logits
