"""Convolutions by other calls where oneDNN's own are slow on CPUs: the same sums, found sooner.

Milliseconds are of torch 2.15 on two cores; benchmarks/LOG.md has more sizes.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

# one product pays off over few places, as of 64 images of 6 x 6, for many multiplications
MOST_PLACES, FEWEST_PRODUCTS = 2304, 16e6
Pair = tuple[int, int]


def windows(x: Tensor, weight: Tensor, stride: Pair = (1, 1)) -> Tensor:
    """Return what each place of a convolution sees: (N, H', W', kernel height x width x C).

    x: (N, C, H, W), padded. weight: of the convolution, for its kernel's size.
    """
    n, channels, height, width = x.shape
    k_height, k_width = weight.shape[2:]
    # channels-last, neighbours in a row lie side by side: a window is runs of k_width * C numbers
    pixels = x.contiguous(memory_format=torch.channels_last)
    row = width * channels
    places = (height - k_height) // stride[0] + 1, (width - k_width) // stride[1] + 1
    size = (n, *places, k_height, k_width * channels)
    steps = (height * row, stride[0] * row, stride[1] * channels, row, 1)
    return pixels.as_strided(size, steps).flatten(3)


def weight_gradient(grad: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of a convolution's `weight` as one matrix product.

    grad: (N, out, H', W'), that of its outputs. seen: the `windows` that they are made from.
    """
    rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
    out_channels, channels, *kernel_size = weight.shape
    matrix = (rows.t() @ seen.flatten(0, 2)).view(out_channels, *kernel_size, channels)
    return matrix.permute(0, 3, 1, 2)


class ProductsOverFewPlaces(TorchFunctionMode):
    """Find the gradient of convolutions' weights as matrix products, where there are few places.

    For bfloat16: that of 3 x 3 over (64, 512, 3, 3) to as many channels takes 5.7 ms then, not 43
    (AMX). In float32 whole networks gain nothing.
    """

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Take convolutions, and leave all else as it is."""
        return (_convolve if func is F.conv2d else func)(*args, **(kwargs or {}))


def _convolve(
    input: Tensor,  # noqa: A002 - conv2d's names
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    is_plain = groups == 1 and _pair(dilation) == (1, 1) and not isinstance(padding, str)
    if not (is_plain and input.device.type == "cpu" and input.dim() == 4 and weight.requires_grad):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    steps, borders = cast(Pair, _pair(stride)), cast(Pair, _pair(padding))
    sides = zip(input.shape[2:], borders, weight.shape[2:], steps, strict=True)
    n_places = len(input) * math.prod((side + 2 * b - k) // step + 1 for side, b, k, step in sides)
    if n_places > MOST_PLACES or n_places * weight.numel() < FEWEST_PRODUCTS:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled("cpu"):  # which does not see into what follows
        dtype = torch.get_autocast_dtype("cpu")
        input, weight = input.to(dtype), weight.to(dtype)  # noqa: A001
        bias = None if bias is None else bias.to(dtype)
    return cast(Tensor, _Convolution.apply(input, weight, bias, steps, borders))


class _Convolution(torch.autograd.Function):
    """conv2d whose weights' gradient is a matrix product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), stride, padding = ctx.saved_tensors, ctx.stride, ctx.padding
        input_too, _, bias_too, *_ = ctx.needs_input_grad
        grad_x, _, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1,
            (input_too, False, False),
        )  # fmt: skip
        height, width = padding
        seen = windows(F.pad(x, (width, width, height, height)), weight, stride)
        grad_bias = grad.sum((0, 2, 3)) if bias_too else None
        return grad_x, weight_gradient(grad, seen, weight), grad_bias, None, None


def pad_first(model: nn.Module, images: Tensor) -> None:
    """Let depthwise layers pad what is narrower than their window before they slide it.

    The gradient of 5 x 5 over (62, 576, 3, 3) takes 11 ms then, not 36 (AVX2). images:
    (N, C, H, W), to see what reaches each.
    """

    def look(layer: nn.Conv2d, taken: tuple[Tensor, ...]) -> None:
        if any(side < k for side, k in zip(taken[0].shape[2:], layer.kernel_size, strict=True)):
            layer.padding_mode = "constant"  # type: ignore[assignment]  # which it hands to F.pad

    hooks = [
        one.register_forward_pre_hook(look)
        for one in model.modules()
        if isinstance(one, nn.Conv2d) and one.groups > 1 and one.padding_mode == "zeros"
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
