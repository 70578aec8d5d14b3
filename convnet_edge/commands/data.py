"""`data`: look through pictures before training on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.options import ExamineOptions
from ..runtime.measure.result import brief
from .terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..data.checks import Report
    from ..data.dataset import Dataset
    from ..drawing.pictures import Picture
    from ..drawing.sheets import Side

MAX_PAIRS = 2_000


@dataclass(frozen=True)
class Examined:
    """What was found of the pictures, and where that is kept."""

    report: Report
    report_path: Path
    pictures: tuple[Picture, ...]

    __repr__ = brief


def command(options: ExamineOptions, terminal: Terminal) -> None:
    """Check pictures before training: what there is, what is left out, what stands twice.

    Pixel-equal pictures on two sides or with two labels end in exit 1, nothing else does.

    Examples: convnet-edge data photos/ · convnet-edge data list.csv --json
    """
    from ..data import cache

    cache_dir = options.cache or cache.default_dir()
    if options.clear_cache:
        terminal.say(f"removed {cache.clear(cache_dir) / 1e6:,.0f} MB from {cache_dir}")
    with terminal.progress():
        terminal.step(f"reading {options.data}")

        def tell(n: int, n_total: int) -> None:
            terminal.share(n / n_total, f"{n:,} of {n_total:,} pictures")

        found = examine(options, tell)
    terminal.answer(*(found.report.lines() if terminal.verbose else found.report.lines(5, 2)))
    terminal.wrote((found.report_path,), found.pictures)
    terminal.detail(f"the cache {cache_dir} takes {cache.size(cache_dir) / 1e6:,.0f} MB")
    sound = not found.report.leaks or options.allow_leaks
    named = () if options.data == "fashion-mnist" else ("--data", options.data)
    terminal.finish(found.report.as_json(), *(("convnet-edge", "train", *named) if sound else ()))
    found.report.refuse_leaks()


def examine(
    options: ExamineOptions, progress: Callable[[int, int], None] = lambda *_: None
) -> Examined:
    """Read and check the pictures of a source, write the report and draw them.

    progress hears how many pictures are decoded, of how many.

    Example: `ce.examine(ce.ExamineOptions("photos/")).report.warnings`

    Raises:
        InputError: the source is not there, not readable, or has too few pictures.
    """
    from ..data import dataset
    from ..drawing import sheets
    from ..runtime.files import write_json

    found = dataset.examine(options, progress)
    assert found.report is not None
    write_json(options.out, found.report.as_json())
    sets = {"train": found.train, "validation": found.validation, "test": found.test}
    contact = options.out.with_suffix(".contact.png")
    pictures = [sheets.contact_sheet(contact, found.class_labels, sets)]
    paired = options.out.with_suffix(".pairs.png")
    if pairs := list(_pairs(found)):
        pictures.append(sheets.pair_sheet(paired, pairs, n_pairs=len(pairs)))
    return Examined(found.report, options.out, tuple(pictures))


def _pairs(found: Dataset) -> Iterator[tuple[Side, Side, float | None]]:
    """Yield pictures that are alike, pixel-equal ones without a distance; not all of very many."""
    from ..data.scan import PARTS
    from ..data.split import UNUSED
    from ..drawing.sheets import Side

    kept = found.arranged
    assert kept is not None

    def side(place: int) -> Side:
        entry, part = kept.entries[place], PARTS[kept.parts[place]]
        return Side(kept.pixels[place], part, entry.label, Path(entry.path).name)

    exact = ((group[0], place, None) for group in kept.alike.exact for place in group[1:])
    near = zip(*kept.alike.near.T.tolist(), kept.alike.distances.tolist(), strict=True)
    for one, other, distance in islice(chain(exact, near), MAX_PAIRS):
        if UNUSED not in (kept.parts[one], kept.parts[other]):
            yield side(one), side(other), distance
