"""Choose the number format of a run's convolutions and products: what is faster here.

What a format does to the weights is the step's business.
"""

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ..networks.checkpoint import Amount
from ..runtime.measure import machine
from .distributed import add_up

if TYPE_CHECKING:
    from .run import Run

Format = Literal["float32", "bf16"]

FORMATS: tuple[Format, ...] = ("float32", "bf16")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
N_ROUNDS = 3  # of a step in each format, after one that is not counted


@dataclass(frozen=True)
class Timing:
    """What a step takes in each format: the median of a few, taken in turn."""

    float32_step_ms: Amount
    bf16_step_ms: Amount

    def __post_init__(self) -> None:
        if not min(self.float32_step_ms, self.bf16_step_ms) > 0:
            raise ValueError("a step that took no time")

    @property
    def speedup(self) -> float:
        """How many steps bf16 takes while float32 takes one."""
        return self.float32_step_ms / self.bf16_step_ms


def has_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies in bfloat16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(BF16_FLAGS & set(machine.passport()["isa"]))


def choose(run: "Run") -> None:
    """Let `run` use the faster format, which the leading process times; its state stays as it was.

    Without bfloat16 in the hardware there is nothing to time.
    """
    run.use(FORMATS[0])
    if not has_bf16(run.device) or not run.recipe.epochs:
        return
    run.timing = measure(run)
    is_faster = torch.tensor(float(run.launch.leads and run.timing.speedup > 1))
    votes = is_faster.to(run.device)
    add_up(run.launch, (votes,))
    run.use(FORMATS[int(votes.item())])


def measure(run: "Run") -> Timing:
    """Take steps of `run` in each format, in turn, and put back what they changed."""
    before = {name: tensor.clone() for name, tensor in run.state().items()}
    drawn = run.draw(torch.Generator())
    (start, stop), *_ = run.split(len(drawn["order"]))
    ours = slice(*run.launch.share(start, stop))
    choices = {name: tensor[ours].to(run.device) for name, tensor in drawn.items()}
    times: dict[Format, list[float]] = {one: [] for one in FORMATS}
    with run.seeded():
        for _ in range(1 + N_ROUNDS):
            for one in FORMATS:
                run.use(one)
                started = time.perf_counter_ns()
                run.step(choices, stop - start)
                run.loss_sum.item()  # reading it waits for the device
                times[one].append((time.perf_counter_ns() - started) / 1e6)
    for name, tensor in run.state().items():
        tensor.copy_(before[name])
    return Timing(*(statistics.median(times[one][1:]) for one in FORMATS))
