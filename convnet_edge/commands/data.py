"""`data`: look through pictures before training on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.options import ExamineOptions, PreparationOptions
from ..runtime.errors import CheckFailedError
from ..runtime.files import brief, fold
from .terminal import Terminal, as_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..data.checks import Report
    from ..data.dataset import Dataset
    from ..drawing.pictures import Picture
    from ..drawing.sheets import Side

MAX_PAIRS = 2_000
SCREEN_COLUMNS = 80
REPORT_LINES = 19  # of a screen's 25: the others say what was written, and what is next or wrong
MAX_LETTERS = 150  # of what is listed: two lines
FIRST_CLASSES = 5  # before more of anything else
BY_WEIGHT = ("leaks", "warnings", "left_out", "near", "classes")


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

    cache_dir = options.cache_dir
    if options.clear_cache:
        terminal.say(f"removed {cache.clear(cache_dir) / 1e6:,.0f} MB from {cache_dir}")
    with terminal.progress():
        terminal.step(f"reading {options.data}")

        def tell(n: int, n_total: int) -> None:
            terminal.share(n / n_total, f"{n:,} of {n_total:,} pictures")

        found = examine(options, tell)
    whole = found.report.lines()
    lines = whole if terminal.verbose else _first_screen(found.report)
    terminal.answer(*lines)
    if lines != whole:
        terminal.answer("(more with --verbose)")
    terminal.wrote((found.report_path,), found.pictures)
    terminal.detail(f"decoded pictures: {cache_dir}, {cache.size(cache_dir) / 1e6:,.0f} MB")
    sound = not found.report.leaks or options.allow_leaks
    asked = replace(options, recheck=False)
    command = ["convnet-edge", "train", *as_words(asked, PreparationOptions)]
    terminal.finish(found.report.as_json(), *(command if sound else ()))
    try:
        found.report.refuse_leaks()
    except CheckFailedError as error:
        error.details = ()  # the report has just shown them
        raise


def _first_screen(report: Report) -> list[str]:
    """Return as much of the report as a screen takes: in turn one more of each part of it."""
    from ..runtime.errors import MOST_NAMED
    from ..runtime.measure.tables import shorten

    n_shown = dict.fromkeys(BY_WEIGHT, 0)
    lines = report.lines(n_shown)
    for name in (*BY_WEIGHT, *["classes"] * FIRST_CLASSES, *BY_WEIGHT * MOST_NAMED):
        more = n_shown | {name: n_shown[name] + 1}
        longer = [shorten(line, MAX_LETTERS) for line in report.lines(more)]
        rows = [row for line in longer for row in fold(line, SCREEN_COLUMNS)]
        if sum(max(1, ceil(len(row) / SCREEN_COLUMNS)) for row in rows) <= REPORT_LINES:
            n_shown, lines = more, longer
    return lines


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
        entry, part = kept.pictures.scan.entries[place], PARTS[kept.parts[place]]
        # a file's name may be no text
        name = Path(entry.path).name.encode(errors="backslashreplace").decode()
        return Side(kept.pictures.pixels[place], part, entry.label, name)

    pairs = kept.alike.pairs(kept.parts != UNUSED)
    for one, other, distance in islice(pairs, MAX_PAIRS):
        yield side(one), side(other), distance
