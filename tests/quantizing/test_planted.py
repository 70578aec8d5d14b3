"""A planted difficulty for each rung of the ladder: the one that is made for it rescues.

Each graph is of a few weights, its labels are the float model's own.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import made
import numpy as np
import pytest
import tiny

from convnet_edge.quantizing import ladder, portable
from convnet_edge.runtime import Classifier
from convnet_edge.sealing import seal

F = np.float32
N = 1000
PLACES, CHANNELS = np.int64([2, 3]), np.eye(4, dtype=F)[:, :, None, None]
NOTHING = np.zeros(4, F)
HEAD = {"w9": made.draw(3, 4, seed=7), "b9": np.zeros(3, F)}


def pixels(n: int, below: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, below, (n, 8, 8), dtype=np.uint8)


@dataclass(frozen=True)
class Planted:
    """A graph, and the images that give its ranges and that judge it. b9: its logits' bias.

    max_drop: between what the rung gives and the ones before it.
    """

    rung: str
    body: str
    arrays: dict[str, Any]
    max_drop: float
    ranges: np.ndarray = field(default_factory=lambda: pixels(400))
    judges: np.ndarray = field(default_factory=lambda: pixels(N, seed=1))


def weights_that_round_one_way() -> Planted:
    """One large weight sets the scale; all others lie below half a step and are lost: a shift."""
    w = np.stack([np.full((1, 8, 8), sign * 0.45 / 63, F) for sign in (1, -1, 0)])
    for k in range(3):
        w[k, 0, k, k] = 1
    body = """
        p = Conv (images, channels)
        c = Conv (p, w, b)
        flat = Flatten (c)
        logits = Gemm <transB = 1> (flat, w9, b9)
    """
    arrays = {"channels": CHANNELS[:1, :1], "w": w, "b": -0.5 * w.sum((1, 2, 3)),
              "w9": np.eye(3, dtype=F), "b9": HEAD["b9"]}  # fmt: skip
    return Planted("+ bias correction", body, arrays, max_drop=0.05)


def one_vast_number_in_a_million() -> Planted:
    """One pixel of 4,000 images is so bright that its fourth power stretches every range."""
    ranges = pixels(4000, 60)
    ranges[7, 3, 4] = 255
    thirds = np.arange(8) // 3
    judges = pixels(N, 50, seed=1)
    judges += (10 * (thirds[None, :, None] == (np.arange(N) % 3)[:, None, None])).astype(np.uint8)
    sums = np.zeros((3, 3, 8, 8), F)
    for k in range(3):
        sums[k, :, thirds == k] = 1
    body = """
        c = Conv (images, w, b)
        square = Mul (c, c)
        fourth = Mul (square, square)
        d = Conv (fourth, channels, b)
        flat = Flatten (d)
        logits = Gemm <transB = 1> (flat, w9, b9)
    """
    arrays = {"w": F([1, 0.8, 0.6]).reshape(3, 1, 1, 1), "channels": CHANNELS[:3, :3],
              "b": HEAD["b9"], "w9": sums.reshape(3, 192), "b9": HEAD["b9"]}  # fmt: skip
    return Planted("+ percentile 99.999", body, arrays, 0.01, ranges, judges)


def last_layer_that_tells_by_a_little() -> Planted:
    """Every class has the same large weight, which sets the scale of those that tell them apart."""
    w = tiny._normal(np.random.default_rng(3), 4, 1, 8, 8)
    w[3] = 1 / 64
    small = np.random.default_rng(5).standard_normal((3, 3)).astype(F)
    body = """
        c = Conv (images, w, nothing)
        d = Conv (c, channels, nothing)
        flat = Flatten (d)
        logits = Gemm <transB = 1> (flat, w9, b9)
    """
    arrays = {"w": w, "nothing": NOTHING, "channels": CHANNELS, "b9": HEAD["b9"],
              "w9": np.concatenate([small, np.full((3, 1), 50, F)], 1)}  # fmt: skip
    return Planted("+ first and last layer float", body, arrays, max_drop=0.01)


def gate_that_a_constant_stretches() -> Planted:
    """Of two numbers in the gate one is vast and says nothing, the other is small and decides."""
    chance = np.random.default_rng(4)
    squeeze, excite = (chance.standard_normal(shape).astype(F) for shape in ((2, 4), (4, 2)))
    squeeze[0], excite[:, 0], excite[:, 1] = 0.01, 0.001 * excite[:, 0], 20 * excite[:, 1]
    body = """
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (images, w, nothing)
        r = Relu (c)
        mean = ReduceMean <keepdims = 1> (r, places)
        squeezed = Conv (mean, squeeze, offset)
        kept = Relu (squeezed)
        excited = Conv (kept, excite, nothing)
        gate = HardSigmoid (excited)
        gated = Mul (r, gate)
        d = Conv (gated, channels, nothing)
        pooled = ReduceMean <keepdims = 0> (d, places)
        logits = Gemm <transB = 1> (pooled, w9, b9)
    """
    arrays = {"w": np.random.default_rng(3).standard_normal((4, 1, 3, 3)).astype(F),
              "nothing": NOTHING, "places": PLACES, "channels": CHANNELS, "offset": F([300, 0.2]),
              "squeeze": squeeze[:, :, None, None], "excite": excite[:, :, None, None],
              **HEAD}  # fmt: skip
    return Planted("+ squeeze-and-excite float", body, arrays, max_drop=0.015)


def tail_of_a_swish() -> Planted:
    """What decides lies between -0.4 and 0; another channel stretches the ranges to 256."""
    w = 0.35 * np.random.default_rng(3).standard_normal((4, 1, 8, 8)).astype(F)
    w[3] = 8
    mixing = np.random.default_rng(4).standard_normal((4, 4, 1, 1)).astype(F)
    mixing[:, 3] *= 0.0005
    body = """
        first = Conv (images, one, zero)
        c = Conv (first, w, b)
        s = HardSwish (c)
        d = Conv (s, mixing, nothing)
        e = Conv (d, channels, nothing)
        f = Conv (e, channels, nothing)
        flat = Flatten (f)
        logits = Gemm <transB = 1> (flat, w9, b9)
    """
    arrays = {"one": np.ones((1, 1, 1, 1), F), "zero": np.zeros(1, F), "w": w, "mixing": mixing,
              "b": F([-1.5, -1.5, -1.5, 0]), "nothing": NOTHING, "channels": CHANNELS,
              **HEAD}  # fmt: skip
    return Planted("+ 2 noisiest layers float", body, arrays, max_drop=0.04)


CASES = (weights_that_round_one_way, one_vast_number_in_a_million,
         last_layer_that_tells_by_a_little, gate_that_a_constant_stretches,
         tail_of_a_swish)  # fmt: skip


def opened(graph: bytes, dtype: seal.InputDtype = "uint8") -> Classifier:
    shape = {"input": seal.describe_input(dtype, tiny.GREY)}
    return Classifier(seal.seal(graph, made.document() | shape))


@pytest.mark.parametrize("case", CASES)
def test_the_rung_that_is_made_for_it_rescues_and_none_before(case):
    planted = case()
    uneven = opened(made.graph(planted.body, planted.arrays).SerializeToString(), "float32")
    planted.arrays["b9"] = (-uneven.logits(planted.judges).mean(axis=0)).astype(F)
    model = made.graph(planted.body, planted.arrays).SerializeToString(deterministic=True)
    exact = opened(model, "float32").logits(planted.judges)
    images = SimpleNamespace(images=planted.judges, labels=exact.argmax(axis=1))

    def run(graph, images):
        return opened(graph).logits(images)

    calibrated = portable.calibrate(model, planted.ranges[:, None].astype(F) / F(255))

    def noise(layer):
        logits = run(calibrated.quantised(only=[layer]), planted.judges[:128])
        return float(((logits - exact[:128]) ** 2).sum())

    half = ladder.Half(images, exact, run, "images", planted.max_drop)
    found = ladder.climb(calibrated, half, half, noise)
    assert found.way.name == planted.rung, [rung.line() for rung in found.rungs]
    *before, last = [rung for rung in found.rungs if rung.gate]
    assert last.holds
    assert before
    assert min(rung.gate.upper_bound for rung in before) > 1.2 * planted.max_drop
    assert last.gate.upper_bound < 0.8 * planted.max_drop
