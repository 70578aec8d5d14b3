"""One training run: its state, and the step that changes it.

Which steps are taken, and what is kept of them, is the loop's business.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data import fashion_mnist as data
from ..networks.checkpoint import Amount
from ..networks.convnet import Architecture, Convnet, fold_normalization
from ..networks.convnet_gradients import loss_and_gradients
from ..runtime.measure import machine
from ..runtime.options import require
from .batches import Choices, TrainingImages
from .distributed import Processes
from .muon import Updater
from .options import TrainOptions

# one update from the images that the choices name, this process's share of so many images
Step = Callable[[Choices, int], None]

MUON = "Muon on conv2 and the first linear layer, AdamW on the rest"
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
EAGER_STEPS = 3  # before a CUDA graph is captured: libraries set themselves up in the first ones


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: mean loss over its batches, accuracy counted before each update, seconds.

    epoch: 1-based. validation_loss, validation_accuracy: of the weights after the epoch on the
    images held out, None without any.
    """

    epoch: int
    mean_loss: Amount
    accuracy: Amount
    duration_s: Amount
    validation_loss: Amount | None = None
    validation_accuracy: Amount | None = None


class Run:
    """The state that steps and epochs change, and what they need for it.

    used, held_out: the images to train on, and the last ones, to validate on. training: what
    decides the weights, the same in a resumed run. epochs: the complete ones whose state is kept.
    time_s: seconds by what took them. n_threads: of the process that it began in.
    """

    def __init__(
        self, options: TrainOptions, *, device: torch.device, processes: Processes
    ) -> None:
        self.options, self.recipe = options, options.plan
        self.device, self.processes = device, processes
        self.epochs: tuple[EpochMetrics, ...] = ()
        self.time_s: dict[str, float] = {}
        self.n_threads = torch.get_num_threads()
        with self.timed("data"):
            whole = data.load_training_set(options.data, options.data_dir)
        n = len(whole) - options.validate
        found = f"--validate {options.validate} of {len(whole)} training images"
        require(n > 0, found, "fewer than there are", "--validate")
        self.used, self.held_out = (
            replace(whole, images=whole.images[part], labels=whole.labels[part])
            for part in (slice(n), slice(n, None))
        )
        self.architecture = Architecture(
            (1, *whole.images.shape[1:]), options.kernel_size, width=options.width
        )
        self.images = TrainingImages(
            self.used, self.recipe, sides=self.architecture.needed_sides, device=device
        )
        self.training = self._describe()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model = Convnet(self.architecture)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p.detach() for p in self.model.parameters()]
        self.dtype = torch.bfloat16 if options.precision == "bf16" else None
        self.updater = Updater(self.model, self.recipe)
        self.choices = torch.Generator().manual_seed(options.seed)
        self.loss_sum = torch.zeros((), device=device)
        self.n_correct = torch.zeros((), device=device, dtype=torch.int64)
        self.average = [p.clone() for p in self.parameters] if self.recipe.average else None

    def _describe(self) -> dict[str, Any]:
        options, recipe = self.options, self.recipe
        return {
            "recipe": options.recipe,
            "data": options.data,
            "n_images": len(self.used),
            "n_validation_images": options.validate,
            "images_sha256": self.used.images_sha256,
            "labels_sha256": self.used.labels_sha256,
            "optimizer": MUON if recipe.muon_learning_rate else "Adam",
            **asdict(recipe),
            "pixel_mean_and_deviation": list(self.images.moments) if recipe.normalize else None,
            "kernel_size": options.kernel_size,
            "width": options.width,
            "seed": options.seed,
            "precision": options.precision,
        }

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds of the block to what `what` took."""
        started = time.perf_counter_ns()
        yield
        taken = (time.perf_counter_ns() - started) / 1e9
        self.time_s[what] = self.time_s.get(what, 0.0) + taken

    def warnings(self) -> Iterator[str]:
        """Say before the first step what may not be as expected."""
        now = torch.get_num_threads()
        if self.n_threads != now:
            yield (
                f"the run so far used {self.n_threads} threads, this process {now}: the final "
                "weights will differ in their last bits from an uninterrupted run's"
            )
        emulated = self.device.type == "cpu" and not BF16_FLAGS & set(machine.passport()["isa"])
        if self.options.precision == "bf16" and emulated:
            yield "this processor has no bfloat16 instructions: --precision bf16 is slower"

    def state(self) -> dict[str, Tensor]:
        """Return by name the tensors that decide how the run goes on, not copies of them."""
        return {
            **{f"model.{name}": t for name, t in self.model.state_dict().items()},
            **{f"average.{i}": t for i, t in enumerate(self.average or ())},
            **self.updater.state(),
        }

    def finished_model(self) -> Convnet:
        """Return the network as it is handed over: averaged weights, normalisation folded in."""
        model = Convnet(self.architecture)
        weights = self.average or self.parameters
        model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
        fold_normalization(model, *self.images.moments)
        return model.to(self.device).eval()

    def step(self, choices: Choices, n_total: int) -> None:
        """Update the weights once; add loss and hits to the sums."""
        batch = self.images.batch(choices)  # empty if there are more processes than images left
        result = loss_and_gradients(self.parameters, batch, n_total=n_total, dtype=self.dtype)
        self.processes.add_up((*result.gradients, result.loss, result.n_correct))
        self.updater.step(result.gradients)
        self.loss_sum += result.loss
        self.n_correct += result.n_correct
        if self.average is not None:
            torch._foreach_lerp_(self.average, self.parameters, 1 - self.recipe.average)


class GraphedStep:
    """The same step as one CUDA graph, captured once; uneven batches run without it."""

    def __init__(self, run: Run) -> None:
        self._run, self._n_eager = run, 0
        self._captured: tuple[torch.cuda.CUDAGraph, Choices] | None = None

    def __call__(self, choices: Choices, n_total: int) -> None:
        """Take the step; the first ones eagerly, then by capture and replay."""
        whole = len(choices["order"]) == n_total == self._run.recipe.batch_size
        if not whole or self._n_eager < EAGER_STEPS:  # several processes: each has a part only
            self._n_eager += 1
            self._run.step(choices, n_total)
            return
        if self._captured is None:
            copies = {name: t.clone() for name, t in choices.items()}
            self._captured = torch.cuda.CUDAGraph(), copies
            with torch.cuda.graph(self._captured[0]):
                self._run.step(self._captured[1], n_total)
        graph, inputs = self._captured
        for name, tensor in inputs.items():
            tensor.copy_(choices[name])
        graph.replay()
