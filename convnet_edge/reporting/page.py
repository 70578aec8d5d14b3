"""Write a report as one HTML file that needs no script, font, link or network; and in Markdown.

The page's look is `page.html.jinja`'s. Every text is escaped; only charts, drawn by this program,
come as they are.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..drawing.pictures import Picture
from ..runtime.measure import tables
from ..runtime.measure.tables import Table

TITLE = "Inference benchmark"
TEMPLATE = Path(__file__).with_name("page.html.jinja")
NUMBER = re.compile(r"-?\d[\d,.]*( (%|MB|bytes))?( \(.*\))?|n/a .*|needs .*|–")
LONG = 34  # characters; shorter cells stay on one line
MAX_TINT = 0.55
TONES = {"INVALID": "bad", "FAILED": "bad", "failed": "bad", "NOISY": "noisy",
         "interrupted": "noisy"}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """All that the report says.

    reasons: why a verdict is not VALID. figures: title, what it shows in words, and picture.
    missing: why charts are not there, None where they are. sections: title, notes and tables of
    what folds open for each result.
    """

    summary: str
    source: str
    warnings: tuple[str, ...]
    tables: tuple[Table, ...]
    reasons: tuple[str, ...]
    figures: tuple[tuple[str, str, Picture], ...]
    missing: str | None
    sections: tuple[tuple[str, list[str], tuple[Table, ...]], ...]


def to_html(page: Page) -> str:
    """Return the whole file; equal pages give equal text."""
    return _renderer()(page=page, title=TITLE)


def to_markdown(page: Page) -> str:
    """Return the same, but what folds open."""
    safe = tables.markdown_text
    blocks = [f"# {TITLE}", f"{safe(page.summary)}.", safe(page.source)]
    blocks += ["\n".join(f"- {safe(one)}" for one in page.warnings)] * bool(page.warnings)
    blocks += map(tables.to_markdown, page.tables)
    if page.reasons:
        listed = "\n".join(f"- {safe(reason)}" for reason in page.reasons)
        blocks.append(f"Why a verdict is not VALID:\n\n{listed}")
    blocks += [safe(page.missing)] if page.missing else []
    for title, description, picture in page.figures:
        if picture.drawn:
            blocks += [f"![{safe(title)}](<{picture.path.name}>)", safe(description)]
    return "\n\n".join(blocks) + "\n"


@functools.cache
def _renderer() -> Callable[..., str]:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"look": _look, "tint": _tint}
    return environment.from_string(TEMPLATE.read_text()).render


def _look(cell: str, table: Table, column: int) -> str:
    """Return a cell's classes: numbers are set right, in a column whose first cell is one."""
    is_number = len(table.columns) > 2 and NUMBER.fullmatch(table.rows[0][column])
    tone = TONES.get(cell.partition(":")[0], "") if column else ""
    return f"{'n' if is_number else 'long' if len(cell) > LONG else ''} {tone}".strip()


def _tint(table: Table, row: int, column: int) -> str:
    """Return how strongly to tint a cell, as a CSS alpha; empty for not at all."""
    share = table.tints[row][column - 1] if table.tints else 0.0
    return f"{MAX_TINT * min(share, 1.0) ** 0.5:.3f}" if share > 0 else ""
