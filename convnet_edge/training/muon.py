"""Update the convnet's parameters: Adam on all, or Muon on the two large matrices.

Takes gradients, knows nothing of how they came about. What an update remembers lies in its
parameter's memory format and must be restored in place: fused Adam computes wrongly, without an
error, on state whose format differs (6.5e-3 off after 5 steps).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.adam import adam

from ..networks.convnet import Convnet
from .recipes import Recipe

Tensor = torch.Tensor
LARGE = (2, 4)  # places of conv2's and the first linear layer's weight among the parameters
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8  # PyTorch's defaults, as in the tutorial
MOMENTUM = 0.95
# Newton-Schulz coefficients of https://kellerjordan.github.io/posts/muon/: steep at zero, so that
# five iterations bring singular values into about [0.7, 1.2]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5


class Updater:
    """The rules by which one run's parameters change, at a common share of their learning rates."""

    def __init__(self, model: Convnet, recipe: Recipe) -> None:
        parameters = [p.detach() for p in model.parameters()]
        decay, rate = recipe.weight_decay, recipe.muon_learning_rate
        large = LARGE if rate else ()
        others = tuple(i for i in range(len(parameters)) if i not in large)
        small = Adam([parameters[i] for i in others], recipe.learning_rate, decay)
        self._rules: list[tuple[tuple[int, ...], Adam | Muon]] = [(others, small)]
        if large:
            self._rules.append((large, Muon([parameters[i] for i in large], rate, decay)))

    def set_share(self, share: float) -> None:
        """Set every learning rate to `share` of its recipe's; no host synchronisation on CUDA."""
        for _, rule in self._rules:
            rule.rate.set_share(share)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update the parameters by `gradients`, one for each, in order and in its memory format."""
        for places, rule in self._rules:
            rule.step([gradients[i] for i in places])

    def state(self) -> dict[str, Tensor]:
        """Return by name the tensors that the rules remember, not copies of them."""
        return {name: t for _, rule in self._rules for name, t in rule.state().items()}


class Rate:
    """A learning rate that a CUDA graph can follow: a tensor on the GPU, a number elsewhere."""

    def __init__(self, whole: float, device: torch.device) -> None:
        self.whole = whole
        self.now: float | Tensor = whole
        if device.type == "cuda":
            self.now = torch.tensor(whole, device=device)

    def set_share(self, share: float) -> None:
        """Make it `share` of the whole rate."""
        if isinstance(self.now, Tensor):
            self.now.fill_(self.whole * share)
        else:
            self.now = self.whole * share


class Adam:
    """PyTorch's fused Adam, AdamW where there is a weight decay.

    Its functional form: the Optimizer around it takes longer than the update of so few numbers.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        device = self.parameters[0].device
        self.rate, self.weight_decay = Rate(rate, device), weight_decay
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.n_steps = [torch.zeros((), device=device) for _ in self.parameters]

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Update the parameters."""
        adam(
            self.parameters,
            gradients,
            self.means,
            self.squares,
            [],
            self.n_steps,
            fused=True,
            decoupled_weight_decay=self.weight_decay > 0,
            amsgrad=False,
            beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1],
            lr=self.rate.now,
            weight_decay=self.weight_decay,
            eps=ADAM_EPSILON,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers, by PyTorch's names for it."""
        kinds = {"exp_avg": self.means, "exp_avg_sq": self.squares, "step": self.n_steps}
        return {
            f"adam.{i}.{kind}": t for kind, tensors in kinds.items() for i, t in enumerate(tensors)
        }


class Muon:
    """Momentum, then the nearest orthogonal matrix, as the update of weights seen as matrices.

    Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon/. torch.optim.Muon iterates in bfloat16, which
    processors without it emulate, and takes the learning rate as a number, which a CUDA graph
    would freeze; hence our own, in the parameter's dtype.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float, weight_decay: float) -> None:
        self.matrices = [_as_matrix(p) for p in parameters]
        self.momenta = [torch.zeros_like(matrix) for matrix in self.matrices]
        self.rate, self.weight_decay = Rate(rate, self.matrices[0].device), weight_decay

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Update the parameters."""
        for matrix, momentum, weight in zip(self.matrices, self.momenta, gradients, strict=True):
            gradient = _as_matrix(weight)
            momentum.mul_(MOMENTUM).add_(gradient)
            nesterov = gradient.add(momentum, alpha=MOMENTUM)
            rows, columns = matrix.shape
            rate = self.rate.now * max(1.0, rows / columns) ** 0.5
            matrix.mul_(1 - self.rate.now * self.weight_decay)
            matrix.sub_(orthogonalize(nesterov).mul_(rate))

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers."""
        return {f"muon.{i}.momentum": t for i, t in enumerate(self.momenta)}


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
    """View a weight (out, …) as (out, rest) on the same memory.

    Raises:
        RuntimeError: a convolution's weight is not stored channels-last, so no view exists.
    """
    rows = weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight
    return rows.view(len(weight), -1)
