"""Update a network's parameters: Adam on all, or Muon on the inner weights.

Which of them learn is the run's business: one without a gradient stays as it is.

What an update remembers lies in its parameter's memory format and must be restored in place: fused
Adam computes wrongly, without an error, on state whose format differs (6.5e-3 off after 5 steps).
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from .recipes import Recipe

# PyTorch's defaults, as in the tutorial
ADAM: Any = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}
MOMENTUM = 0.95
# Newton-Schulz coefficients of https://kellerjordan.github.io/posts/muon/: steep at zero, so that
# five iterations bring singular values into about [0.7, 1.2]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5
# Of the shorter side of a matrix that Muon updates: the products grow with its cube. The one of
# 576 x 1024 alone took as long as all gradients of mobilenet_v3_small at 28 x 28
MAX_SIDE = 256


class Adam:
    """PyTorch's fused Adam, AdamW where there is a weight decay, on some of a run's parameters.

    In its functional form: the Optimizer around it takes longer than the update of so few numbers.
    places: of its parameters among all.
    """

    def __init__(self, parameters: Sequence[Tensor], places: Sequence[int]) -> None:
        self._places, self._parameters = places, [parameters[i] for i in places]
        self.means = [torch.zeros_like(p) for p in self._parameters]
        self.squares = [torch.zeros_like(p) for p in self._parameters]
        self.n_steps = [torch.zeros((), device=p.device) for p in self._parameters]

    def step(
        self, gradients: Sequence[Tensor | None], rate: float | Tensor, weight_decay: float
    ) -> None:
        """Update its parameters, unless they have no gradients."""
        found = [g for i in self._places if (g := gradients[i]) is not None]
        if found:
            adam(
                self._parameters,
                found,
                self.means,
                self.squares,
                [],
                self.n_steps,
                fused=True,
                decoupled_weight_decay=weight_decay > 0,
                lr=rate,
                weight_decay=weight_decay,
                **ADAM,
            )


class Updater:
    """Adam and Muon on one run's parameters, at a common share of their learning rates.

    Muon is momentum, then the nearest orthogonal matrix, as the update of weights seen as matrices.
    Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon/. torch.optim.Muon iterates in bfloat16, which
    processors without it emulate, and takes the learning rate as a number, which a CUDA graph
    would freeze; hence our own, in the parameter's dtype.
    head: the places of the parameters that do not take the recipe's `body_rate`.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, head: Collection[int] = ()) -> None:
        learning = [i for i, p in enumerate(model.parameters()) if p.requires_grad]
        parameters = [p.detach() for p in model.parameters()]
        self.weight_decay = recipe.weight_decay
        weights = [i for i in learning if parameters[i].dim() > 1]
        inner = weights[1:-1] if recipe.muon_learning_rate else []
        self._inner = [i for i in inner if min(_as_matrix(parameters[i]).shape) <= MAX_SIDE]
        others = [i for i in learning if i not in self._inner]
        parts = [i for i in others if i in head], [i for i in others if i not in head]
        self._adams = [Adam(parameters, part) for part in parts]
        rate = recipe.learning_rate
        self._whole_rates = (rate, rate * recipe.body_rate, recipe.muon_learning_rate)
        self._rates: list[float | Tensor] = list(self._whole_rates)
        device = parameters[0].device
        if device.type == "cuda":  # a CUDA graph follows a tensor
            self._rates = [torch.tensor(rate, device=device) for rate in self._whole_rates]
        self._matrices = [_as_matrix(parameters[i]) for i in self._inner]
        self._momenta = [torch.zeros_like(matrix) for matrix in self._matrices]

    def set_share(self, share: float) -> None:
        """Set every learning rate to `share` of its recipe's; no host synchronisation on CUDA."""
        for i, whole in enumerate(self._whole_rates):
            if isinstance(rate := self._rates[i], Tensor):
                rate.fill_(whole * share)
            else:
                self._rates[i] = whole * share

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Update the parameters by `gradients`, one for each, in order and in its memory format."""
        *rates, muon_rate = self._rates
        for part, rate in zip(self._adams, rates, strict=True):
            part.step(gradients, rate, self.weight_decay)
        for i, matrix, momentum in zip(self._inner, self._matrices, self._momenta, strict=True):
            if (found := gradients[i]) is None:
                continue
            gradient = _as_matrix(found)
            momentum.mul_(MOMENTUM).add_(gradient)
            nesterov = gradient.add(momentum, alpha=MOMENTUM)
            rows, columns = matrix.shape
            matrix.mul_(1 - muon_rate * self.weight_decay)
            matrix.sub_(orthogonalize(nesterov).mul_(muon_rate * max(1.0, rows / columns) ** 0.5))

    def state(self) -> dict[str, Tensor]:
        """Return by name, PyTorch's for Adam, the tensors it remembers, not copies of them."""
        remembered = {
            "adam.{}.exp_avg": [t for part in self._adams for t in part.means],
            "adam.{}.exp_avg_sq": [t for part in self._adams for t in part.squares],
            "adam.{}.step": [t for part in self._adams for t in part.n_steps],
            "muon.{}.momentum": self._momenta,
        }
        return {
            name.format(i): t for name, tensors in remembered.items() for i, t in enumerate(tensors)
        }


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


def _as_matrix(weight: Tensor) -> Tensor:
    """View a weight (out, …), a convolution's stored channels-last, as (out, rest)."""
    rows = weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight
    return rows.view(len(weight), -1)
