"""Say which weights learn: the head first, then all; and which statistics stay, or are settled.

The learning rates below the head are the updater's business, and when all learn is the run's.
"""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Images a process, below which fine-tuning keeps the statistics that came with the weights: those
# of fewer images are too noisy. ResNet-50's error on ImageNet at 32, 16, 8, 4 and 2 of them: 23.6,
# 23.7, 24.8, 27.3, 34.7 % (Wu and He, "Group Normalization", 2018, table 2)
FEWEST_FOR_STATISTICS = 16


def find_head(model: nn.Module, replaced: Sequence[str], images: Tensor) -> tuple[int, ...]:
    """Return the places among the parameters of those that tell the classes apart.

    They are of the layer of the `replaced` ones, which did not fit the classes, else of the last
    one that `images` (N, C, H, W) pass through.
    """
    layers = [name for name, one in model.named_modules() if [*one.parameters(recurse=False)]]
    passed = [replaced[-1].rpartition(".")[0]] if replaced else []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: passed.append(name))
        for name in layers * (not replaced)
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    names = [name for name, _ in model.named_parameters()]
    return tuple(i for i, name in enumerate(names) if name.rpartition(".")[0] == passed[-1])


def let_learn(model: nn.Module, places: Collection[int]) -> None:
    """Let the parameters at these places learn, and no others; training mode."""
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i in places)
    model.train()


def has_statistics(model: nn.Module) -> bool:
    """Tell whether it normalises by statistics of the batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def hold_statistics(model: nn.Module) -> None:
    """Let batch normalisation take the statistics that it has, and not change them."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@torch.no_grad()
def settle_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Take the statistics of batch normalisation anew, as the mean over `batches` (N, C, H, W).

    Those kept on the way are of weights that are gone: with the momentum of torchvision's
    mobilenet_v3, 0.01, ten epochs of 33 steps left 48 % in training and 5 % on other images.
    Source: Wu and Johnson, "Rethinking Batch in BatchNorm", 2021, section 3.
    """
    normalising = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not normalising:
        return
    momenta = [module.momentum for module in normalising]
    model.eval()
    for module in normalising:
        module.reset_running_stats()
        module.momentum = None  # the mean over all
        module.train()
    for images in batches:
        model(images)
    for module, momentum in zip(normalising, momenta, strict=True):
        module.momentum = momentum
    model.eval()
