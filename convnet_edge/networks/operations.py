"""Count what an image costs a network: in one pass, and in one step of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .memory import copied


@dataclass(frozen=True)
class Operations:
    """Of one image. n_multiplications: in convolutions, linear layers and attention, forward.

    n_training: floating-point operations of a step. Forward, gradient of the weights and gradient
    of the input cost a layer's multiplications each, an addition with every one; the first layer's
    input needs no gradient.
    """

    n_multiplications: int
    n_training: int


def count(model: nn.Module, image_shape: Sequence[int]) -> Operations:
    """Count by running a copy of `model` on one image (C, H, W).

    Its layers are asked, not PyTorch's operations: torch.utils.flop_counter loads Triton, which
    takes 0.3 s and prints of leaks. So products that no layer makes are left out.
    """
    model = copied(model).float().eval()  # one image has no statistics
    counts: list[int] = []

    def add(layer: nn.Module, _: Any, result: Any) -> None:
        if isinstance(layer, nn.MultiheadAttention):
            *_, n_tokens, width = result[0].shape
            counts.append(4 * n_tokens * width**2 + 2 * n_tokens**2 * width)
        else:
            counts.append(result.numel() * layer.get_parameter("weight")[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            layer.register_forward_hook(add)
    with torch.no_grad():
        model(torch.zeros(1, *image_shape, device=next(model.parameters()).device))
    n, first = sum(counts), sum(counts[:1])
    return Operations(n, 2 * (3 * n - first))
