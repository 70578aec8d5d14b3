"""Which way of making integers is taken, and what is told of those that are not."""

from dataclasses import replace
from types import SimpleNamespace

import made
import numpy as np
import onnx
import pytest
import tiny

from convnet_edge.quantizing import ladder
from convnet_edge.quantizing.ladder import Half, climb

N = 1000
STATIC = [
    "min-max", "+ bias correction", "+ percentile 99.999", "+ gates and swishes float",
    "+ first and last layer float",
]  # fmt: skip
LAYERS = list("abcdef")


class Calibrated:
    """Stands for a graph of six layers; that of a way is the way's arguments in words."""

    layers, products = LAYERS, ["swish"]
    proto = onnx.ModelProto()

    def quantised(self, **how):
        return repr(how).encode()


@pytest.fixture
def half():
    """Images of two classes; what holds is what a test lets through."""
    labels = np.arange(N) % 2
    exact = np.eye(2)[labels]
    right = set()

    def run(graph, images):
        good = not right or any(part in graph.decode() for part in right)
        return exact * (0.9 if good else -0.5)

    images = SimpleNamespace(images=np.zeros((N, 1)), labels=labels)
    half = Half(images, exact, run, "images", 0.01)

    def go(**options):
        return climb(Calibrated(), found.half, found.other, ord, **options)

    found = SimpleNamespace(half=half, other=half, right=right, climb=go)
    return found


def rungs(found):
    return [(rung.name, rung.holds, rung.gate is not None) for rung in found.rungs]


def test_first_way_that_holds_is_taken_and_the_others_are_told_as_not_tried(half):
    found = half.climb()
    assert found.way.name == "min-max"
    assert rungs(found) == [
        ("min-max", True, True),
        *((name, False, False) for name in [*STATIC[1:], "+ N noisiest layers float"]),
    ]
    assert found.rungs[1].line() == "+ bias correction: not tried"
    assert "dB, 100.00 % as float, drop +0.00" in found.rungs[0].line()


@pytest.mark.parametrize(
    ("right", "rung", "float_layers"),
    [
        ("'corrected': True", 1, ()),
        ("'inner': True", 2, ()),
        ("'float_products': True", 3, ()),
        ("('a', 'f')", 4, ("a", "f")),
        ("('a', 'f', 'e', 'd')", 6, ("a", "f", "e", "d")),
    ],
)
def test_each_rung_keeps_what_is_below_it(half, right, rung, float_layers):
    half.right.add(right)
    found = half.climb()
    assert [one.holds for one in found.rungs[: rung + 1]] == [False] * rung + [True]
    assert found.way.float_layers == float_layers
    way = found.way
    assert (way.corrected, way.inner, way.float_products) == (rung >= 1, rung >= 2, rung >= 3)
    assert found.rungs[rung].n_float_layers == len(float_layers)


def test_where_the_other_half_says_otherwise_the_first_is_taken_and_all_are_told(half):
    seen = []

    def run(graph, images):
        seen.append(graph)
        return half.half.run(graph, images) * -1

    half.other = replace(half.half, run=run)
    found = half.climb()
    assert len(seen) == 1  # once, whatever it says
    assert (found.way.name, found.gate.holds) == ("min-max", False)
    assert found.rungs == half.climb(every=True).rungs


def test_where_none_holds_nothing_is_confirmed_and_it_is_refused(half):
    """A lucky other half would let through what the first one refuses on every rung."""
    exact, seen = half.half.logits, []
    half.half = replace(half.half, run=lambda *_: -exact)

    def run(graph, images):
        seen.append(graph)
        return exact

    half.other = replace(half.half, run=run)
    found = half.climb()
    assert not seen
    assert not found.gate.holds
    assert not any(rung.holds for rung in found.rungs)


def test_all_rungs_are_tried_where_that_is_asked_and_the_first_is_taken(half):
    found = half.climb(every=True)
    assert found.way.name == "min-max"
    assert [rung.name for rung in found.rungs] == [
        *STATIC, *(f"+ {n} noisiest layers float" for n in (1, 2, 3)),
    ]  # fmt: skip
    assert all(rung.holds for rung in found.rungs)


@pytest.mark.parametrize(("n_lost_then", "rung"), [(0, 1), (5, 0)])
def test_what_just_holds_is_left_for_what_holds_amply_if_there_is_any(half, n_lost_then, rung):
    """The other half would show the first to be too much as often as not."""
    exact = half.half.logits

    def run(graph, images):
        logits = exact * 0.9
        logits[: n_lost_then if b"'corrected': True" in graph else 5] *= -1
        return logits

    half.half = replace(half.half, run=run)
    found = half.climb()
    assert found.rungs[0].holds and not found.rungs[0].gate.is_ample
    assert found.way.name == STATIC[rung]
    assert (found.rungs[2].gate is None) == (rung == 1)


def test_without_gates_and_swishes_their_rung_is_left_out(half, monkeypatch):
    monkeypatch.setattr(Calibrated, "products", [])
    found = half.climb(every=True)
    assert [rung.name for rung in found.rungs[:4]] == [*STATIC[:3], STATIC[4]]


def test_with_integers_alone_nothing_becomes_float(half):
    half.right.add("nothing")
    found = half.climb(in_integers=True)
    assert [rung.name for rung in found.rungs] == STATIC[:3]
    assert not any(rung.holds for rung in found.rungs)


def test_gates_are_the_layers_between_a_mean_and_the_product_it_scales():
    proto = made.graph(
        """
        deep = Conv (images, w1)
        squeezed = ReduceMean <keepdims = 1> (deep, sides)
        few = Conv (squeezed, w2)
        kept = Relu (few)
        many = Conv (kept, w3)
        gate = HardSigmoid (many)
        gated = Mul (gate, deep)
        last = Conv (gated, w4)
        bent = Sigmoid (last)
        swish = Mul (last, bent)
        flat = Flatten (swish)
        logits = Mul (flat, scale)
        """,
        {name: made.draw(2, 2, 1, 1) for name in ("w1", "w2", "w3", "w4")}
        | {"sides": np.int64([2, 3]), "scale": np.float32(2)},
    )
    for node in proto.graph.node:
        node.name = node.output[0]
    assert ladder.gate_layers(proto) == ["few", "many"]
    assert ladder.gate_layers(tiny.graph(tiny.GREY, "float32")) == []
    plain = made.graph("logits = Flatten (images)", {})
    assert ladder.gate_layers(plain) == []
