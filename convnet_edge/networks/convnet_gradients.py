"""One training step written out: loss and gradients of the convnet, without autograd.

Function and gradients are those of `Convnet` with mean cross-entropy, in an order that does less:
one forward pass serves loss, gradients and accuracy; max-pooling comes before ReLU (they commute,
and the ReLU has a quarter to do); nothing is kept or zeroed that a step does not need.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from .convolutions import weight_gradient, windows
from .gradients import Batch, StepResult, alike, loss_at

aten = torch.ops.aten
CHANNELS_LAST = torch.channels_last


@torch.no_grad()
def loss_and_gradients(
    parameters: Sequence[Tensor], batch: Batch, *, n_total: int, dtype: torch.dtype | None = None
) -> StepResult:
    """Return loss, hits and gradients of the convnet with these `parameters` on `batch`.

    parameters: `Convnet.parameters()` in order. The rest is as in `gradients.LossAndGradients`.
    """
    weights = [p if dtype is None else p.to(dtype) for p in parameters]
    conv1, bias1, conv2, bias2, linear1, bias3, linear2, bias4 = weights
    x = batch.x.to(conv1.dtype)
    first = _convolve(x, conv1, bias1)
    second = _convolve(first.pooled, conv2, bias2, by_product=_products_are_faster(x.device))
    features = second.pooled.flatten(1)
    hidden = torch.addmm(bias3, features, linear1.t()).relu_()
    keep = None if batch.keep is None else batch.keep.to(hidden.dtype)
    kept = hidden if keep is None else hidden * keep
    logits = torch.addmm(bias4, kept, linear2.t()).to(parameters[0].dtype)

    loss, n_hits, grad = loss_at(logits, batch, n_total)
    grad = grad.to(hidden.dtype)
    grad_linear2, grad_bias4 = grad.t() @ kept, grad.sum(0)
    grad = grad @ linear2
    if keep is not None:
        grad *= keep
    grad = aten.threshold_backward(grad, hidden, 0)
    grad_linear1, grad_bias3 = grad.t() @ features, grad.sum(0)
    grad = (grad @ linear1).view(second.pooled.shape).contiguous(memory_format=CHANNELS_LAST)
    grad, grad_conv2, grad_bias2 = _convolve_backward(grad, second, conv2)
    _, grad_conv1, grad_bias1 = _convolve_backward(grad, first, conv1, input_too=False)
    gradients = (grad_conv1, grad_bias1, grad_conv2, grad_bias2,
                 grad_linear1, grad_bias3, grad_linear2, grad_bias4)  # fmt: skip
    return StepResult(loss, n_hits, alike(gradients, parameters))


def _products_are_faster(device: torch.device) -> bool:
    """Tell whether conv2 is a matter for the matrix product: with AVX2, a step is 4 % faster.

    oneDNN's convolutions are nearer to the peak with AVX-512; elsewhere nothing was measured.
    """
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


class _Layer(NamedTuple):
    """What the way back needs of a convolution with pooling.

    pooled: relu(max_pool2d(outputs, 2)). places: where each maximum was. columns: of a matrix
    product, the `windows` that the outputs are made from.
    """

    x: Tensor
    outputs: Tensor
    pooled: Tensor
    places: Tensor
    columns: Tensor | None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, *, by_product: bool = False) -> _Layer:
    columns = None
    if by_product:
        columns = windows(x, weight)
        matrix = weight.permute(0, 2, 3, 1).flatten(1)
        outputs = torch.addmm(bias, columns.flatten(0, 2), matrix.t())
        outputs = outputs.view(*columns.shape[:3], len(weight)).permute(0, 3, 1, 2)
    else:
        outputs = F.conv2d(x, weight, bias)
    pooled, places = aten.max_pool2d_with_indices(outputs, (2, 2), (2, 2))
    return _Layer(x, outputs, pooled.relu_(), places, columns)


def _convolve_backward(
    grad: Tensor, layer: _Layer, weight: Tensor, *, input_too: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the layer's input, empty unless wanted, of its weight and bias.

    A bias takes the sum of its channel's gradients, the same before as after they are spread over
    the pooling windows: a quarter of the numbers to add.
    """
    grad = aten.threshold_backward(grad, layer.pooled, 0)
    grad_bias = grad.sum((0, 2, 3))
    grad = aten.max_pool2d_with_indices_backward(
        grad, layer.outputs, (2, 2), (2, 2), (0, 0), (1, 1), False, layer.places
    )
    wanted = (input_too, layer.columns is None, False)
    grad_x, grad_weight, _ = aten.convolution_backward(
        grad, layer.x, weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, wanted
    )
    if layer.columns is not None:
        grad_weight = weight_gradient(grad, layer.columns, weight)
    return grad_x, grad_weight, grad_bias
