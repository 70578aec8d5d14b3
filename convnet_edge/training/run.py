"""One training run: its state, and the step that changes it.

Which steps are taken, and what is kept of them, is the loop's business.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import dataset
from ..networks.checkpoint import MAX_CHECKPOINT_BYTES, Amount
from ..networks.convnet import Architecture, Convnet, fold_normalization
from ..networks.gradients import step_of
from ..runtime.admission import MAX_IMAGE_BYTES
from ..runtime.contract import Array
from ..runtime.measure import machine
from ..runtime.measure.result import as_json
from ..runtime.options import require
from .batches import Choices, TrainingImages
from .distributed import add_up
from .launch import read_launch
from .muon import Updater
from .options import TrainOptions

# one update from the images that the choices name, this process's share of so many images
Step = Callable[[Choices, int], None]

MUON = "Muon on the inner weights, AdamW on the rest"
PARAMETER_BYTES = 12  # of a run's state: itself, and two numbers of its updates
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
EAGER_STEPS = 3  # before a CUDA graph is captured: libraries set themselves up in the first ones


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: mean loss over its batches, accuracy counted before each update, seconds.

    epoch: 1-based. balanced_accuracy: the mean of each class's own. validation_*: of the weights
    after the epoch on the validation images, None without any.
    """

    epoch: int
    mean_loss: Amount
    accuracy: Amount
    balanced_accuracy: Amount
    duration_s: Amount
    validation_loss: Amount | None = None
    validation_accuracy: Amount | None = None
    validation_balanced_accuracy: Amount | None = None


def balanced_accuracy(n_hits: Array, n_images: Array) -> float:
    """Return the mean over the classes that have images of each one's accuracy.

    n_hits, n_images: (n_classes,) counts.
    """
    known = n_images > 0
    return float((n_hits[known] / n_images[known]).mean())


class Run:
    """The state that steps and epochs change, and what they need for it.

    training: what decides the weights, the same in a resumed run. epochs: the complete ones whose
    state is kept. loss_sum, n_hits: of the epoch so far, the hits by class. time_s: seconds by what
    took them. n_threads: of the process that it began in.
    """

    def __init__(
        self,
        options: TrainOptions,
        *,
        device: torch.device,
        progress: dataset.Progress = lambda *_: None,
    ) -> None:
        self.options = options
        self.device, self.launch = device, read_launch()
        self.epochs: tuple[EpochMetrics, ...] = ()
        self.time_s: dict[str, float] = {}
        self.n_threads = torch.get_num_threads()
        with self.timed("data"):
            share = dataset.VALIDATED if options.recipe_name == "scratch" else 0.0
            self.dataset = dataset.load(
                options, validate=options.validate, validate_share=share, progress=progress
            )
        how, n_classes = self.dataset.preprocessing, len(self.dataset.class_labels)
        self.recipe = options.plan.for_images(len(self.dataset.train))
        self.architecture = Architecture(
            (how.channels, *how.size), options.kernel_size, n_classes, options.width
        )
        self._require_storable()
        with self.timed("data"):
            self.images = TrainingImages(
                self.dataset.train,
                self.recipe,
                sides=self.architecture.needed_sides,
                n_classes=n_classes,
                balanced=options.class_weights == "balanced",
                device=device,
            )
        self.training = self._describe()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model = Convnet(self.architecture)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p.detach() for p in self.model.parameters()]
        self.loss_and_gradients = step_of(self.model)
        self.dtype = torch.bfloat16 if options.precision == "bf16" else None
        self.updater = Updater(self.model, self.recipe)
        self.choices = torch.Generator().manual_seed(options.seed)
        self.loss_sum = torch.zeros((), device=device)
        self.n_hits = torch.zeros(n_classes, device=device, dtype=torch.int64)
        self.average = [p.clone() for p in self.parameters] if self.recipe.average else None

    def _describe(self) -> dict[str, Any]:
        options, recipe, found = self.options, self.recipe, self.dataset
        return {
            "recipe": options.recipe_name,
            "data": found.source,
            "n_images": len(found.train),
            "n_validation_images": len(found.validation),
            "train_sha256": found.train.sha256,
            "validation_sha256": found.validation.sha256 if len(found.validation) else None,
            "optimizer": MUON if recipe.muon_learning_rate else "Adam",
            **as_json(recipe),
            "early_stopping": False,
            "class_weights": options.class_weights,
            "pixel_mean_and_deviation": list(self.images.moments) if recipe.normalize else None,
            "kernel_size": options.kernel_size,
            "width": options.width,
            "seed": options.seed,
            "precision": options.precision,
        }

    def _require_storable(self) -> None:
        network, n_most = self.architecture, MAX_CHECKPOINT_BYTES // PARAMETER_BYTES
        images = "images of {} x {} pixels".format(*self.dataset.preprocessing.size)
        require(
            network.n_parameters <= n_most,
            f"{images} give a network of {network.n_parameters:,} parameters",
            f"at most {n_most:,}, as a run's state is kept in one file",
            "--image-size or --width",
        )
        require(
            4 * network.n_largest <= MAX_IMAGE_BYTES,
            f"{images} at --width {self.options.width:g}",
            "fewer or narrower layers: the exported file would be refused, as one image takes more "
            f"than {MAX_IMAGE_BYTES >> 20} MiB in it",
            "--image-size (256 at most) or --width",
        )

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
        result = self.loss_and_gradients(self.parameters, batch, n_total=n_total, dtype=self.dtype)
        add_up(self.launch, (*result.gradients, result.loss, result.n_hits))
        self.updater.step(result.gradients)
        self.loss_sum += result.loss
        self.n_hits += result.n_hits
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
