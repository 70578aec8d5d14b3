"""Answers in columns: handed on whole, joined in order, or not at all."""

import io

import numpy as np
import pytest

from convnet_edge.predicting.answers import NO_CLASS, Answers, Spent

TWO = Answers(
    ["a.png", "b.png"],
    {1: "b.png is empty"},
    np.array([[3, 1], [NO_CLASS, NO_CLASS]], np.int32),
    np.array([[0.75, 0.25], [0, 0]], np.float32),
    np.array([True, False]),
    np.array([[7] * 32, [0] * 32], np.uint8),
    Spent(0.1, 0.2, 0.3),
)
COLUMNS = ("top", "scores", "unsure", "digests")


def require_equal(found, wanted):
    assert (found.paths, found.errors) == (wanted.paths, wanted.errors)
    for name in COLUMNS:
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert found.spent == pytest.approx(wanted.spent)


def test_a_stream_gives_back_what_it_was_given_one_after_the_other():
    no_digests = Answers.failed(["c.png"], ["gone"], 2, digest=False)
    stream = io.BytesIO(TWO.to_bytes() + no_digests.to_bytes())
    require_equal(Answers.read(stream, TWO.paths), TWO)
    require_equal(Answers.read(stream, ["c.png"]), no_digests)
    with pytest.raises(EOFError):
        Answers.read(stream, [])


def test_a_stream_that_ends_anywhere_before_gives_nothing():
    whole = TWO.to_bytes()
    for n in range(len(whole)):
        with pytest.raises(EOFError):
            Answers.read(io.BytesIO(whole[:n]), TWO.paths)


def test_joined_keeps_order_errors_and_seconds():
    failed = Answers.failed(["c.png", "d.png"], ["gone", "no picture"], 2, digest=True)
    found = Answers.joined([TWO, failed, TWO])
    assert found.paths == ["a.png", "b.png", "c.png", "d.png", "a.png", "b.png"]
    assert found.errors == {
        1: "b.png is empty", 2: "gone", 3: "no picture", 5: "b.png is empty",
    }  # fmt: skip
    assert found.top[:, 0].tolist() == [3, NO_CLASS, NO_CLASS, NO_CLASS, 3, NO_CLASS]
    assert found.spent == pytest.approx((0.2, 0.4, 0.6))
    assert len(found) == 6
