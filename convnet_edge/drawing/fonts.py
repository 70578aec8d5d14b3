"""Find installed fonts for letters that matplotlib's own font lacks: Chinese, Korean, emoji."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN, BOXES = "DejaVu Sans", "Last Resort"  # both come with matplotlib; one has boxes for all
UNREADABLE = (OSError, RuntimeError, ValueError)  # what matplotlib raises of a font


def lacking(figure: Figure) -> set[int]:
    """Return the code points in a drawn figure's texts that the own font lacks."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    texts = (text.get_text() for text in figure.findobj(Text))
    shown = {ord(letter) for text in texts for letter in text if letter.isprintable()}
    if max(shown, default=0) < 128:
        return set()
    return shown.difference(get_font(findfont(OWN)).get_charmap())


def add_fonts(figure: Figure, wanted: set[int]) -> set[int]:
    """Let a figure's texts take `wanted` code points from other fonts; return those none has."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    fonts, families, left = font_manager.fontManager, [OWN], wanted
    for path in {*font_manager.findSystemFonts()} - {font.fname for font in fonts.ttflist}:
        with contextlib.suppress(*UNREADABLE):
            fonts.addfont(path)  # installed since matplotlib listed them
    plain_first = sorted(fonts.ttflist, key=lambda one: (one.style, one.weight) != ("normal", 400))
    for font in plain_first:
        if not left or font.name.startswith(BOXES):
            continue
        with contextlib.suppress(*UNREADABLE):  # or removed since
            has = font_manager.get_font(font.fname).get_charmap()
            if not left.isdisjoint(has):
                families.append(font.name)
                left = left.difference(has)
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
    return left
