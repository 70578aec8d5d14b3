"""Train in several processes that torchrun started: PyTorch's own process groups, one sum a step.

Every process holds all images and the same permutation, computes its share of each batch, and makes
the same update, so nothing but gradients is exchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..runtime.errors import InputError, InterruptedRunError
from .launch import Launch, read_launch


def add_up(launch: Launch, tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes of the launch, in one exchange."""
    if launch.size == 1:
        return
    flat = torch.cat([t.to(torch.float32).reshape(-1) for t in tensors])
    _together(dist.all_reduce, flat)
    parts = torch.split(flat, [t.numel() for t in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def _together(exchange: Callable[..., Any], *tensors: Tensor) -> None:
    try:
        exchange(*tensors)
    except RuntimeError as error:
        raise InterruptedRunError(
            f"another process of this run is gone: {str(error).splitlines()[0]}",
            expected=f"all {read_launch().size} processes until the end",
            next_step="run the same command again with --resume",
        ) from error


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the other processes of the torchrun launch, if any: by nccl on CUDA, else gloo."""
    if read_launch().size == 1:
        yield
        return
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if is_cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of this run cannot reach each other: {str(error).splitlines()[0]}",
            expected="the environment that torchrun sets, and a network between the nodes",
            next_step="start with `torchrun --nproc-per-node N cli.py train`",
        ) from error
    try:
        yield
        _together(dist.barrier)  # nobody leaves while another still needs the sums
    finally:
        dist.destroy_process_group()
