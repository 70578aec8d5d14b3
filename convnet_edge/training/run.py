"""One training run: its state, and the step that changes it.

Which steps are taken, and what is kept of them, is the loop's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..networks.convnet import Architecture, Convnet, build_convnet, fold_normalization
from ..networks.convnet_gradients import StepResult, loss_and_gradients
from ..runtime.measure.accuracy import ImageSet
from .batches import Choices, TrainingImages
from .distributed import Processes
from .muon import Updater
from .options import TrainOptions
from .record import EpochMetrics

Tensor = torch.Tensor
# one update from the images that the choices name, this process's share of so many images
Step = Callable[[Choices, int], None]

EAGER_STEPS = 3  # before a CUDA graph is captured: libraries set themselves up in the first ones


class Run:
    """The state that steps and epochs change, and what they need for it.

    training: what decides the weights. images: those to train on, and those held out. epochs: the
    complete ones whose state is kept. time_s: seconds by what took them.
    """

    def __init__(
        self,
        options: TrainOptions,
        training: dict[str, Any],
        images: tuple[ImageSet, ImageSet],
        *,
        device: torch.device,
        processes: Processes,
    ) -> None:
        used, self.held_out = images
        self.options, self.recipe, self.training = options, options.plan, training
        self.device, self.processes = device, processes
        self.architecture = Architecture(
            (1, *used.images.shape[1:]), options.kernel_size, width=options.width
        )
        self.images = TrainingImages(
            used, self.recipe, sides=self.architecture.needed_sides, device=device
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model = build_convnet(self.architecture)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p.detach() for p in self.model.parameters()]
        self.dtype = torch.bfloat16 if options.precision == "bf16" else None
        self.updater = Updater(self.model, self.recipe)
        self.choices = torch.Generator().manual_seed(options.seed)
        self.loss_sum = torch.zeros((), device=device)
        self.n_correct = torch.zeros((), device=device, dtype=torch.int64)
        self.average = [p.clone() for p in self.parameters] if self.recipe.average else None
        self.epochs: tuple[EpochMetrics, ...] = ()
        self.time_s: dict[str, float] = {}

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds of the block to what `what` took."""
        started = time.perf_counter_ns()
        yield
        taken = (time.perf_counter_ns() - started) / 1e9
        self.time_s[what] = self.time_s.get(what, 0.0) + taken

    def state(self) -> dict[str, Tensor]:
        """Return by name the tensors that decide how the run goes on, not copies of them."""
        return {
            **{f"model.{name}": t for name, t in self.model.state_dict().items()},
            **{f"average.{i}": t for i, t in enumerate(self.average or ())},
            **self.updater.state(),
        }

    def finished_model(self) -> Convnet:
        """Return the network as it is handed over: averaged weights, normalisation folded in."""
        model = build_convnet(self.architecture)
        with torch.no_grad():
            weights = self.average or self.parameters
            for parameter, weight in zip(model.parameters(), weights, strict=True):
                parameter.copy_(weight)
        fold_normalization(model, self.images.mean, self.images.deviation)
        return model.to(self.device).eval()

    def gradients(self, choices: Choices, n_total: int) -> StepResult:
        """Return this process's share of loss, hits and gradients of a step of `n_total` images."""
        if not len(choices.order):  # more processes than images in the last batch
            zeros = tuple(torch.zeros_like(p) for p in self.parameters)
            return StepResult(
                torch.zeros_like(self.loss_sum), torch.zeros_like(self.n_correct), zeros
            )
        batch = self.images.batch(choices)
        return loss_and_gradients(self.parameters, batch, n_total=n_total, dtype=self.dtype)


def make_step(run: Run) -> Step:
    """Return the step as this run's device takes it fastest."""
    return GraphedStep(run) if run.device.type == "cuda" else partial(take_step, run)


def take_step(run: Run, choices: Choices, n_total: int) -> None:
    """Update the weights once; add loss and hits to the run's sums."""
    result = run.gradients(choices, n_total)
    run.processes.add_up((*result.gradients, result.loss, result.n_correct))
    run.updater.step(result.gradients)
    run.loss_sum += result.loss
    run.n_correct += result.n_correct
    if run.average is not None:
        torch._foreach_lerp_(run.average, run.parameters, 1 - run.recipe.average)


class GraphedStep:
    """The same step as one CUDA graph, captured once; uneven batches run without it."""

    def __init__(self, run: Run) -> None:
        self._run, self._n_eager = run, 0
        self._captured: tuple[torch.cuda.CUDAGraph, Choices] | None = None

    def __call__(self, choices: Choices, n_total: int) -> None:
        """Take the step; the first ones eagerly, then by capture and replay."""
        whole = len(choices.order) == n_total == self._run.recipe.batch_size
        if not whole or self._n_eager < EAGER_STEPS:  # several processes: each has a part only
            self._n_eager += 1
            take_step(self._run, choices, n_total)
            return
        if self._captured is None:
            self._captured = torch.cuda.CUDAGraph(), choices.each(torch.clone)
            with torch.cuda.graph(self._captured[0]):
                take_step(self._run, self._captured[1], n_total)
        graph, inputs = self._captured
        for mine, theirs in zip(inputs, choices, strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        graph.replay()
