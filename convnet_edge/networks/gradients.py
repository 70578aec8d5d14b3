"""What a training step is told and gives back, and how autograd computes it for any network.

A network may bring a faster way of its own, as the convnet does: `step_of` picks.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .convolutions import ProductsOverFewPlaces


@dataclass(frozen=True)
class Batch:
    """What one step sees. x: (N, C, H, W) float. labels: (N,) int64, for counting hits.

    targets: (N, n_classes) float, the probabilities to learn; each row adds up to 1.
    keep: (N, hidden) factors of the convnet's hidden features, 0 or 1 / (1 - rate), None without
    dropout. weights: (N,) factors of each image's loss, None for 1.
    """

    x: Tensor
    labels: Tensor
    targets: Tensor
    keep: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class StepResult:
    """loss: () summed cross-entropy over n_total. n_hits: (n_classes,) int64, before any update.

    gradients: in the order, shapes, dtype and memory format of the parameters; None of one that
    does not learn.
    """

    loss: Tensor
    n_hits: Tensor
    gradients: tuple[Tensor | None, ...]


# with (parameters, batch, n_total=, dtype=): n_total are the images of the whole step, of which the
# batch may be one process's share: losses and gradients of the shares add up to the whole step's.
# dtype is that of convolutions and products, None for the parameters' own; softmax, loss and
# gradients are always in the parameters' dtype
LossAndGradients = Callable[..., StepResult]


def step_of(model: nn.Module) -> LossAndGradients:
    """Return the network's own `loss_and_gradients` if it brings one, else autograd's."""
    own: LossAndGradients | None = getattr(model, "loss_and_gradients", None)
    return own or partial(by_autograd, model)


def by_autograd(
    model: nn.Module,
    parameters: Sequence[Tensor],
    batch: Batch,
    *,
    n_total: int,
    dtype: torch.dtype | None = None,
    n_processes: int = 1,
) -> StepResult:
    """Return loss, hits and gradients of any `model`; `parameters` are its own, in order.

    n_processes: of a model in DistributedDataParallel, whose gradients are the mean over them,
    where their sum is wanted.
    """
    if batch.keep is not None:
        raise ValueError("dropout is the network's own business")
    in_dtype = torch.autocast(batch.x.device.type, dtype, enabled=dtype is not None)
    with in_dtype, nullcontext() if dtype is None else ProductsOverFewPlaces():
        logits = model(batch.x)
    loss, n_hits, grad = loss_at(logits.detach().to(parameters[0].dtype), batch, n_total)
    logits.backward(grad.to(logits.dtype) * n_processes)
    found = [_take_gradient(p) for p in model.parameters()]
    return StepResult(loss, n_hits, alike(found, parameters))


def _take_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return the gradient, which is then gone; zeros of a parameter that was not used."""
    found, parameter.grad = parameter.grad, None
    unused = found is None and parameter.requires_grad
    return torch.zeros_like(parameter) if unused else found


def loss_at(logits: Tensor, batch: Batch, n_total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss and hits as in `StepResult`, and the loss's gradient at the `logits` (N, C)."""
    weights = None if batch.weights is None else batch.weights[:, None]
    targets = batch.targets if weights is None else batch.targets * weights
    log_p = logits.log_softmax(1)
    loss = log_p.flatten().dot(targets.flatten()) / -n_total
    hits = (logits.argmax(1) == batch.labels).to(torch.int64)
    n_hits = hits.new_zeros(logits.shape[1]).index_add_(0, batch.labels, hits)
    grad = log_p.exp_().sub_(batch.targets).div_(n_total)
    return loss, n_hits, grad if weights is None else grad * weights


def alike(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Return gradients in their parameters' dtype and memory format, which fused Adam trusts."""
    return tuple(
        g if g is None or (g.dtype, g.stride()) == (p.dtype, p.stride()) else _like(g, p)
        for g, p in zip(gradients, parameters, strict=True)
    )


def _like(gradient: Tensor, parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter).copy_(gradient)
