"""Go up from the plainest integers to those with more help, until the gate's first half holds.

Each rung keeps what the ones before it do. The half that chooses looks at many graphs, so it proves
nothing: the other half is shown to the chosen one alone, once.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import onnx

from ..runtime.contract import Array
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.check import Check
from ..runtime.measure.tables import drop_text
from .portable import LAYERS, Calibrated

FEWEST_LAYERS, MOST_NOISIEST = 3, 16
MARGIN = 0.6  # of a bound's distance: about one standard error of the half that confirms
NOISIEST = "+ {} noisiest layers float"
GATES_BEGIN = ("AveragePool", "GlobalAveragePool", "ReduceMean")  # a squeeze-and-excite branch
INSIDE_GATES = (
    "Clip", "Flatten", "HardSigmoid", "HardSwish", "Mul", "Relu", "Reshape", "Sigmoid", "Unsqueeze",
)  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """What integers cost on images that ranges never saw. Shares of n; upper_bound: 95 %.

    data: which images; those of training the network has seen.
    """

    data: str
    n: int
    n_lost: int
    n_gained: int
    drop: float
    upper_bound: float
    max_drop: float

    @property
    def holds(self) -> bool:
        """Whether the drop is proved to be small enough."""
        return self.upper_bound <= self.max_drop

    @property
    def is_ample(self) -> bool:
        """Whether other images are likely to say so, too: there is no drop, or room beside it."""
        room = MARGIN * (self.upper_bound - self.drop)
        return self.holds and (self.drop <= 0 or self.upper_bound + room <= self.max_drop)

    def check(self) -> Check:
        """Return the same as a check."""
        detail = f"{self.n:,} {self.data}: {drop_text(self, self.upper_bound, self.max_drop)}"
        return Check("accuracy gate", self.holds, detail, self.upper_bound, self.max_drop)


@dataclass(frozen=True)
class Way:
    """How a graph becomes one of integers: the arguments of `Calibrated.quantised`, with a name."""

    name: str
    corrected: bool = False
    inner: bool = False
    float_products: bool = False
    float_layers: tuple[str, ...] = ()

    def make(self, calibrated: Calibrated) -> bytes:
        """Return the graph."""
        how = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "name"}
        return calibrated.quantised(**how)


@dataclass(frozen=True)
class Rung:
    """A way that was tried, and what it gave on the half that chooses; None if it was not tried.

    snr_db: of the logits, the power of the float model's over that of the difference. agreement:
    share of images with the float model's label. n_float_layers: None where the layers would have
    been chosen by their noise.
    """

    name: str
    n_float_layers: int | None
    gate: Gate | None = None
    snr_db: float | None = None
    agreement: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it was tried and its drop is small enough."""
        return self.gate is not None and self.gate.holds

    @property
    def is_ample(self) -> bool:
        """Whether it was tried and its gate holds amply."""
        return self.gate is not None and self.gate.is_ample

    def line(self) -> str:
        """Return it as people read it."""
        if self.gate is None or self.snr_db is None or self.agreement is None:
            return f"{self.name}: not tried"
        return (
            f"{self.name}: {self.snr_db:.1f} dB, {100 * self.agreement:.2f} % as float, drop "
            f"{100 * self.gate.drop:+.2f}, at most {100 * self.gate.upper_bound:.2f} points"
        )


