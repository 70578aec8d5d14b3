"""How a network lies in memory: copies of it, its fastest layout, and whether there is enough."""

import copy
from typing import Any, TypeVar, cast

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copied(model: Network) -> Network:
    """Return a copy that shares nothing, of whatever a network keeps beside its weights.

    Tensors that a run left in a module, as torch.nn.utils.weight_norm and spectral_norm do or who
    wants to look at them later, are copied as numbers: torch refuses those with a history.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    made = [one for one in held if isinstance(one, torch.Tensor) and not one.is_leaf]
    return copy.deepcopy(model, {id(one): one.detach().clone() for one in made})


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a processor or a GPU has no more memory to give."""
    is_told = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return is_told or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def into_fast_format(model: nn.Module, images: torch.Tensor) -> torch.memory_format:
    """Lay weights out as convolutions are fastest, if `model` runs so; return how, for its images.

    It does not if it takes what a convolution gives for rows in memory, as `x.view(len(x), -1)`.
    images: some (N, C, H, W). Leaves eval mode.
    """
    found, lay_out = torch.channels_last, cast(Any, model.eval()).to
    lay_out(memory_format=found)
    try:
        with torch.no_grad():
            model(images.contiguous(memory_format=found))
    except RuntimeError:
        found = torch.contiguous_format
        lay_out(memory_format=found)
    return found
