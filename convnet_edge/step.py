"""One training step written out: loss and gradients of the convnet, without autograd.

Same function and same gradients as `Convnet` with mean cross-entropy, from the same parameters, in
an order that does less: one forward pass serves loss, gradients and accuracy; max-pooling comes
before ReLU (they commute, and the ReLU has a quarter to do); nothing is kept or zeroed that a step
does not need. Which images make a batch, and what is done with the gradients, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor
aten = torch.ops.aten


@dataclass(frozen=True)
class Batch:
    """What one step sees. x: (N, C, H, W) float. labels: (N,) int64.

    keep: (N, hidden) factors of the hidden features, 0 or 1 / (1 - rate), None without dropout.
    """

    x: Tensor
    labels: Tensor
    keep: Tensor | None = None


@dataclass(frozen=True)
class StepResult:
    """loss: () summed cross-entropy over n_total. n_correct: () int64, before any update.

    gradients: in the order, shapes, dtype and memory format of the parameters.
    """

    loss: Tensor
    n_correct: Tensor
    gradients: tuple[Tensor, ...]


@torch.no_grad()
def loss_and_gradients(
    parameters: Sequence[Tensor],
    batch: Batch,
    *,
    n_total: int,
    label_smoothing: float = 0.0,
    dtype: torch.dtype | None = None,
) -> StepResult:
    """Return loss, hits and gradients of the convnet with these `parameters` on `batch`.

    parameters: `Convnet.parameters()` in order. n_total: images of the whole step, of which `batch`
    may be one process's share: losses and gradients of the shares add up to the whole step's.
    dtype: of convolutions and linear layers, None for the parameters' own; softmax, loss and the
    returned gradients are always in the parameters' dtype.
    """
    weights = [p if dtype is None else p.to(dtype) for p in parameters]
    conv1, bias1, conv2, bias2, linear1, bias3, linear2, bias4 = weights
    x = batch.x.to(conv1.dtype)
    outputs1, pooled1, places1 = _conv_pool(x, conv1, bias1)
    outputs2, pooled2, places2 = _conv_pool(pooled1, conv2, bias2)
    features = pooled2.flatten(1)
    hidden = torch.addmm(bias3, features, linear1.t()).relu_()
    kept = hidden if batch.keep is None else hidden * batch.keep.to(hidden.dtype)
    logits = torch.addmm(bias4, kept, linear2.t()).to(parameters[0].dtype)

    loss, n_correct, grad = _cross_entropy(logits, batch.labels, n_total, label_smoothing)
    grad = grad.to(hidden.dtype)
    grad_linear2, grad_bias4 = grad.t() @ kept, grad.sum(0)
    grad = grad @ linear2
    if batch.keep is not None:
        grad *= batch.keep.to(grad.dtype)
    grad = aten.threshold_backward(grad, hidden, 0)
    grad_linear1, grad_bias3 = grad.t() @ features, grad.sum(0)
    grad = (grad @ linear1).view(pooled2.shape).contiguous(memory_format=torch.channels_last)
    grad = _pool_backward(grad, pooled2, outputs2, places2)
    grad, grad_conv2, grad_bias2 = _conv_backward(grad, pooled1, conv2, input_too=True)
    grad = _pool_backward(grad, pooled1, outputs1, places1)
    _, grad_conv1, grad_bias1 = _conv_backward(grad, x, conv1, input_too=False)
    gradients = (grad_conv1, grad_bias1, grad_conv2, grad_bias2,
                 grad_linear1, grad_bias3, grad_linear2, grad_bias4)  # fmt: skip
    alike = tuple(_stored_like(g, p) for g, p in zip(gradients, parameters, strict=True))
    return StepResult(loss, n_correct, alike)


def _stored_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient in the parameter's dtype and memory format, which fused Adam trusts."""
    if gradient.stride() == parameter.stride():
        return gradient.to(parameter.dtype)
    return torch.empty_like(parameter).copy_(gradient)


def _cross_entropy(
    logits: Tensor, labels: Tensor, n_total: int, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss over n_total, the hits, and the gradient (N, n_classes) of the loss.

    label_smoothing: the share of each target that is spread evenly over all classes, as in
    torch.nn.functional.cross_entropy.
    """
    log_p = logits.log_softmax(1)
    picked, spread = labels[:, None], label_smoothing / logits.shape[1]
    loss = log_p.gather(1, picked).sum() * (label_smoothing - 1)
    if spread:
        loss -= spread * log_p.sum()
    n_correct = (logits.argmax(1) == labels).sum()
    grad = log_p.exp_().sub_(spread)
    grad.scatter_add_(1, picked, grad.new_full((1, 1), label_smoothing - 1).expand_as(picked))
    return loss / n_total, n_correct, grad.div_(n_total)


def _conv_pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return conv2d's outputs, relu(max_pool2d(outputs, 2)), and where each maximum was."""
    outputs = aten.convolution(x, weight, bias, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    pooled, places = aten.max_pool2d_with_indices(outputs, (2, 2), (2, 2))
    return outputs, pooled.relu_(), places


def _pool_backward(grad: Tensor, pooled: Tensor, outputs: Tensor, places: Tensor) -> Tensor:
    grad = aten.threshold_backward(grad, pooled, 0)
    result: Tensor = aten.max_pool2d_with_indices_backward(
        grad, outputs, (2, 2), (2, 2), (0, 0), (1, 1), False, places
    )
    return result


def _conv_backward(grad: Tensor, x: Tensor, weight: Tensor, *, input_too: bool) -> Any:
    return aten.convolution_backward(
        grad, x, weight, (weight.shape[0],), (1, 1), (0, 0), (1, 1), False, (0, 0), 1,
        (input_too, True, True),
    )  # fmt: skip
