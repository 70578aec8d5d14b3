"""Update the convnet's parameters: Adam on all, or Muon on the two large matrices.

Takes gradients, knows nothing of how they came about. State goes out and comes back as plain
tensors, each in its parameter's memory format: fused Adam computes wrongly, without an error, on
state whose format differs (6.5e-3 off after 5 steps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .config import Recipe
from .model import Convnet

Tensor = torch.Tensor
# Newton-Schulz coefficients of https://kellerjordan.github.io/posts/muon/: steep at zero, so that
# five iterations bring singular values into about [0.7, 1.2]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5


class Updater:
    """The optimizers of one run, at a common share of their learning rates."""

    def __init__(self, model: Convnet, recipe: Recipe) -> None:
        self.parameters = list(model.parameters())
        device = self.parameters[0].device
        large = (2, 4) if recipe.muon_learning_rate else ()  # conv2's and the first linear layer's
        self._matrices = [_as_matrix(self.parameters[i]) for i in large]
        self._large = large
        others = [p for i, p in enumerate(self.parameters) if i not in large]
        kind: Any = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
        adam = kind(
            others,
            lr=_rate(recipe.learning_rate, device),
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self._optimizers: dict[str, torch.optim.Optimizer] = {"adam": adam}
        self._rates = {"adam": recipe.learning_rate}
        if recipe.muon_learning_rate:
            self._optimizers["muon"] = Muon(
                self._matrices,
                lr=_rate(recipe.muon_learning_rate, device),
                weight_decay=recipe.weight_decay,
            )
            self._rates["muon"] = recipe.muon_learning_rate

    def set_share(self, share: float) -> None:
        """Set every learning rate to `share` of its recipe's; no host synchronisation on CUDA."""
        for name, optimizer in self._optimizers.items():
            group = optimizer.param_groups[0]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self._rates[name] * share)
            else:
                group["lr"] = self._rates[name] * share

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update the parameters by `gradients`, one for each, in order."""
        for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            if i not in self._large:
                parameter.grad = gradient
        for i, matrix in zip(self._large, self._matrices, strict=True):
            matrix.grad = _rows_last(gradients[i]).reshape(matrix.shape)
        for optimizer in self._optimizers.values():
            optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return the optimizers' state as tensors by name."""
        return {
            f"{name}.{index}.{key}": value
            for name, optimizer in self._optimizers.items()
            for index, entry in optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` gave.

        Raises:
            KeyError, ValueError, RuntimeError: `tensors` is not the state of these parameters.
        """
        for name, optimizer in self._optimizers.items():
            document = optimizer.state_dict()
            for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
                prefix = f"{name}.{index}."
                entry = {
                    key.removeprefix(prefix): _like(value, parameter)
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                if not entry:
                    raise KeyError(f"no state {prefix}*")
                document["state"][index] = entry
            rates = [group["lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(document)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix, as the update of 2-D parameters.

    Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon/. torch.optim.Muon iterates in bfloat16, which
    processors without it emulate, and takes the learning rate as a number, which a CUDA graph
    would freeze; hence our own, in the parameter's dtype.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        lr: float | Tensor,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if gradient is None:
            return
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        nesterov = gradient.add(momentum, alpha=group["momentum"])
        rows, columns = parameter.shape
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(orthogonalize(nesterov).mul_(rate))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix of the same singular vectors whose singular values are about 1.

    Newton-Schulz on the small Gram matrix: each iteration multiplies X by a polynomial of X X', so
    the polynomials are multiplied first and X once at the end; for 128 x 1600 that is 3.4 times
    fewer multiplications than iterating on X.
    """
    rows, columns = matrix.shape
    if rows > columns:
        return orthogonalize(matrix.t()).t()
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    gram = x @ x.t()
    identity = torch.eye(rows, dtype=x.dtype, device=x.device)
    total = identity
    for _ in range(N_ITERATIONS):
        factor = torch.addmm(b * gram, gram, gram, alpha=c).add_(identity, alpha=a)
        total = factor @ total
        gram = factor @ gram @ factor
    result: Tensor = total @ x
    return result


def _as_matrix(parameter: Tensor) -> Tensor:
    """View a weight (out, …) as a 2-D leaf (out, rest) on the same memory.

    Raises:
        RuntimeError: a convolution's weight is not stored channels-last, so no view exists.
    """
    return _rows_last(parameter.detach()).view(len(parameter), -1)


def _rows_last(weight: Tensor) -> Tensor:
    """Return a 4-D weight (K, C, k, k) as (K, k, k, C), the order of channels-last memory."""
    return weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight


def _rate(value: float, device: torch.device) -> float | Tensor:
    """Return a learning rate as a CUDA graph can follow it: a tensor on the GPU."""
    return torch.tensor(value, device=device) if device.type == "cuda" else value


def _like(saved: Tensor, parameter: Tensor) -> Tensor:
    if saved.shape != parameter.shape:
        return saved
    return torch.empty_like(parameter).copy_(saved)
