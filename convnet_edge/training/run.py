"""One training run: its state, and the step that changes it.

Which steps are taken, and what is kept of them, is the loop's business.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..data import dataset
from ..networks import build, operations, weights
from ..networks.checkpoint import Amount, Network
from ..networks.convnet import Convnet, fold_normalization
from ..networks.convolutions import pad_first
from ..networks.gradients import by_autograd, step_of
from ..networks.memory import copied, into_fast_format
from ..networks.normalized import Normalized
from ..runtime.contract import Array
from ..runtime.options import require
from . import finetuning, initial
from .batches import Choices, TrainingImages
from .distributed import add_up, in_parallel
from .launch import read_launch
from .muon import Updater
from .options import TrainOptions
from .precision import Format, Timing, has_bf16

# one update from the images that the choices name, this process's share of so many images
Step = Callable[[Choices, int], None]

# images, about, from which statistics are taken at the end, and to validate an epoch, then of a
# quarter of the images at most: settling is no step
N_SETTLING, N_SETTLING_BETWEEN, MOST_BETWEEN = 2048, 128, 0.25
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


class Run:
    """The state that steps and epochs change, and what they need for it.

    training: what decides the weights, the same in a resumed run. epochs: the complete ones whose
    state is kept. loss_sum, n_hits: of the epoch so far, the hits by class. time_s: seconds by what
    took them. n_threads: of the process that it began in. replaced: weights of the head that were
    given and did not fit. learning, head: places among the parameters of those that learn, and
    that the head is made of. holds_statistics: whether batch normalisation keeps those it has.
    timing: of both number formats, if the run chose one. earlier_sources: the SHA-256 of files that
    defined the network in earlier epochs.
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
        self.timing: Timing | None = None
        self.earlier_sources: tuple[str, ...] = ()
        self.named = build.find(options.arch)  # a misspelt one is known before the pictures
        known = weights.find(options.weights, self.named.arch) if options.weights else None
        with self.timed("data"):
            self.dataset = initial.load_pictures(options, known, progress)
        how, n_classes = self.dataset.preprocessing, len(self.dataset.class_labels)
        self.image_shape = (how.channels, *how.size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model, self.replaced = initial.build_network(
                self.named,
                image_shape=self.image_shape,
                n_classes=n_classes,
                options=options,
                known=known,
            )
            self.memory_format = into_fast_format(self.model, torch.zeros(2, *self.image_shape))
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
                moments=initial.known_moments(options, known, how.channels),
                device=device,
                memory_format=self.memory_format,
            )
        self.training = initial.describe(
            options,
            arch=self.named.arch,
            known=known,
            recipe=self.recipe,
            found=self.dataset,
            normalization=self.images.normalization,
        )
        self._prepare(n_classes)

    def _prepare(self, n_classes: int) -> None:
        """Make what the steps change, on the device."""
        model, device = self.model, self.device
        model.to(device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.parameters = [p.detach() for p in model.parameters()]
        self.learning = frozenset(i for i, p in enumerate(model.parameters()) if p.requires_grad)
        frozen = f"{self.named.arch} has no parameters that learn"
        require(bool(self.learning), frozen, "some with requires_grad", "the network")
        self.head: frozenset[int] = frozenset()
        images = torch.zeros(2, self.image_shape[0], *self.sides, device=device)
        if device.type == "cpu" and not self.is_reference:
            pad_first(model, images)
        if self.recipe.head_share:
            self.head = self.learning & {*finetuning.find_head(model, self.replaced, images)}
        self.updater = Updater(model, self.recipe, self.head)
        self.choices = torch.Generator().manual_seed(self.options.seed)
        self.loss_sum = torch.zeros((), device=device)
        self.n_hits = torch.zeros(n_classes, device=device, dtype=torch.int64)
        buffers = [one for one in model.buffers() if one.is_floating_point()]
        self.averaged = [*self.parameters, *buffers]
        self.average = [p.clone() for p in self.averaged] if self.recipe.average else None
        self.n_smallest_share = min(b - a for a, b in self.split(self.n_drawn)) // self.launch.size
        has_statistics = finetuning.has_statistics(model)
        few = self.n_smallest_share < finetuning.FEWEST_FOR_STATISTICS
        self.holds_statistics = has_statistics and few and bool(self.recipe.head_share)
        if self.recipe.epochs and not self.is_reference:
            self._require_shares(2 if has_statistics and not self.holds_statistics else 1)
        self.use("bf16" if self.options.precision == "bf16" else "float32")
        self.learn(self.learning)

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
            n_parameters=initial.count_parameters(self.model),
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
        if self.options.precision == "bf16" and not has_bf16(self.device):
            yield "this processor has no bfloat16 instructions: --precision bf16 is slower"

    def state(self) -> dict[str, Tensor]:
        """Return by name the tensors that decide how the run goes on, not copies of them."""
        return {
            **{f"model.{name}": t for name, t in self.model.state_dict().items()},
            **{f"average.{i}": t for i, t in enumerate(self.average or ())},
            **self.updater.state(),
        }

    def finished_network(self, *, between_epochs: bool = False) -> nn.Module:
        """Return a copy of the network as it is stored: averaged weights, convnet's folded.

        between_epochs: to be validated only, so sooner, and less exactly: its statistics are those
        of fewer images, in the number format and memory format of the steps.
        """
        model = copied(self.model)
        if self.average is not None:
            floats = [one for one in model.buffers() if one.is_floating_point()]
            for mine, averaged in zip([*model.parameters(), *floats], self.average, strict=True):
                mine.detach().copy_(averaged)
        if isinstance(model, Convnet):
            fold_normalization(model, *self.images.moments)
        elif self.recipe.epochs and not self.holds_statistics:
            n = len(self.dataset.train)
            few = min(N_SETTLING_BETWEEN, int(MOST_BETWEEN * n))
            with self.in_steps_format() if between_epochs else nullcontext():
                images = self._settling(few if between_epochs else N_SETTLING)
                finetuning.settle_statistics(model, images)
        if not between_epochs:
            model.to(memory_format=torch.contiguous_format)
        return model.eval()

    def in_steps_format(self) -> AbstractContextManager[object]:
        """Let convolutions and products be in the number format of the steps."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _settling(self, n_wanted: int) -> Iterator[Tensor]:
        """Yield some of the training images, as they are, in batches of the recipe's size."""
        n, size = len(self.dataset.train), self.recipe.batch_size
        order = torch.arange(0, n, -(-n // max(n_wanted, size)), device=self.device)
        for part in order.tensor_split(max(1, len(order) // size)):  # none is smaller
            yield self.images.batch({"order": part}).x

    def pixels_to_logits(self, network: nn.Module) -> nn.Module:
        """Return a `finished_network` as it is handed over: it takes pixels in [0, 1]."""
        normalization = self.network.normalization
        return Normalized(network, *normalization).to(self.device) if normalization else network

    @property
    def n_drawn(self) -> int:
        """How many images an epoch passes over."""
        return round(len(self.dataset.train) * self.recipe.share)

    @property
    def n_of_head(self) -> int:
        """The epochs in which the head learns alone: one at least, unless there is but one."""
        share, n = self.recipe.head_share, self.recipe.epochs
        return max(round(share * n), min(n - 1, 1)) if self.head and share else 0

    def draw(self, generator: torch.Generator) -> Choices:
        """Draw the choices of an epoch."""
        hidden = self.model.architecture.widths[2] if isinstance(self.model, Convnet) else 0
        return self.images.draw(generator, n_hidden=hidden)

    def _require_shares(self, n_fewest: int) -> None:
        """Check that every process has images in every batch, enough for what is made of them."""
        n_processes = self.launch.size
        require(
            self.n_smallest_share >= n_fewest,
            f"{self.n_smallest_share} images of a batch for each of {n_processes} processes",
            f"{n_fewest} or more" + ", as batch normalisation compares them" * (n_fewest > 1),
            "--batch-size or the number of processes",
        )

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

    @property
    def statistics(self) -> str | None:
        """What batch normalisation takes in training, in words; None without any."""
        if not finetuning.has_statistics(self.model) or not self.recipe.epochs:
            return None
        if self.holds_statistics:
            return (
                "statistics that came with the weights: fewer than "
                f"{finetuning.FEWEST_FOR_STATISTICS} images a process"
            )
        if self.launch.size > 1:
            return "statistics of each process's own images; the first's are kept"
        return "statistics of each batch"

    def use(self, precision: Format) -> None:
        """Let convolutions and products be in this number format from now on."""
        self.dtype = torch.bfloat16 if precision == "bf16" else None
        self.training["precision"] = precision

    def learn(self, places: frozenset[int]) -> None:
        """Let the parameters at these places learn from now on, and no others."""
        model, head_alone = self.model, places != self.learning
        finetuning.let_learn(model, places)
        if head_alone or self.holds_statistics:
            finetuning.hold_statistics(model)
        self.is_parallel = self.launch.size > 1 and not self.is_reference
        if self.is_parallel:
            images = torch.zeros(2, self.image_shape[0], *self.sides, device=self.device)
            self.loss_and_gradients = in_parallel(model, self.launch, images)
        else:
            self.loss_and_gradients = partial(by_autograd, model) if head_alone else step_of(model)
        self.now_learning = places

    def begin_epoch(self) -> None:
        """Let the head learn alone, or all, whichever it is time for."""
        places = self.head if len(self.epochs) < self.n_of_head else self.learning
        if places != self.now_learning:
            self.learn(places)
        self.loss_sum.zero_()
        self.n_hits.zero_()

    def step(self, choices: Choices, n_total: int) -> None:
        """Update the weights once; add loss and hits to the sums."""
        batch = self.images.batch(choices)  # empty if there are more processes than images left
        result = self.loss_and_gradients(self.parameters, batch, n_total=n_total, dtype=self.dtype)
        shares = () if self.is_parallel else result.gradients
        add_up(self.launch, [t for t in (*shares, result.loss, result.n_hits) if t is not None])
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
