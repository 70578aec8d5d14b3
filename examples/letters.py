"""Draw pictures of letters in the fonts of this machine: a data set that anybody can make.

    python examples/letters.py letters/ --pictures 2600

A folder for each letter, with JPEG and PNG files of several sizes: colours, light and noise vary.
Needs pillow and matplotlib, which finds the fonts and brings some of its own.
"""

import argparse
import string
from pathlib import Path

import numpy as np
from matplotlib import font_manager, get_data_path
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDES = (64, 160)  # pixels, the least and the greatest
SYMBOLS = (
    "cmex",
    "cmsy",
    "STIXSiz",
    "STIXNonUni",
    "Emoji",
    "Symbol",
    "Dingbat",
    "Icon",
    "D050000L",
)


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    fonts, chance = find_fonts(), np.random.default_rng(asked.seed)
    for number in range(asked.pictures):
        letter = string.ascii_uppercase[number % 26]
        path = asked.folder / letter / f"{number:05}.{'jpg' if number % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_letter(letter, fonts[chance.integers(len(fonts))], chance).save(path, quality=88)
    print(f"{asked.pictures:,} pictures in {asked.folder}, in {len(fonts)} fonts")


def find_fonts() -> list[str]:
    """Return the files of fonts that have Latin letters, the same ones in the same order."""
    own = Path(get_data_path(), "fonts", "ttf").glob("*.ttf")
    listed = {*font_manager.findSystemFonts(), *map(str, own)}
    return sorted(path for path in listed if has_letters(path))


def has_letters(path: str) -> bool:
    """Tell whether the font at `path` draws A, B and Z, each in its own way."""
    if any(word in path for word in SYMBOLS):
        return False
    try:
        masks = [bytes(ImageFont.truetype(path, 24).getmask(one)) for one in "ABZ"]
    except (OSError, ValueError):  # bitmaps, or damaged
        return False
    return len(set(masks)) == 3 and all(any(mask) for mask in masks)


def draw_letter(letter: str, font: str, chance: np.random.Generator) -> Image.Image:
    """Return a picture of `letter`: two colours that differ, light that falls off, noise."""
    width, height = chance.integers(*SIDES, 2).tolist()
    paper, ink = chance.integers(0, 256, (2, 3))
    while abs(int(paper.sum()) - int(ink.sum())) < 200:
        ink = chance.integers(0, 256, 3)
    picture = Image.new("RGB", (width, height), tuple(paper.tolist()))
    size = min(width, height) * chance.uniform(0.5, 0.8)
    middle = (width / 2 + chance.normal(0, width / 25), height / 2 + chance.normal(0, height / 25))
    draw = ImageDraw.Draw(picture)
    draw.text(middle, letter, tuple(ink.tolist()), ImageFont.truetype(font, size), anchor="mm")
    angle = chance.normal(0, 6)
    turned = picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=tuple(paper.tolist()))
    blurred = turned.filter(ImageFilter.GaussianBlur(chance.uniform(0, 1.2)))
    light = np.linspace(1, chance.uniform(0.6, 1), width)[None, :, None]
    noise = chance.normal(0, chance.uniform(2, 14), (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(blurred) * light + noise, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
