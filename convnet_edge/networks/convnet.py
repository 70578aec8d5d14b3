"""The tutorial's convnet, layer for layer and name for name, and what is computed from it.

Source: the PyTorch tutorial "Convolutional Neural Network with PyTorch". How it is trained, stored
or exported is the stages' business.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..runtime.contract import Array
from ..runtime.options import require
from . import MAX_PARAMETERS
from .convnet_gradients import loss_and_gradients
from .memory import copied, into_fast_format

# float64 takes 3.2 s for 10,000 images of 28 x 28 in batches of 100; at 500 it took 5.5 s
REFERENCE_BATCH_PIXELS = 100 * 28 * 28
FEWEST_A_BATCH = 32  # in float32: 128 images of 96 x 96 by mobilenet_v3_small took 223 ms, by 8 314
MAX_KERNEL_SIZE, MAX_WIDTH = 9, 4
WIDTHS = (32, 64, 128)  # channels of both convolutions, hidden features


@dataclass(frozen=True)
class Architecture:
    """The sizes that make one convnet, and what follows from them before anything is built.

    image_shape: (C, H, W). kernel_size: side of both convolutions' kernels, in pixels. width: 1 is
    the tutorial's 32-64-128; 0.5 has half of each, and 3.7 times fewer multiplications.

    Raises:
        InputError: a size is none, the kernel leaves no pixel of the image after both poolings, or
            there are too many parameters.
    """

    image_shape: tuple[int, int, int] = (1, 28, 28)
    kernel_size: int = 3
    n_classes: int = 10
    width: float = 1.0

    def __post_init__(self) -> None:
        """Check that the sizes make a network, and that a feature is left."""
        require(
            type(self.kernel_size) is int and 1 <= self.kernel_size <= MAX_KERNEL_SIZE,
            f"kernel_size={self.kernel_size}"[:80],
            f"a whole number from 1 to {MAX_KERNEL_SIZE}",
            "--arch-option",
        )
        require(
            type(self.width) in (int, float) and 0 < self.width <= MAX_WIDTH,
            f"width={self.width}"[:80],
            f"a number above 0 and at most {MAX_WIDTH}",
            "--arch-option",
        )
        require(
            min(self.feature_sides) >= 1,
            f"kernel size {self.kernel_size} on images of {self.image_shape[1]} x "
            f"{self.image_shape[2]} pixels leaves nothing after two convolutions and poolings",
            "a smaller kernel or larger images",
            "--arch-option kernel_size=N or --image-size",
        )
        require(
            self.n_parameters <= MAX_PARAMETERS,
            "images of {} x {} pixels give a network of {:,} parameters".format(
                *self.image_shape[1:], self.n_parameters
            ),
            f"at most {MAX_PARAMETERS:,}",
            "--image-size or --arch-option width=NUMBER",
        )

    @property
    def widths(self) -> tuple[int, int, int]:
        """The channels of both convolutions, and the hidden features."""
        first, second, hidden = (max(1, round(self.width * n)) for n in WIDTHS)
        return first, second, hidden

    @property
    def feature_sides(self) -> tuple[int, int]:
        """The (height, width) of the last feature map; below 1 where a side vanishes on the way."""
        height, width = self.image_shape[1:]
        for _ in range(2):  # no padding, then pooling by 2
            height, width = ((side - self.kernel_size + 1) // 2 for side in (height, width))
        return height, width

    @property
    def needed_sides(self) -> tuple[int, int]:
        """The (height, width) of the top left part of an image that the logits depend on.

        Pooling floors, so the last rows and columns may reach no output: 26 of 28 pixels at kernel
        size 3. Function and gradients on that crop are those of the whole image.
        """
        height, width = self.feature_sides
        for _ in range(2):
            height, width = (2 * side + self.kernel_size - 1 for side in (height, width))
        return height, width

    @property
    def n_parameters(self) -> int:
        """The trainable parameters by formula: the weights, and a bias for each channel."""
        first, second, hidden = self.widths
        area, (height, width) = self.kernel_size**2, self.feature_sides
        layers = (
            (area * self.image_shape[0], first),
            (area * first, second),
            (second * height * width, hidden),
            (hidden, self.n_classes),
        )
        return sum((n_inputs + 1) * channels for n_inputs, channels in layers)


class Convnet(nn.Module):
    """Two convolutions with pooling, then two linear layers; raw logits out.

    Input (N, C, H, W) float in [0, 1], output (N, n_classes). Its weights are random.
    """

    loss_and_gradients = staticmethod(loss_and_gradients)

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        first, second, hidden = architecture.widths
        self.layer_stack = nn.Sequential(
            nn.Conv2d(architecture.image_shape[0], first, architecture.kernel_size),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2),
            nn.Conv2d(first, second, architecture.kernel_size),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2),
            nn.Flatten(),
            nn.LazyLinear(out_features=hidden),
            nn.ReLU(),
            nn.Linear(in_features=hidden, out_features=architecture.n_classes),
        )
        with torch.no_grad():  # the lazy layer takes its width from a first batch
            self(torch.zeros(1, *architecture.image_shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, C, H, W) to logits (N, n_classes)."""
        logits: torch.Tensor = self.layer_stack(x)
        return logits


