import sys

import numpy as np
import pytest
from PIL import Image

from convnet_edge.drawing import pictures as plots

EPOCHS = [{"epoch": i, "mean_loss": 1 / i, "accuracy": 1 - 1 / (i + 1)} for i in (1, 2, 3)]
DRAWERS = {
    "curve": lambda path: plots.training_curve(path, EPOCHS),
    "one epoch": lambda path: plots.training_curve(path, EPOCHS[:1]),
    "parity": lambda path: plots.parity_errors(
        path, np.array([1e-7, 2e-6, np.inf]), floor=1e-6, tolerance=8e-6
    ),
    "parity of nothing": lambda path: plots.parity_errors(
        path, np.full(3, np.inf), floor=1e-6, tolerance=8e-6
    ),
    "latency": lambda path: plots.latency(
        path, {1: np.array([1.0, 1.1, 9.0]), 8: np.ones(20)}, "title"
    ),
    "confusion": lambda path: plots.confusion(path, [[5, 1], [0, 0]], ["a", "b"]),
    "grid": lambda path: plots.prediction_grid(
        path, np.zeros((15, 4, 4), np.uint8), ["a"] * 15, ["a"] * 14 + ["b"]
    ),
}


@pytest.mark.parametrize("name", DRAWERS)
def test_every_picture_is_drawn_and_not_blank(tmp_path, name):
    picture = DRAWERS[name](tmp_path / "sub" / "x.png")
    assert picture.drawn
    with Image.open(picture.path) as image:
        assert image.width > 400
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize("name", DRAWERS)
def test_without_matplotlib_nothing_is_drawn_and_nothing_breaks(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    picture = DRAWERS[name](tmp_path / "x.png")
    assert not picture.drawn
    assert list(tmp_path.iterdir()) == []
