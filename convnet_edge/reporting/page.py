"""Write a report as one HTML file that needs nothing else: no script, font, link or network.

Every text is escaped where it enters an element; only charts, drawn by this program, come as they
are.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .tables import Table

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
NUMBER = re.compile(r"-?\d[\d,.]*( %)?( \(.*\))?|n/a .*|–")
LONG = 34  # characters; shorter cells stay on one line
MAX_TINT = 0.55

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --ink: #1b1f24; --soft: #57606a;
  --line: #d0d7de; --head: #f3f5f7; --warn: #fff4d6; --edge: #9a6700;
  --bad: #b3261e; --noisy: #8a5a00 }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171a; --ink: #e6e8ea; --soft: #a5adb6; --line: #3a4149; --head: #1f2428;
    --warn: #33290f; --edge: #d9a531; --bad: #ff9089; --noisy: #e7b64c }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--back);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: 0 0 .5rem } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
p { max-width: 46rem } .soft, figcaption { color: var(--soft); font-size: .9rem }
.verdicts { font-size: 1.1rem; font-weight: 600 }
.warnings { background: var(--warn); border-left: .25rem solid var(--edge);
  padding: .5rem .5rem .5rem 1.6rem; margin: 1rem 0 }
.scroll { overflow-x: auto; margin: 1rem 0; max-width: 100% }
.scroll:focus-visible { outline: 2px solid var(--edge) }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums;
  overflow-wrap: break-word }
caption { text-align: left; font-weight: 600; padding: .25rem 0 }
caption span { position: sticky; left: 0; display: inline-block;
  max-width: min(100%, calc(100vw - 2rem)) }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .45rem; text-align: left;
  vertical-align: top; max-width: 26rem }
thead th { background: var(--head) }
tbody th { font-weight: 400; position: sticky; left: 0; background: var(--back) }
tbody td, tbody th { white-space: nowrap } td.n, th.n { text-align: right }
tbody .long { white-space: normal; min-width: 15rem }
table.facts { overflow-wrap: anywhere } table.facts th { min-width: 8rem }
table.facts td { max-width: 44rem } table.facts :is(th, td) { white-space: normal }
table.facts .long { min-width: 0 }
.charts { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)) }
figure { margin: 0; max-width: 36rem } svg { width: 100%; height: auto; display: block }
svg text { font-family: system-ui, sans-serif !important }
svg * { stroke-linejoin: round; stroke-linecap: butt }
details { border: 1px solid var(--line); border-radius: .3rem; margin: .75rem 0 }
summary { padding: .6rem .8rem; cursor: pointer; font-weight: 600 }
details > div { padding: 0 .8rem .5rem }
.bad { color: var(--bad); font-weight: 600 } .noisy { color: var(--noisy); font-weight: 600 }
@media print {
  :root { color-scheme: light; --back: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --head: #eee; --warn: #fff; --bad: #b3261e; --noisy: #8a5a00 }
  body { max-width: none; padding: 0; font-size: 9pt }
  .scroll { overflow: visible } table { font-size: 7.5pt }
  th, td { padding: .15rem .3rem } tbody :is(td, th) { white-space: normal; position: static }
  tr, figure { break-inside: avoid } details { border: 0 }
  details::details-content { content-visibility: visible; block-size: auto }
}
"""


class Markup(str):
    """Text that is HTML already; all other text is escaped on its way into an element."""

    __slots__ = ()


@dataclass(frozen=True)
class Figure:
    """A chart in the page. svg: None where it could not be drawn. description: what it shows."""

    name: str
    title: str
    description: str
    svg: str | None