def make(
    num_classes: int,
    in_channels: int,
    image_size: int | tuple[int, int],
    kernel_size: int = 3,
    width: float = 1.0,
) -> Convnet:
    """Return the convnet with random weights, as `--arch convnet` names it."""
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Convnet(Architecture((in_channels, *sides), kernel_size, num_classes, width))


@torch.no_grad()
def fold_normalization(model: Convnet, mean: Sequence[float], deviation: Sequence[float]) -> None:
    """Change conv1 so that it takes pixels in [0, 1] where it took (pixel - mean) / deviation.

    mean, deviation: of each channel. Exact, since the convolution pads nothing:
    w' = w / deviation, b' = b - Σ mean Σ w / deviation; computed in float64, rounded once.
    """
    conv1 = model.layer_stack[0]
    assert isinstance(conv1, nn.Conv2d)
    assert conv1.bias is not None
    means, deviations = (conv1.weight.new_tensor(v, dtype=torch.float64) for v in (mean, deviation))
    weight = conv1.weight.double() / deviations[:, None, None]
    conv1.bias.copy_(conv1.bias.double() - (means * weight.sum((2, 3))).sum(1))
    conv1.weight.copy_(weight)


def to_planes(images: torch.Tensor) -> torch.Tensor:
    """View pixels (N, H, W) or (N, H, W, 3) as the network takes them, (N, C, H, W)."""
    return images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)


def compute_logits(model: nn.Module, images: Array, dtype: torch.dtype) -> Array:
    """Return what a copy of `model` in eval mode gives for uint8 `images`, in `dtype`.

    Within autocast, convolutions and products are in that format.
    images: (N, H, W) or (N, H, W, 3), which may be larger than memory: they are read in batches.
    """
    model, device = copied(model).to(dtype).eval(), next(model.parameters()).device
    fewest = FEWEST_A_BATCH if dtype == torch.float32 else 1
    size, parts = max(fewest, REFERENCE_BATCH_PIXELS // math.prod(images.shape[1:3])), []

    def planes(start: int, stop: int) -> torch.Tensor:
        batch = to_planes(torch.from_numpy(np.array(images[start:stop])))
        return (batch.to(device).to(torch.float32) / 255).to(dtype)

    with torch.inference_mode():
        memory_format = into_fast_format(model, planes(0, 2))
        for start in range(0, len(images), size):
            batch = planes(start, start + size).contiguous(memory_format=memory_format)
            parts.append(model(batch).to(dtype).cpu())
    logits: Array = torch.cat(parts).numpy()
    return logits


def reference_logits(model: nn.Module, images: Array) -> tuple[Array, Array]:
    """Return PyTorch's logits (N, n_classes) on `images`, in float64 and in float32."""
    exact, rounded = (compute_logits(model, images, t) for t in (torch.float64, torch.float32))
    return exact, rounded


def hidden_activity(model: Convnet, images: Array) -> Array:
    """Return (N, hidden) bool: which units behind the first linear layer are active."""
    active: Array = compute_logits(model.layer_stack[:9], images, torch.float32) > 0
    return active
