"""The contact sheet and the sheet of pairs: what they show first, and that they stay readable."""

from dataclasses import dataclass

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from convnet_edge.drawing import sheets
from convnet_edge.drawing.sheets import Side, contact_sheet, pair_sheet

CELL = sheets.THUMBNAIL + sheets.GAP
NAMES = ["Größe", "собака", "猫", "قطة", "$a_b$ 100%", "x" * 300, "..", "a\u200bb"]


@dataclass
class Part:
    """As many pictures of each class as `counts` says, the class being their level of grey."""

    counts: list[int]
    shape: tuple[int, ...] = (28, 28)

    def __post_init__(self):
        self.labels = np.repeat(np.arange(len(self.counts)), self.counts)
        levels = self.labels.reshape(-1, *[1] * len(self.shape))
        self.images = np.broadcast_to(levels, (len(self.labels), *self.shape)).astype(np.uint8)

    def __len__(self):
        return len(self.labels)


def shown(axes):
    """Return the level of grey in the middle of each cell, 255 where there is none."""
    (image,) = axes.get_images()
    return image.get_array()[CELL // 2 :: CELL, CELL // 2 :: CELL, 0]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_contact_sheet_has_a_row_a_class_with_the_counts_of_each_part_that_has_any():
    figure = Figure()
    parts = {"train": Part([30, 0, 2]), "validation": Part([0, 0, 0]), "test": Part([1, 3, 1])}
    contact_sheet.__wrapped__(figure, ["a", "b", "c"], parts)
    (axes,) = figure.axes
    none = [255]
    assert shown(axes).tolist() == [[0] * 10, [1] * 3 + none * 7, [2] * 3 + none * 7]
    assert ticks(axes.yaxis)[:2] == ["a\n30 train\n1 test", "b\n0 train\n3 test"]
    assert axes.get_title() == "37 pictures of 3 classes"
    assert axes.get_xlabel() == ""


def test_contact_sheet_of_many_classes_shows_twenty_and_says_how_many_more():
    figure = Figure()
    contact_sheet.__wrapped__(figure, [f"c{i}" for i in range(1234)], {"train": Part([12] * 1234)})
    (axes,) = figure.axes
    assert shown(axes).shape == (20, 10)
    assert axes.get_xlabel() == "and 1,214 more classes"


def test_contact_sheet_takes_its_pictures_from_all_over_a_class():
    part = Part([100])
    part.images = np.arange(100, dtype=np.uint8)[:, None, None] + np.zeros((1, 8, 8), np.uint8)
    figure = Figure()
    contact_sheet.__wrapped__(figure, ["a"], {"train": part})
    assert shown(figure.axes[0]).tolist() == [list(range(0, 100, 11))]


@pytest.mark.parametrize("shape", [(8, 256, 3), (256, 8), (3, 3), (500, 300, 3)], ids=str)
def test_pictures_of_any_shape_keep_their_shape_inside_their_cell(shape):
    figure = Figure()
    contact_sheet.__wrapped__(figure, ["a"], {"train": Part([1], shape)})
    (image,) = figure.axes[0].get_images()
    rows, columns = np.nonzero(image.get_array()[..., 0] == 0)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(height, width) == sheets.THUMBNAIL
    assert height == max(1, round(shape[0] * sheets.THUMBNAIL / max(shape)))


def test_pair_sheet_shows_equal_pairs_first_and_leaks_first_among_them():
    def side(part, label="a"):
        return Side(np.zeros((8, 8), np.uint8), part, label, "x.png")

    pairs = [
        (side("train"), side("train"), 1.5),
        (side("train"), side("test"), 3.0),
        (side("train"), side("test"), 0.5),
        (side("test"), side("test"), None),
        (side("train", "b"), side("train"), None),
        (side("train"), side("test"), None),
    ]
    figure = Figure()
    pair_sheet.__wrapped__(figure, pairs, n_pairs=6)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:6] == [
        "equal pixels, two parts",
        "equal pixels, two classes",
        "equal pixels",
        "0.5 levels apart, two parts",
        "3.0 levels apart, two parts",
        "1.5 levels apart",
    ]
    colors = [axes.title.get_color() for axes in figure.axes[:3]]
    assert colors == [sheets.RED, sheets.RED, sheets.INK]
    assert ticks(figure.axes[1].xaxis) == ["train\nb\nx.png", "train\na\nx.png"]
    assert "6 pairs" in figure.get_suptitle()
    assert "of them here" not in figure.get_suptitle()


def test_pair_sheet_of_many_pairs_shows_twenty_four_and_says_so():
    one = Side(np.zeros((8, 8), np.uint8), "train", "a", "x.png")
    figure = Figure()
    pair_sheet.__wrapped__(figure, [(one, one, 1.0)] * 30, n_pairs=2000)
    assert len(figure.axes) == 24
    assert "2,000 pairs" in figure.get_suptitle()
    assert "24 of them here" in figure.get_suptitle()


@pytest.mark.parametrize("n", [1, 8])
def test_sheets_with_names_of_any_script_are_written_at_a_bounded_size(tmp_path, n):
    contact = contact_sheet(tmp_path / "c.png", NAMES[:n], {"train": Part([12] * n)})
    sides = [Side(np.zeros((8, 8, 3), np.uint8), "train", name, name) for name in NAMES[:n]]
    pairs = pair_sheet(tmp_path / "p.png", [(side, side, 2.0) for side in sides], n_pairs=n)
    for picture in (contact, pairs):
        assert picture.drawn
        with Image.open(picture.path) as image:
            assert image.width < 2000
            ink = np.asarray(image.convert("L")) < 128
        assert ink.any()
        assert not ink[:, :2].any(), "a name runs out of the picture"


@pytest.fixture
def font_of_cats(tmp_path, monkeypatch):
    """The one font beside matplotlib's own: its 猫 is a filled square."""
    pen, builder, path = TTGlyphPen(None), FontBuilder(1000), tmp_path / "cats.ttf"
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=-200)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    own = [
        one
        for one in font_manager.fontManager.ttflist
        if one.name.startswith(("DejaVu Sans", "Last Resort"))
    ]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path)])
    return builder, path


def test_letters_that_matplotlib_lacks_are_drawn_in_a_font_that_has_them(tmp_path, font_of_cats):
    builder, font_path = font_of_cats
    font_path.write_text("no font")
    made, ink = [], []
    for name in ("before", "after"):
        made.append(contact_sheet(tmp_path / name, ["猫", "犬", "ж"], {"train": Part([3] * 3)}))
        with Image.open(made[-1].path) as image:
            ink.append(int((np.asarray(image.convert("L")) < 128).sum()))
        builder.save(font_path)
    assert [one.boxes for one in made] == ["犬猫", "犬"]
    assert ink[1] > ink[0] + 50  # a filled square for the outline of a box
