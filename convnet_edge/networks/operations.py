"""Count what an image costs a network: in one pass, and in one step of training."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Operations:
    """Of one image. n_multiplications: in convolutions and matrix products, forward.

    n_training: floating-point operations of a step. Forward, gradient of the weights and gradient
    of the input cost a layer's multiplications each, an addition with every one; the first layer's
    input needs no gradient.
    """

    n_multiplications: int
    n_training: int


def count(model: nn.Module, image_shape: Sequence[int]) -> Operations:
    """Count by running a copy of `model` on one image (C, H, W)."""
    model = copy.deepcopy(model).float().eval()  # one image has no statistics
    images = torch.zeros(1, *image_shape, device=next(model.parameters()).device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(images)
    n = counter.get_total_flops() // 2
    first = next(
        name for name, one in model.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)
    )
    of_first = counter.get_flop_counts().get(f"{type(model).__name__}.{first}", {})
    return Operations(n, 2 * (3 * n - sum(of_first.values()) // 2))
