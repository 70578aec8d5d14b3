"""Follow one image through a graph: what it multiplies, and how much memory it takes at most.

From the shapes of the file's own weights, so that nothing need be believed. Where a shape rests on
numbers that only a run finds, the one that the file states is taken, and that is said. What is too
much is `admission`'s business.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..contract import NEXT_STEP, Cost
from ..errors import InputError
from ..model_file import MAX_AXES, ModelFile, Node
from . import rules
from .rules import ABSENT, MISFIT, MIXES, N_IMAGES, MisfitError, UnknownSizeError, Value

IMAGE_AXES = 4  # images, channels, height, width
NUMBER_BYTES = 4  # of float32, as which every number of a result is counted
WRITE_STEPS, MULTIPLICATIONS_A_STEP = 4, 16
SLOW = ("Exp", "Gelu", "LogSoftmax", "Mish", "Pow", "Resize", "Softplus")
SLOW_STEPS = 16  # of one of their numbers
# onnxruntime keeps results of convolutions in blocks of so many channels: one takes as much
CHANNELS = 16
# and beside a convolution of integers, for each number that its windows look at, a pointer of 8
INTEGER_BUFFER = 2


class Followed(NamedTuple):  # which takes less time to import than a dataclass
    """What one image takes, and all that is made of the weights alone.

    n_steps: work, each at most about 4 ns of one core: one for a number that is changed in place or
    gathered for a window or a layer, one for `MULTIPLICATIONS_A_STEP`, and `WRITE_STEPS` for a
    number that a window or a layer gives. n_weights: that layers take or that are unpacked for
    them, each time. believed: the first operator whose result's shape only the file states.
    """

    cost: Cost
    n_steps: int
    n_weights: int
    believed: str | None


def follow(file: ModelFile) -> Followed:
    """Follow one image of `file`, whose parts `admission` has seen.

    Raises:
        InputError: an operator does not fit what it takes, may mix images, takes a size from what
            is in a picture, or what none before gives; or a shape is neither known nor stated.
    """
    walk = _Walk(file)
    for place, node in enumerate(file.nodes):
        walk.step(place, node)
    (name,) = file.outputs
    if name not in walk.of_pixels:
        raise refusal(f"the result {name!r} does not come from the images")
    if walk.is_free and walk.values[name].shape[:1] != (N_IMAGES,):
        raise refusal(f"the result {name!r} has not one row an image")
    cost = Cost(walk.n_multiplications, NUMBER_BYTES * walk.peak, file.op_counts())
    return Followed(cost, walk.n_steps, walk.n_weights, walk.believed)


def refusal(found: str) -> InputError:
    """Return the error for a graph that is not opened."""
    return InputError(
        found,
        expected="a classifier whose sizes follow from its weights, and each answer from one image",
        next_step=NEXT_STEP,
    )


class _Walk:
    """The state between two operators.

    of_pixels: names of what depends on what is in an image, not on its size alone. blocked: of what
    may be kept in blocks of channels. living, fixed: numbers of an image that are still read later,
    and those made of weights alone, which stay.
    """

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        ((name, taken),) = file.inputs.items()
        self.is_free = isinstance(taken[0], str)
        self.n_images = N_IMAGES if self.is_free else int(taken[0])
        self.named = {taken[0]: self.n_images}
        self.values: dict[str, Value] = {"": ABSENT}
        for weight, about in file.weights.items():
            self.values[weight] = Value(about.dims, about.integers() or None, about.factors())
        self.values[name] = Value((self.n_images, *(int(size) for size in taken[1:])))
        self.of_pixels, self.blocked = {name}, set[str]()
        last = {one: place for place, node in enumerate(file.nodes) for one in node.inputs}
        self.ends: dict[int, list[str]] = {}
        for one, place in last.items():
            self.ends.setdefault(place, []).append(one)
        self.read = last.keys() | file.outputs.keys()
        self.sizes = {name: self._each(math.prod(self.values[name].shape))}
        self.is_integer = any("Linear" in node.op_type for node in file.nodes)
        self.fixed, self.living = 0, self.sizes[name]
        self.peak, self.n_steps, self.n_weights, self.n_multiplications = self.living, 0, 0, 0
        self.believed: str | None = None

    def step(self, place: int, node: Node) -> None:
        """Follow one operator."""
        takes = self._taken(node)
        try:
            given = self._given(node, takes)
            is_blocked = node.name in rules.WINDOWS or not self.blocked.isdisjoint(node.inputs)
            if is_blocked and node.op_type != "Transpose":
                self.blocked.update(node.outputs)
            for name, value in zip(node.outputs, given, strict=True):
                self._keep(name, value)
            n_buffered = self._count(node, takes, given)
        except MisfitError as error:
            raise refusal(f"an operation {node.name} {error}") from error
        # too few inputs or axes; a number where there are several, or none
        except (IndexError, ValueError) as error:
            raise refusal(f"an operation {node.name} {MISFIT}") from error
        self.peak = max(self.peak, self.fixed + self.living + n_buffered)
        for name in self.ends.get(place, ()):
            self.living -= self.sizes.pop(name, 0)

    def _taken(self, node: Node) -> list[Value]:
        if missing := set(node.inputs) - self.values.keys():
            name = min(missing)
            raise refusal(f"an operation {node.name} takes {name!r}, which none before it gives")
        if self.read.isdisjoint(node.outputs):
            raise refusal(
                f"an operation {node.name} gives {node.outputs[0]!r}, which nothing reads"
            )
        for number in rules.SIZES.get(node.name, ()):
            if number < len(node.inputs) and node.inputs[number] in self.of_pixels:
                raise refusal(f"an operation {node.name} takes sizes from what is in a picture")
        if not self.of_pixels.isdisjoint(node.inputs) and node.op_type != "Shape":
            self.of_pixels.update(node.outputs)
        return [self.values[name] for name in node.inputs]

    def _given(self, node: Node, takes: Sequence[Value]) -> Sequence[Value]:
        try:
            return rules.RULES[node.name](node, takes)
        except UnknownSizeError:
            self.believed = self.believed or node.name
            return [self._stated(node, name) for name in node.outputs]

    def _stated(self, node: Node, name: str) -> Value:
        stated = self.file.shapes.get(name)
        sizes = [self.named.get(size, size) for size in stated or ("?",)]
        known = tuple(size for size in sizes if isinstance(size, int))
        if len(known) != len(sizes):
            raise refusal(
                f"the shape of {name!r}, which {node.name} gives, follows from nothing known, and "
                "is not stated"
            )
        return Value(known)

    def _keep(self, name: str, value: Value) -> None:
        """Note what is known of a result, and whether it is one of each image alone."""
        if name in self.values:
            raise MisfitError(f"gives the result {name!r} again")
        self.values[name] = value
        from_pixels, n = name in self.of_pixels, math.prod(value.shape)
        if min(value.shape, default=1) < from_pixels or len(value.shape) > MAX_AXES:
            raise MisfitError(MISFIT)
        each, left = divmod(n, self.n_images)
        if self.is_free and (
            (from_pixels and left) or (each and not left and each % N_IMAGES == 0)
        ):
            raise MisfitError(MIXES)
        if from_pixels or (self.is_free and not left):
            if len(value.shape) != IMAGE_AXES or not 0 < value.shape[1] < N_IMAGES:
                self.blocked.discard(name)
            elif name in self.blocked:
                channels = value.shape[1]
                each = -(-each // channels) * (channels + -channels % CHANNELS)
            self.sizes[name] = each
            self.living += each
        else:
            self.fixed += n

    def _each(self, n: int) -> int:
        """Return how many of `n` there are for one image; all, if they do not grow with them."""
        if n < self.n_images:
            return n
        each, left = divmod(n, self.n_images)
        return n if left else each

    def _count(self, node: Node, takes: Sequence[Value], given: Sequence[Value]) -> int:
        """Add the work of an operator, and the weights that it takes; return what it buffers."""
        n_gathered = 0
        n_given = sum([self._each(math.prod(value.shape)) for value in given])
        is_layer, is_window = node.name in rules.LAYERS, node.name in rules.WINDOWS
        if is_layer:
            n_multiplications = self._each(rules.multiplications(node, takes, given[0]))
            self.n_multiplications += n_multiplications
            self.n_steps += n_multiplications // MULTIPLICATIONS_A_STEP
        if is_window:
            n_gathered = self._each(rules.gathered(node, takes, given[0]))
            self.n_steps += n_gathered
        if is_layer or is_window:
            self.n_steps += WRITE_STEPS * n_given
        else:
            n_taken = self._each(math.prod(takes[0].shape)) if takes else 0
            self.n_steps += max(n_given, n_taken) * (SLOW_STEPS if node.op_type in SLOW else 1)
        if is_layer or node.op_type == "DequantizeLinear":
            place = rules.LAYERS.get(node.name, 0)
            is_weight = node.inputs[place] not in self.sizes
            self.n_weights += math.prod(takes[place].shape) if is_weight else 0
        return INTEGER_BUFFER * n_gathered if is_layer and self.is_integer else 0