@dataclass(frozen=True)
class Section:
    """What folds open for one result."""

    title: str
    notes: tuple[str, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Page:
    """All that the page says. missing: why charts are not there, None where they are."""

    title: str
    verdicts: str
    source: str
    warnings: tuple[str, ...]
    tables: tuple[Table, ...]
    reasons: tuple[str, ...]
    figures: tuple[Figure, ...]
    missing: str | None
    sections: tuple[Section, ...]


def render(page: Page) -> str:
    """Return the whole file; equal pages give equal text."""
    head = (
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", page.title),
        Markup(f"<style>{STYLE}</style>"),
    )
    body = [
        element("h1", page.title),
        element("p", page.verdicts, of="verdicts"),
        element("p", page.source, of="soft"),
    ]
    if page.warnings:
        body.append(element("ul", *_items(page.warnings), of="warnings"))
    body += [element("h2", "Results"), *map(table_html, page.tables)]
    if page.reasons:
        body += [element("h2", "Why a verdict is not VALID"), _list(page.reasons)]
    body += [element("h2", "Charts"), *_charts(page)]
    body += [element("h2", "Each result"), *map(_details, page.sections)]
    rows = [*head, "</head>", "<body>", element("main", *body), "</body>", "</html>", ""]
    return "\n".join(["<!DOCTYPE html>", '<html lang="en">', "<head>", *rows])


def element(name: str, *children: str, of: str = "", **attributes: str) -> Markup:
    """Return an element. children: escaped unless Markup. of: its class."""
    given = ({"class": of} if of else {}) | attributes
    opening = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in given.items())
    inside = "".join(
        child if isinstance(child, Markup) else html.escape(child) for child in children
    )
    return Markup(f"<{name}{opening}>{inside}</{name}>")


def table_html(table: Table) -> Markup:
    """Return the table in a container that scrolls by itself."""
    is_facts = len(table.columns) == 2
    numeric = [not is_facts and _is_numeric(column) for column in zip(*table.rows, strict=True)]
    head = [
        element("th", name, of=_kind(name, right), scope="col")
        for name, right in zip(table.columns, numeric, strict=True)
    ]
    rows = [
        _row(row, numeric, table.tints[index] if table.tints else ())
        for index, row in enumerate(table.rows)
    ]
    whole = element(
        "table",
        element("caption", element("span", table.caption)),
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        of="facts" if is_facts else "",
    )
    label = {"aria-label": table.caption}
    return element("div", whole, of="scroll", role="region", tabindex="0", **label)


def _row(row: Sequence[str], numeric: Sequence[bool], tints: Sequence[float]) -> Markup:
    cells = [element("th", row[0], of=_kind(row[0], numeric[0]), scope="row")]
    for index, content in enumerate(row[1:]):
        attributes = {}
        if index < len(tints) and tints[index] > 0:
            alpha = MAX_TINT * min(tints[index], 1) ** 0.5
            attributes["style"] = f"background: rgb(0 114 178 / {alpha:.3f})"
        kind = f"{_kind(content, numeric[index + 1])} {_tone(content)}".strip()
        cells.append(element("td", content, of=kind, **attributes))
    return element("tr", *cells)


def _kind(content: str, is_number: bool) -> str:
    return "n" if is_number else "long" if len(content) > LONG else ""


def _is_numeric(column: Iterable[str]) -> bool:
    return all(NUMBER.fullmatch(content) for content in column)


def _tone(content: str) -> str:
    if content in ("INVALID", "FAILED") or content.startswith("failed: "):
        return "bad"
    return "noisy" if content in ("NOISY", "interrupted") else ""


def _charts(page: Page) -> list[Markup]:
    drawn = [_figure(figure) for figure in page.figures if figure.svg is not None]
    missing = [element("p", page.missing)] if page.missing else []
    return [*missing, element("div", *drawn, of="charts")] if drawn else missing


def _figure(figure: Figure) -> Markup:
    title_id = f"{figure.name}-title"
    opening = f'<svg role="img" aria-labelledby="{html.escape(title_id)}"'
    title = element("title", f"{figure.title}. {figure.description}", id=title_id)
    head, rest = (figure.svg or "").removeprefix("<svg").split(">", 1)
    svg = Markup(f"{opening}{head}>{title}{rest}")
    caption = element("figcaption", element("strong", figure.title), " ", figure.description)
    return element("figure", caption, svg)


def _details(section: Section) -> Markup:
    notes = [_list(section.notes)] if section.notes else []
    content = element("div", *notes, *map(table_html, section.tables))
    return element("details", element("summary", section.title), content)


def _list(entries: Iterable[str]) -> Markup:
    return element("ul", *_items(entries))


def _items(entries: Iterable[str]) -> list[Markup]:
    return [element("li", entry) for entry in entries]
