"""One training run: its state, and the step that changes it.

Which steps are taken, and what is kept of them, is the loop's business.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import dataset
from ..networks import build, operations, weights
from ..networks.checkpoint import MAX_CHECKPOINT_BYTES, Amount, Network
from ..networks.convnet import Convnet, fold_normalization
from ..networks.gradients import step_of
from ..networks.normalized import Normalized
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
SEED_STRIDE = 0x9E3779B97F4A7C15  # of random streams: 2^64 over the golden ratio, odd
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


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in model.parameters())


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
        self.named = build.find(options.arch)  # a misspelt one is known before the pictures
        self.weights = weights.find(options.weights, self.named.arch) if options.weights else None
        with self.timed("data"):
            self.dataset = self._load(progress)
        how, n_classes = self.dataset.preprocessing, len(self.dataset.class_labels)
        self.image_shape = (how.channels, *how.size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model, self.replaced = self._build(n_classes)
        self.recipe = options.plan.for_images(len(self.dataset.train))
        if not self.is_reference:  # dropout is the network's own business
            self.recipe = replace(self.recipe, dropout=0.0)
        with self.timed("data"):
            self.images = TrainingImages(
                self.dataset.train,
                self.recipe,
                sides=self.sides,
                n_classes=n_classes,
                balanced=options.class_weights == "balanced",
                moments=self._known_moments(),
                device=device,
            )
        self.training = self._describe()
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p.detach() for p in self.model.parameters()]
        self.loss_and_gradients = step_of(self.model)
        self.dtype = torch.bfloat16 if options.precision == "bf16" else None
        self.updater = Updater(self.model, self.recipe)
        self.choices = torch.Generator().manual_seed(options.seed)
        self.loss_sum = torch.zeros((), device=device)
        self.n_hits = torch.zeros(n_classes, device=device, dtype=torch.int64)
        buffers = [one for one in self.model.buffers() if one.is_floating_point()]
        self.averaged = [*self.parameters, *buffers]
        self.average = [p.clone() for p in self.averaged] if self.recipe.average else None

    def _load(self, progress: dataset.Progress) -> dataset.Dataset:
        """Load the pictures, by default as those were made that the weights were trained on."""
        options = self.options
        if self.weights and (usual := self.weights.usual):
            options = replace(
                options,
                image_size=options.image_size or usual.size,
                filter=options.filter or usual.filter,
                crop_share=options.crop_share or usual.share,
            )
        validated = options.recipe_name in ("scratch", "finetune")
        return dataset.load(
            options,
            validate=options.validate,
            validate_share=dataset.VALIDATED if validated else 0.0,
            progress=progress,
        )

    def _build(self, n_classes: int) -> tuple[nn.Module, tuple[str, ...]]:
        """Return the network, and the names of weights that were given and do not fit."""
        options = dict(map(build.read_option, self.options.arch_option))
        model = build.build(
            self.named, image_shape=self.image_shape, n_classes=n_classes, options=options
        )
        n, n_most = count_parameters(model), MAX_CHECKPOINT_BYTES // PARAMETER_BYTES
        require(
            n <= n_most,
            f"{self.named.arch} has {n:,} parameters",
            f"at most {n_most:,}, as a run's state is kept in one file",
            "--arch",
        )
        if self.weights is None:
            return model, ()
        return model, weights.fit(model, self.weights.tensors, self.weights.name)

    def _known_moments(self) -> tuple[list[float], list[float]] | None:
        """Return the means and deviations that the weights were trained with, if they are known."""
        options, usual, n = self.options, self.weights and self.weights.usual, self.image_shape[0]
        if options.mean and options.std:
            found = f"--mean and --std of {len(options.mean)} and {len(options.std)} numbers"
            fits = len(options.mean) == len(options.std) == n
            require(fits, found, f"one for each of {n} channels", "--mean and --std")
            return list(options.mean), list(options.std)
        if not usual:
            return None
        means, deviations = list(usual.mean), list(usual.deviation)
        if n == 1:  # a grey pixel is each colour's
            return [sum(means) / len(means)], [sum(deviations) / len(deviations)]
        return means, deviations

    @property
    def is_reference(self) -> bool:
        """Whether it is the tutorial's network, whose step is written out."""
        return isinstance(self.model, Convnet)

    def count_operations(self) -> operations.Operations:
        """Count what one image costs."""
        return operations.count(self.model, (self.image_shape[0], *self.sides))

    @property
    def sides(self) -> tuple[int, int]:
        """The (H, W) of the images that reach the logits."""
        model = self.model
        whole = self.image_shape[1:]
        return model.architecture.needed_sides if isinstance(model, Convnet) else whole

    @property
    def network(self) -> Network:
        """What a checkpoint says of the network."""
        return Network(
            arch=self.named.arch,
            image_shape=self.image_shape,
            options=dict(map(build.read_option, self.options.arch_option)),
            source_sha256=self.named.source_sha256,
            normalization=None if self.is_reference else self.images.normalization,
            n_parameters=count_parameters(self.model),
        )

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
            "pixel_mean_and_deviation": self.images.normalization
            and list(self.images.normalization),
            "arch": self.named.arch,
            "arch_options": dict(map(build.read_option, options.arch_option)),
            "source_sha256": self.named.source_sha256,
            "weights": self.weights.name if self.weights else None,
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

    def finished_network(self) -> nn.Module:
        """Return a copy of the network as it is stored: averaged weights, convnet's folded."""
        model = copy.deepcopy(self.model).to(memory_format=torch.contiguous_format)
        if self.average is not None:
            floats = [one for one in model.buffers() if one.is_floating_point()]
            for mine, averaged in zip([*model.parameters(), *floats], self.average, strict=True):
                mine.detach().copy_(averaged)
        if isinstance(model, Convnet):
            fold_normalization(model, *self.images.moments)
        return model.eval()

    def finished_model(self) -> nn.Module:
        """Return the network as it is handed over: it takes pixels in [0, 1]."""
        network, normalization = self.finished_network(), self.network.normalization
        return Normalized(network, *normalization).to(self.device) if normalization else network

    def draw(self) -> Choices:
        """Draw the choices of the next epoch."""
        hidden = self.model.architecture.widths[2] if isinstance(self.model, Convnet) else 0
        return self.images.draw(self.choices, n_hidden=hidden)

    def split(self, n: int) -> list[tuple[int, int]]:
        """Return where each batch of an epoch's `n` images starts and stops.

        The reference's last batch is what is left. Others may normalise by the images of a batch,
        of which one alone has no statistics: theirs are all of nearly the same size.
        """
        size = self.recipe.batch_size
        if self.is_reference:
            return [(start, min(start + size, n)) for start in range(0, n, size)]
        n_batches = -(-n // size)
        return [(n * i // n_batches, n * (i + 1) // n_batches) for i in range(n_batches)]

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Let what a network draws itself, as dropout does, follow from seed, epoch and process.

        So nothing of it has to be kept for a resumed run.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        place = (len(self.epochs) + 1) * self.launch.size + self.launch.rank
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((self.options.seed + place * SEED_STRIDE) % (1 << 63))
            yield

    def step(self, choices: Choices, n_total: int) -> None:
        """Update the weights once; add loss and hits to the sums."""
        batch = self.images.batch(choices)  # empty if there are more processes than images left
        result = self.loss_and_gradients(self.parameters, batch, n_total=n_total, dtype=self.dtype)
        add_up(self.launch, (*result.gradients, result.loss, result.n_hits))
        self.updater.step(result.gradients)
        self.loss_sum += result.loss
        self.n_hits += result.n_hits
        if self.average is not None:
            torch._foreach_lerp_(self.average, self.averaged, 1 - self.recipe.average)


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
