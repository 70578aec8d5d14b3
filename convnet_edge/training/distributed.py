"""Train in several processes that torchrun started: PyTorch's own process groups.

Every process holds all images and the same permutation, computes its share of each batch, and makes
the same update, so nothing but gradients is exchanged: those of a written-out step in one sum,
autograd's by DistributedDataParallel, while it goes back through the network. What a network keeps
of the images that it saw, as batch normalisation does, is of each process's own; the first's is
everyone's before each step.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..networks.gradients import LossAndGradients, StepResult, by_autograd
from ..networks.memory import copied
from ..runtime.errors import InputError, first_line
from .launch import Launch, LostProcessError, read_launch

OF_THE_CONNECTION = ("gloo", "nccl", "connection", "peer")  # in what a lost process makes it raise


def add_up(launch: Launch, tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes of the launch, in one exchange."""
    if launch.size == 1:
        return
    flat = torch.cat([t.to(torch.float32).reshape(-1) for t in tensors])
    _together(dist.all_reduce, flat)
    parts = torch.split(flat, [t.numel() for t in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def in_parallel(model: nn.Module, launch: Launch, images: Tensor) -> LossAndGradients:
    """Return the step of any `model` whose gradients are the sum over the launch's processes.

    images: (N, C, H, W) float, some that it takes. The step raises an InputError if the network
    leaves out other parameters than it does with them.
    """
    devices = [images.device] if images.device.type == "cuda" else None
    leaves_out = _leaves_out_parameters(model, images)
    parallel = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=leaves_out)
    step = partial(by_autograd, parallel, n_processes=launch.size)

    def loss_and_gradients(*arguments: Any, **options: Any) -> StepResult:
        try:
            return step(*arguments, **options)
        except RuntimeError as error:
            if any(word in str(error).lower() for word in OF_THE_CONNECTION):
                raise _gone(str(error)) from error
            if "finished reduction" not in str(error):
                raise  # the network's own
            raise InputError(
                f"{type(model).__name__} uses other parameters from one step to the next",
                expected="a network whose processes all have the same gradients to add",
                next_step="train it in one process",
            ) from error

    return loss_and_gradients


def _leaves_out_parameters(model: nn.Module, images: Tensor) -> bool:
    """Tell whether some parameters that could learn have no part in the logits of `images`."""
    model = copied(model)
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        model(images).sum().backward()
    return any(p.requires_grad and p.grad is None for p in model.parameters())


def _together(exchange: Callable[..., Any], *tensors: Tensor) -> None:
    try:
        exchange(*tensors)
    except RuntimeError as error:
        raise _gone(str(error)) from error


def _gone(reason: str) -> LostProcessError:
    return LostProcessError(
        f"another process of this run is gone: {reason.splitlines()[0]}",
        expected=f"all {read_launch().size} processes until the end",
        next_step="run the same command again with --resume",
    )


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
            f"the processes of this run cannot reach each other: {first_line(error)}",
            expected="the environment that torchrun sets, and a network between the nodes",
            next_step="start with `torchrun --nproc-per-node N cli.py train`",
        ) from error
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
        _together(dist.barrier)  # nobody leaves while another still needs the sums
    finally:
        dist.destroy_process_group()
        _on_sigterm(before)


@contextmanager
def heeding_sigterm(launch: Launch) -> Iterator[None]:
    """Let SIGTERM raise a LostProcessError: torchrun sends it when another process has ended.

    Once it came, or an error leaves the block, it is ignored as long as the processes are `joined`:
    it would end this one before that is said.
    """
    if launch.size == 1:
        yield
        return

    def end(*_: Any) -> None:
        _on_sigterm(signal.SIG_IGN)
        raise _gone("SIGTERM came, which torchrun sends then")

    before = signal.getsignal(signal.SIGTERM)
    _on_sigterm(end)
    try:
        yield
    finally:
        _on_sigterm(signal.SIG_IGN)
    _on_sigterm(before)


def _on_sigterm(do: Any) -> None:
    """Set what SIGTERM does; Python lets the main thread do so alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, do or signal.SIG_DFL)
