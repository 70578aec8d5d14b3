"""The seed's convnet, layer for layer and name for name, and what is computed from it.

Source: the PyTorch tutorial "Convolutional Neural Network with PyTorch" that this project
implements. How it is trained, stored or exported is the stages' business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..runtime.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

REFERENCE_BATCH_SIZE = 100  # float64 takes 3.2 s for 10,000 images; at 500 it took 5.5 s
N_CLASSES = 10
CONV_CHANNELS = (32, 64)
HIDDEN_FEATURES = 128


class Convnet(nn.Module):
    """Two convolutions with pooling, then two linear layers; raw logits out.

    Input (N, C, H, W) float in [0, 1], output (N, n_classes). The first linear layer is lazy: it
    takes its width from the first batch, so call `materialize` before anything counts parameters.
    """

    def __init__(
        self,
        conv2d_kernel_size: int = 3,
        *,
        in_channels: int = 1,
        n_classes: int = N_CLASSES,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        first, second, hidden = layer_widths(width)
        self.layer_stack = nn.Sequential(
            nn.Conv2d(in_channels, first, kernel_size=conv2d_kernel_size),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2),
            nn.Conv2d(first, second, kernel_size=conv2d_kernel_size),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2),
            nn.Flatten(),
            nn.LazyLinear(out_features=hidden),
            nn.ReLU(),
            nn.Linear(in_features=hidden, out_features=n_classes),
        )

    @property
    def kernel_size(self) -> int:
        """Side of both convolutions' kernels, in pixels."""
        conv1 = self.layer_stack[0]
        assert isinstance(conv1, nn.Conv2d)
        return conv1.kernel_size[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, C, H, W) to logits (N, n_classes)."""
        logits: torch.Tensor = self.layer_stack(x)
        return logits


def layer_widths(width: float) -> tuple[int, int, int]:
    """Return the channels of both convolutions and the hidden features at that `width`.

    1 is the seed's 32-64-128; 0.5 has half of each, and 3.7 times fewer multiplications.
    """
    first, second = (max(1, round(width * channels)) for channels in CONV_CHANNELS)
    return first, second, max(1, round(width * HIDDEN_FEATURES))


def build_convnet(
    image_shape: tuple[int, int, int],
    *,
    kernel_size: int = 3,
    n_classes: int = N_CLASSES,
    width: float = 1.0,
) -> Convnet:
    """Build a convnet for images (C, H, W) with LazyLinear materialised, weights random.

    Raises:
        InputError: the kernel leaves no pixel of the image after both poolings.
    """
    if feature_sides(image_shape, kernel_size) is None:
        raise InputError(
            f"kernel size {kernel_size} on images of {image_shape[1]} x {image_shape[2]} pixels "
            "leaves nothing after two convolutions and poolings",
            expected="a smaller kernel or larger images",
            next_step="pass --kernel-size 3",
        )
    model = Convnet(kernel_size, in_channels=image_shape[0], n_classes=n_classes, width=width)
    materialize(model, image_shape)
    return model


def materialize(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Give lazy layers their shapes by running one dummy batch of zeros through `model`."""
    with torch.no_grad():
        model(torch.zeros(1, *image_shape))


def feature_sides(image_shape: tuple[int, int, int], kernel_size: int) -> tuple[int, int] | None:
    """Return (height, width) of the last feature map, None if a side vanishes on the way."""
    sides = []
    for side in image_shape[1:]:
        for _ in CONV_CHANNELS:
            side = (side - kernel_size + 1) // 2  # no padding, then pooling by 2
            if side < 1:
                return None
        sides.append(side)
    return sides[0], sides[1]


def needed_sides(image_shape: tuple[int, int, int], kernel_size: int) -> tuple[int, int]:
    """Return (height, width) of the top left part of an image that the logits depend on.

    Pooling floors, so the last rows and columns may reach no output: 26 of 28 pixels at kernel
    size 3. Function and gradients on that crop are those of the whole image.

    Raises:
        ValueError: no feature is left (see `feature_sides`).
    """
    sides = feature_sides(image_shape, kernel_size)
    if sides is None:
        raise ValueError(f"kernel {kernel_size} on {image_shape}")
    height, width = sides
    for _ in CONV_CHANNELS:
        height, width = (2 * side + kernel_size - 1 for side in (height, width))
    return height, width


def count_parameters(model: nn.Module) -> int:
    """Return how many trainable parameters `model` has; lazy layers must be materialised."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def parameter_formula(
    image_shape: tuple[int, int, int],
    *,
    kernel_size: int = 3,
    n_classes: int = N_CLASSES,
    width: float = 1.0,
) -> int:
    """Return the parameter count from layer sizes alone, as the seed derives it.

    (in_channels · k² + 1) · out_channels for a convolution, (in + 1) · out for a linear layer.

    Raises:
        ValueError: no feature is left (see `feature_sides`).
    """
    sides = feature_sides(image_shape, kernel_size)
    if sides is None:
        raise ValueError(f"kernel {kernel_size} on {image_shape}")
    first, second, hidden = layer_widths(width)
    return (
        (image_shape[0] * kernel_size**2 + 1) * first
        + (first * kernel_size**2 + 1) * second
        + (second * sides[0] * sides[1] + 1) * hidden
        + (hidden + 1) * n_classes
    )


def needed_multiplications(
    image_shape: tuple[int, int, int],
    *,
    kernel_size: int = 3,
    n_classes: int = N_CLASSES,
    width: float = 1.0,
) -> tuple[int, ...]:
    """Return each layer's multiplications for one image, counting what reaches the logits.

    conv1, conv2, first and second linear layer; an output that pooling drops is not counted.

    Raises:
        ValueError: no feature is left (see `feature_sides`).
    """
    height, columns = needed_sides(image_shape, kernel_size)
    counts, in_channels = [], image_shape[0]
    first, second, hidden = layer_widths(width)
    for channels in (first, second):
        height, columns = height - kernel_size + 1, columns - kernel_size + 1
        counts.append(height * columns * kernel_size**2 * in_channels * channels)
        height, columns, in_channels = height // 2, columns // 2, channels
    return (*counts, second * height * columns * hidden, hidden * n_classes)


def compute_logits(model: nn.Module, images: Array, dtype: torch.dtype) -> Array:
    """Return what `model` gives for uint8 `images` (N, H, W), computed by PyTorch in `dtype`.

    Runs on the model's device and leaves the model in its dtype and in eval mode.
    """
    model.eval()
    original = next(model.parameters()).dtype
    device = next(model.parameters()).device
    model.to(dtype)
    parts = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), REFERENCE_BATCH_SIZE):
                batch = torch.from_numpy(images[start : start + REFERENCE_BATCH_SIZE].copy())
                x = batch[:, None].to(device).to(torch.float32) / 255
                parts.append(model(x.to(dtype)).cpu())
    finally:
        model.to(original)
    logits: Array = torch.cat(parts).numpy()
    return logits


def reference_logits(model: Convnet, images: Array) -> tuple[Array, Array]:
    """Return PyTorch's logits (N, C) on `images`, in float64 and in float32."""
    exact, rounded = (compute_logits(model, images, t) for t in (torch.float64, torch.float32))
    return exact, rounded


def hidden_activity(model: Convnet, images: Array) -> Array:
    """Return (N, hidden) bool: which units behind the first linear layer are active."""
    active: Array = compute_logits(model.layer_stack[:9], images, torch.float32) > 0
    return active
