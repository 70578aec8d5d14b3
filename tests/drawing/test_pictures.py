import dataclasses
from functools import partial

import numpy as np
import pytest
import results as made
import tiny
from matplotlib.figure import Figure
from PIL import Image

from convnet_edge.drawing import pictures
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.measure import accuracy
from convnet_edge.runtime.measure.result import Calibration

FULL = made.full()
EPOCHS = [{"epoch": i, "mean_loss": 1 / i, "accuracy": 1 - 1 / (i + 1)} for i in (1, 2, 3)]
VALIDATED = [{**epoch, "validation_loss": 0.5, "validation_accuracy": 0.8} for epoch in EPOCHS]
UNREAD = dict.fromkeys(("clock_mhz", "temperature_c", "p50_ms", "p90_ms"))
BLIND = dataclasses.replace(FULL.paced.minutes[0], **UNREAD)
CELLS = [(f"{i}: a", np.zeros((8, 8), np.uint8), np.eye(3)[:2]) for i in range(3)]
PARITY = partial(pictures.parity_errors, floor=1e-6, tolerance=8e-6)
MANY = [f"c{i}" for i in range(31)]
LONG = [f"{name:x<200}" for name in MANY]


def scored(pairs, labels):
    """Return the score of images of which `pairs` are what they are and what was said."""
    true, said = np.array(pairs).T
    return accuracy.score(said, true, tuple(labels))


DRAWERS = {
    "curve": (pictures.training_curve, EPOCHS),
    "one epoch, validated": (pictures.training_curve, VALIDATED[:1]),
    "latency": (pictures.latency, {1: np.array([1.0, 1.1, 9.0]), 8: np.ones(20)}, "title"),
    "confusion": (pictures.confusion, scored([(0, 0)] * 5 + [(0, 1)], "ab")),
    "confusion of many": (pictures.confusion, scored([(i, i + 1) for i in range(30)], MANY)),
    "long names": (pictures.confusion, scored([(0, 1)], ("x" * 200, "y" * 200))),
    "long names of many": (pictures.confusion, scored([(0, 1)], LONG)),
    "reliability": (pictures.reliability, FULL.accuracy.calibration),
    "nodes": (pictures.nodes, FULL.profile),
    "minutes": (pictures.minutes, FULL.paced),
    "blind minutes": (pictures.minutes, dataclasses.replace(FULL.paced, minutes=(BLIND,))),
    "grid": (pictures.prediction_grid, np.zeros((15, 4, 4), np.uint8), ["a"] * 15, ["b"] * 15),
    "grid of long names": (pictures.prediction_grid, np.zeros((15, 4, 4), np.uint8), LONG, LONG),
    "differences of long names": (
        partial(pictures.differences, names=("x", "y"), title="t"),
        CELLS,
        LONG,
    ),
    "parity": (PARITY, np.array([1e-7, 2e-6, np.inf])),
    "parity of nothing": (PARITY, np.full(3, np.inf)),
    "differences": (partial(pictures.differences, names=("x", "y"), title="t"), CELLS, "abc"),
}


@pytest.mark.parametrize("name", DRAWERS)
def test_every_picture_is_drawn_and_not_blank(tmp_path, name):
    function, *arguments = DRAWERS[name]
    picture = function(tmp_path / "sub" / "x.png", *arguments)
    assert picture.drawn
    with Image.open(picture.path) as image:
        assert image.width > 400
        assert np.asarray(image.convert("L")).std() > 5


def test_grid_takes_all_of_few_test_images(tmp_path):
    test = tiny.image_set(4)
    grid = pictures.draw_grid(tmp_path / "x.png", Classifier(tiny.grey()), test)
    assert grid.picture.drawn
    assert sorted(grid.indices) == [0, 1, 2, 3]
    assert grid.true_names == tuple(tiny.LABELS[test.labels[index]] for index in grid.indices)


@pytest.mark.parametrize("background", ["#ffffff", "#14171a"])
def test_colours_stand_out_on_both_backgrounds(background):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for color in pictures.COLORS:
        high, low = sorted((luminance(color), luminance(background)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3, color


def test_axes_and_bars_say_what_they_show():
    figure = Figure()
    pictures.latency.__wrapped__(figure, {1: np.array([1.0, 1.1, 9.0])}, "title")
    trace, spread = figure.axes
    assert (trace.get_ylabel(), spread.get_ylabel()) == ("ms a run", "how often")
    figure = Figure()
    pictures.differences.__wrapped__(figure, CELLS, "abc", names=("x", "y"), title="t")
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "bars: probability of a class by"
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["0", "0.5", "1"]


def test_bins_of_few_images_are_pale():
    figure, (_, first, *others) = Figure(), FULL.accuracy.calibration.bins
    bins = (dataclasses.replace(first, n=pictures.N_FEW - 1), *others)
    pictures.reliability.__wrapped__(figure, Calibration(0.03, bins))
    assert [bar.get_alpha() for bar in figure.axes[0].patches] == [0.35] + [None] * len(others)
    assert any("fewer" in text.get_text() for text in figure.axes[0].get_legend().get_texts())


def test_axis_of_the_parity_picture_has_plain_numbers():
    figure = Figure()
    errors = np.geomspace(1e-7, 1e-5, 50)
    pictures.parity_errors.__wrapped__(figure, errors, floor=2e-6, tolerance=1.6e-5)
    figure.canvas.draw()
    labels = {tick.get_text() for tick in figure.axes[0].get_xticklabels(which="both")}
    assert {"", "1e−06"} <= labels <= {"", *(f"1e−{n:02}" for n in range(20))}


def test_confusion_of_many_classes_names_the_ten_pairs_confused_most():
    counts = np.diag(np.full(40, 50))
    counts[3, 7], counts[7, 3], counts[8, 9:20] = 20, 15, 2
    pairs = [pair for pair, count in np.ndenumerate(counts) for _ in range(count)]
    figure = Figure()
    pictures.confusion.__wrapped__(figure, scored(pairs, [f"c{i}" for i in range(40)]))
    (axes,) = figure.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names[:3] == ["c3\ntaken for c7", "c7\ntaken for c3", "c8\ntaken for c9"]
    assert [bar.get_width() for bar in axes.patches] == [20, 15] + [2] * 8
    assert axes.texts[0].get_text() == " 20 of 70"
    assert "57 of 2,057 test images" in axes.get_title()


def test_confusion_of_many_classes_without_a_mistake_says_so(tmp_path):
    score = scored([(i, i) for i in range(31)] * 9, MANY)
    assert pictures.confusion(tmp_path / "x.png", score).drawn
    figure = Figure()
    pictures.confusion.__wrapped__(figure, score)
    assert "0 of 279 test images are wrong" in figure.axes[0].get_title()
