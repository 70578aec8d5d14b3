"""What a training step is told and gives back, and how autograd computes it for any network.

A network may bring a faster way of its own, as the convnet does: `step_of` picks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn


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

    gradients: in the order, shapes, dtype and memory format of the parameters.
    """

    loss: Tensor
    n_hits: Tensor
    gradients: tuple[Tensor, ...]


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
) -> StepResult:
    """Return loss, hits and gradients of any `model`; `parameters` are its own, in order."""
    if batch.keep is not None:
        raise ValueError("dropout is the network's own business")
    with torch.autocast(batch.x.device.type, dtype, enabled=dtype is not None):
        logits = model(batch.x)
    loss, n_hits, grad = loss_at(logits.detach().to(parameters[0].dtype), batch, n_total)
    weights, grad = list(model.parameters()), grad.to(logits.dtype)
    found = torch.autograd.grad(logits, weights, grad, allow_unused=True, materialize_grads=True)
    return StepResult(loss, n_hits, alike(found, parameters))


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


def alike(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return gradients in their parameters' dtype and memory format, which fused Adam trusts."""
    return tuple(
        g.to(p.dtype) if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
        for g, p in zip(gradients, parameters, strict=True)
    )