@dataclass(frozen=True)
class Half:
    """Half of the gate's images, and what the float model says of them.

    logits: (N, C). run: gives an integer graph's for uint8 images.
    """

    images: ImageSet
    logits: Array
    run: Callable[[bytes, Array], Array]
    data: str
    max_drop: float

    def judge(self, said: Array) -> Gate:
        """Compare the labels of the integers' logits with the float model's."""
        pair = accuracy.compare(self.logits.argmax(axis=1), said.argmax(axis=1), self.images.labels)
        n, lost, gained = pair.n, pair.n_lost, pair.n_gained
        bound = accuracy.drop_bounds(pair)[1]
        return Gate(self.data, n, lost, gained, (lost - gained) / n, bound, self.max_drop)

    def look(self, way: Way, graph: bytes) -> Rung:
        """Return what the graph of this way gives on the images."""
        said, exact = self.run(graph, self.images.images), self.logits
        ratio = (exact**2).sum() / max(((said - exact) ** 2).sum(), np.finfo(np.float32).tiny)
        return Rung(
            way.name,
            len(way.float_layers),
            self.judge(said),
            float(10 * np.log10(ratio)),
            float((said.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        )


@dataclass(frozen=True)
class Climbed:
    """Where the ladder ended.

    way: the first that held amply, else the first that held, else the one with the least noise.
    gate: what the half that did not choose it says; where none held, what the half says that chose.
    """

    way: Way
    graph: bytes
    rungs: tuple[Rung, ...]
    gate: Gate


def climb(
    calibrated: Calibrated,
    choosing: Half,
    confirming: Half,
    noise: Callable[[str], float],
    *,
    in_integers: bool = False,
    every: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> Climbed:
    """Try one way after the other until one holds amply; all of them if `every`.

    The others are tried too, for the table, if the half that confirms says no.
    noise: of a layer's name, what it alone as integers brings to the logits. in_integers: only ways
    without float layers.
    """
    known = list(_ways(calibrated, in_integers=in_integers))
    more = [] if in_integers else _by_noise(calibrated, known[-1], noise, step)

    def look(way: Way) -> tuple[Rung, Way, bytes]:
        step(f"integers: {way.name}")
        graph = way.make(calibrated)
        return choosing.look(way, graph), way, graph

    looks, tried = map(look, itertools.chain(known, more)), list[tuple[Rung, Way, bytes]]()
    for one in looks:
        tried.append(one)
        if one[0].is_ample and not every:
            break
    least_noise = max(tried, key=lambda one: one[0].snr_db or 0.0)
    ample, held = ([one for one in tried if getattr(one[0], how)] for how in ("is_ample", "holds"))
    rung, way, graph = [*ample, *held, least_noise][0]
    gate = rung.gate
    if gate is None or gate.holds:  # else there is nothing to confirm
        step(f"confirming {way.name} on the other half")
        gate = confirming.judge(confirming.run(graph, confirming.images.images))
    rungs = [rung for rung, *_ in tried]
    if not gate.holds:
        rungs += [rung for rung, *_ in looks]
    n = len(rungs)
    rungs += [Rung(way.name, len(way.float_layers)) for way in known[n:]]
    if not in_integers and n <= len(known) and _n_noisiest(calibrated, known[-1]):
        rungs.append(Rung(NOISIEST.format("N"), None))
    return Climbed(way, graph, tuple(rungs), gate)


def _ways(calibrated: Calibrated, *, in_integers: bool) -> Iterator[Way]:
    """Yield the ways that need no look at the layers' noise, each with what was done before."""
    way = Way("min-max")
    yield way
    yield (way := replace(way, name="+ bias correction", corrected=True))
    yield (way := replace(way, name="+ percentile 99.999", inner=True))
    layers = calibrated.layers
    if in_integers or len(layers) < FEWEST_LAYERS:
        return
    if calibrated.products:
        yield (way := replace(way, name="+ gates and swishes float", float_products=True))
    ends = (layers[0], layers[-1])
    yield (way := replace(way, name="+ first and last layer float", float_layers=ends))
    if gates := [one for one in gate_layers(calibrated.proto) if one not in ends]:
        kept = (*ends, *gates)
        yield replace(way, name="+ squeeze-and-excite float", float_layers=kept)


def _n_noisiest(calibrated: Calibrated, way: Way) -> int:
    """Return how many more layers may be float; of all, nothing would be left."""
    return max(0, min(MOST_NOISIEST, len(calibrated.layers) - len(way.float_layers) - 1))


def _by_noise(
    calibrated: Calibrated, way: Way, noise: Callable[[str], float], step: Callable[[str], None]
) -> Iterator[Way]:
    """Yield ways with one more layer in float each, the noisiest first."""
    step("measuring each layer's noise")
    others = [layer for layer in calibrated.layers if layer not in way.float_layers]
    noisiest = sorted(others, key=noise, reverse=True)
    for n in range(1, 1 + _n_noisiest(calibrated, way)):
        layers = (*way.float_layers, *noisiest[:n])
        yield replace(way, name=NOISIEST.format(n), float_layers=layers)


def gate_layers(proto: onnx.ModelProto) -> list[str]:
    """Return the layers between a mean over the image and the product with that same image."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    known = {tensor.name for tensor in proto.graph.initializer}
    found: list[str] = []
    for product in proto.graph.node:
        if product.op_type != "Mul" or not known.isdisjoint(product.input):
            continue
        for name, scaled in (product.input, product.input[::-1]):
            layers, node = list[str](), makers.get(name)
            while node is not None and node.op_type in (*INSIDE_GATES, *LAYERS):
                layers += [node.name] * (node.op_type in LAYERS)
                node = makers.get(node.input[0])
            if node is not None and node.op_type in GATES_BEGIN and node.input[0] == scaled:
                found += layers[::-1]
    return found
