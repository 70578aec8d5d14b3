"""Plant duplicates among letters and look for them: `python benchmarks/duplicates.py`.

Letters are drawn in the fonts of this system (`fc-list`), coloured, noisy, anywhere; 2,000 of
10,000 are planted again, saved as JPEG (quality 60 to 95) in 50 to 150 % of their size, 500 as they
are. Fashion-MNIST holds no duplicate. Writes results/reference/duplicates.json.
"""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convnet_edge.data import fashion_mnist
from convnet_edge.data.duplicates import dhashes, find
from convnet_edge.runtime.files import write_json
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.measure.stats import Array, wilson_interval

REFERENCE = Path(__file__).resolve().parent / "results" / "reference" / "duplicates.json"
N_LETTERS, N_AGAIN, N_EXACT = 10_000, 2_000, 500
DRAWN, SIDE = 96, 64  # pixels
MIN_CONTRAST = 60  # levels of grey between letter and ground
GREY = np.array([0.299, 0.587, 0.114])
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def main() -> None:
    """Draw, plant, search, print and write what was found."""
    rng = np.random.default_rng(0)
    command = ["/usr/bin/env", "fc-list", ":lang=en", "file"]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    paths = sorted(line.rstrip(": ") for line in listed.stdout.decode().splitlines())
    fonts = [path for path in paths if path.endswith((".ttf", ".otf"))]
    result = {
        "schema": "convnet-edge/duplicates-benchmark/1",
        "command": "python benchmarks/duplicates.py",
        "letters": among_letters(fonts, rng),
        "fashion_mnist": among_garments(),
        "fonts": [Path(path).name for path in fonts],
        "machine": machine.passport(),
        "versions": machine.versions(("numpy", "pillow")),
    }
    print(json.dumps(result, indent=1))
    write_json(REFERENCE, result)


def among_letters(fonts: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """Return how many planted letters were found, and how many stand in a false pair.

    One glyph of one font drawn twice is no false pair.
    """
    drawn, glyphs, again = [], [], []
    for number in range(N_LETTERS):
        glyph = (fonts[rng.integers(len(fonts))], chr(rng.integers(ord("A"), ord("Z") + 1)))
        picture = letter(*glyph, rng)
        drawn.append(fitted(picture))
        glyphs.append(glyph)
        if number < N_AGAIN:
            again.append(fitted(saved_again(picture, rng)))
    pixels = np.stack([*drawn, *again, *drawn[-N_EXACT:]])
    glyphs += glyphs[:N_AGAIN] + glyphs[-N_EXACT:]
    found = find(pixels, dhashes(pixels))
    near = {(int(one), int(other)) for one, other in found.near}
    n_near = sum((number, N_LETTERS + number) in near for number in range(N_AGAIN))
    first = len(pixels) - N_EXACT
    n_exact = int((found.first[first:] == np.arange(N_LETTERS - N_EXACT, N_LETTERS)).sum())
    false = {number for pair in near if len({glyphs[one] for one in pair}) > 1 for number in pair}
    return {
        "n": N_LETTERS,
        "n_fonts": len(fonts),
        "n_exact_planted": N_EXACT,
        "n_exact_found": n_exact,
        "n_saved_again_planted": N_AGAIN,
        "n_saved_again_found": n_near,
        "saved_again_found_share": n_near / N_AGAIN,
        "interval_95": asdict(wilson_interval(n_near, N_AGAIN)),
        "n_in_a_false_pair": len(false),
    }


def among_garments() -> dict[str, Any]:
    """Return what is found in all 70,000 images of Fashion-MNIST, and how long it takes."""
    training = fashion_mnist.load_training_set("fashion-mnist", None).images
    pixels = np.concatenate([training, fashion_mnist.load_test_set().images])
    times_s = [time.perf_counter()]
    hashes = dhashes(pixels)
    times_s.append(time.perf_counter())
    started_s = time.process_time()
    found = find(pixels, hashes)
    cpu_s = time.process_time() - started_s
    times_s.append(time.perf_counter())
    for image in pixels[:N_LETTERS]:
        dhashes(image[None])
    times_s.append(time.perf_counter())
    hashes_s, find_s, one_by_one_s = np.diff(times_s).tolist()
    return {
        "n": len(pixels),
        "n_test": len(pixels) - len(training),
        "n_exact_groups": int((np.bincount(found.first) > 1).sum()),
        "n_near_pairs": len(found.near),
        "n_test_in_a_near_pair": int((np.unique(found.near) >= len(training)).sum()),
        "dhashes_s": hashes_s,
        "find_s": find_s,
        "find_cpu_s": cpu_s,
        "dhash_us": one_by_one_s / N_LETTERS * 1e6,
    }


def letter(font: str, character: str, rng: np.random.Generator) -> Image.Image:
    """Return a character somewhere on even ground, in random colours, with or without noise."""
    while True:
        ground, ink = rng.integers(0, 256, (2, 3))
        if abs((ground - ink) @ GREY) > MIN_CONTRAST:
            break
    picture = Image.new("RGB", (DRAWN, DRAWN), tuple(ground.tolist()))
    ImageDraw.Draw(picture).text(
        tuple(DRAWN / 2 + rng.uniform(-12, 12, 2)),
        character,
        tuple(ink.tolist()),
        ImageFont.truetype(font, int(rng.integers(40, 80))),
        anchor="mm",
    )
    noise = rng.normal(0, 1, (DRAWN, DRAWN, 3)) * rng.choice([0, 4, 12, 24])
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).round().astype(np.uint8))


def saved_again(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the picture resized by 50 to 150 % and back from a JPEG file of quality 60 to 95."""
    side = round(DRAWN * rng.uniform(0.5, 1.5))
    file = io.BytesIO()
    resized = picture.resize((side, side), FILTERS[rng.integers(len(FILTERS))])
    resized.save(file, "JPEG", quality=int(rng.integers(60, 96)))
    return Image.open(file)


def fitted(picture: Image.Image) -> Array:
    """Return the picture as a network of 64 x 64 takes it."""
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


if __name__ == "__main__":
    main()
