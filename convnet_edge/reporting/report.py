"""Put bench results side by side: a page, the same in Markdown, and the charts as pictures.

Measures nothing; what stands in a report stands in a result file. The page, whose look is
`page.html.jinja`'s, needs no script, font, link or network. Every text is escaped; only charts,
drawn by this program, come as they are.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..drawing import charts
from ..drawing.charts import Entry
from ..drawing.pictures import INSTALL, Picture
from ..runtime.contract import PROOFS
from ..runtime.files import brief, write_atomically
from ..runtime.measure import race, tables
from ..runtime.measure.result import Latency, Machine, Result
from ..runtime.measure.tables import NONE, Table
from .options import ReportOptions
from .read import read_results

TITLE = "Inference benchmark"
TEMPLATE = Path(__file__).with_name("page.html.jinja")
MAX_ROWS, MAX_WHERE = 12, 20  # of the first screen; characters of its column "on"
MAX_SHOWN = 29  # characters of a machine or a model
MAX_LISTED = 8  # things that a warning names
MAX_CHARTED = 20  # results; more are too many to tell apart, and take minutes to draw
LONG = 34  # characters; shorter cells stay on one line
MAX_TINT = 0.55
TONES = {"INVALID": "bad", "FAILED": "bad", "failed": "bad", "NOISY": "noisy",
         "interrupted": "noisy"}  # fmt: skip
MISSING = f"The charts are left out, matplotlib is not installed: {INSTALL} draws them."
NOTHING = "No result holds a measured time or size: nothing to chart."
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-web")
SPREAD = "How often each time came, on a logarithmic axis; further left is faster."
RATES = "Both axes are logarithmic; higher is faster."
TO_DEPLOY = "the fastest that is not shown to be less accurate"
FRONT = "none of the same machine is both faster and more accurate."


@dataclass(frozen=True)
class ReportResult:
    """What was written.

    summary: what a terminal shows of it. details: what it shows instead of all but the first line
    if more is wanted. warnings: why some of the numbers cannot be compared, or are missing. models:
    names of the files that were measured, and can be handed over.
    """

    html_path: Path
    markdown_path: Path
    pictures: tuple[Picture, ...]
    markdown: str
    summary: tuple[str, ...]
    details: tuple[str, ...]
    warnings: tuple[str, ...]
    models: tuple[str, ...]

    __repr__ = brief


@dataclass(frozen=True)
class _Page:
    """All that the report says.

    advice: which of models that were timed in turn to deploy. reasons: why a verdict is not VALID.
    figures: title, what it shows in words, and picture.
    missing: why charts are not there, None where they are. sections: title, notes and tables of
    what folds open for each result.
    """

    summary: str
    advice: tuple[str, ...]
    source: str
    warnings: tuple[str, ...]
    tables: tuple[Table, ...]
    reasons: tuple[str, ...]
    figures: tuple[tuple[str, str, Picture], ...]
    missing: str | None
    sections: tuple[tuple[str, list[str], tuple[Table, ...]], ...]


def report(options: ReportOptions) -> ReportResult:
    """Read the results and write the report; the same results give the same bytes.

    Example: `ce.report(ce.ReportOptions(["pi.json", "laptop.json"], out="r.html"))`

    Raises:
        InputError: there is no result, one is unusable, or the report cannot be written.
    """
    results = read_results(options.results)
    entries = _entries(results)
    models = [one.result.model for one in entries]
    charted = _telling(entries, MAX_CHARTED)
    figures = tuple(_figures(charted, options.out))
    pictures = tuple(picture for *_, picture in figures)
    drawn = all(picture.drawn for picture in pictures)
    fewer = f"charts show {len(charted)} of {len(entries)} results, those of a Pareto front first"
    newest = max(one.result.measured_at for one in entries)
    fleet, overview = _fleet(entries), (measurements(results), _overview(entries))
    said = _Page(
        summary=_summary(entries),
        advice=tuple(
            f"{one.name}, {_machine(one)}: {said}"
            for one in entries
            for said in _compared(one.result)
        ),
        source=f"Newest measurement: {newest}. Intervals are those stated by the results.",
        warnings=(*_warnings(entries), *[fewer] * (len(charted) < len(entries))),
        tables=tuple(table for table in (fleet, *overview) if table.rows),
        reasons=tuple(f"{e.number}, {e.name}, {reason}" for e in entries for reason in _reasons(e)),
        figures=figures,
        missing=NOTHING if not figures else None if drawn else MISSING,
        sections=tuple(map(_section, entries)),
    )
    markdown, markdown_path = _to_markdown(said), options.out.with_suffix(".md")
    write_atomically(options.out, _renderer()(page=said, title=TITLE).encode())
    write_atomically(markdown_path, markdown.encode())
    return ReportResult(
        options.out,
        markdown_path,
        pictures,
        markdown,
        (said.summary, *_best(fleet), *_screen(entries, markdown_path), *_advice(said.advice)),
        (*_fitted(_timed(entries)), *_details(said, overview[1])),
        said.warnings,
        tuple(dict.fromkeys(one.name for one in models if one.proof != "unproved")),
    )


def _compared(result: Result) -> tuple[str, ...]:
    """Return what a model's comparisons with others show: of its answers, and of its speed."""
    shown = [tables.pair_line(pair) for pair in result.pairs if pair.mcnemar_p <= tables.MAX_P]
    return (*shown, *race.advise(result.races))


def measurements(results: Mapping[Path, Result]) -> Table:
    """Return one row for each result and batch size."""
    rows = [_cells(one, row) for one, row in _timed(_entries(results))]
    return _table("measurements", "Speed and accuracy of each result and batch size", rows)


def _cells(one: Entry, row: Latency, *, short: bool = False) -> dict[str, str]:
    """Return what a table says of one batch size of a result; short: for a screen."""
    place = {"on": tables.shorten(one.where, MAX_WHERE)}
    if not short:
        ran = one.result.provider
        threads = f"{ran.obtained}, {ran.threads or NONE}"
        place = {"machine": _machine(one), "provider, threads": threads}
    return {
        "#": str(one.number),
        "file": one.name,
        **place,
        **tables.speed(row, ends=not short),
        "accuracy": tables.accuracy_text(one.result.accuracy, ends=not short),
        "verdict": row.verdict.status if row.verdict else NONE,
    }


def _fleet(entries: Sequence[Entry]) -> Table:
    """Return what to deploy on each of several machines, and how many results failed there."""
    rows = []
    for letter in dict.fromkeys(one.letter for one in entries if one.letter):
        there = [one for one in entries if one.letter == letter]
        best, n_failed = _to_deploy(there), sum(one.result.failed is not None for one in there)
        row = best.row if best else None
        rows.append({
            "machine": _machine(there[0]),
            "deploy": f"{best.number}, {best.name}" if best else "none",
            "batch": tables.number(row.batch_size) if row else NONE,
            "p50 ms": tables.percentile_text(row.percentile(0.5), ends=False) if row else NONE,
            "accuracy": tables.accuracy_text(best.result.accuracy if best else None, ends=False),
            "results": f"{len(there)}{f', {n_failed} failed' * bool(n_failed)}",
        })  # fmt: skip
    return _table("machines", f"What to deploy on each machine: {TO_DEPLOY}", rows)


def _to_deploy(there: Sequence[Entry]) -> Entry | None:
    """Return the fastest result that is not shown to be less accurate than another."""
    timed = [one for one in there if one.percentile(0.5) and one.status != "INVALID"]
    timed = [one for one in timed if one.result.failed is None]
    scored = [one for one in timed if one.accuracy]
    if scored:
        _, low, _ = max(one.accuracy for one in scored)
        timed = [one for one in scored if one.accuracy[2] >= low]
    return min(timed, key=lambda one: one.percentile(0.5)[0], default=None)


def _best(fleet: Table) -> list[str]:
    """Return what of it fits a screen."""
    shown = [
        {"machine": tables.shorten(machine.partition(" (")[0], MAX_SHOWN),
         "deploy": tables.shorten(name, MAX_SHOWN),
         "p50 ms": p50, "accuracy": accuracy}
        for machine, name, _, p50, accuracy, _ in fleet.rows[:MAX_LISTED]
    ]  # fmt: skip
    return [*tables.to_text(_table("deploy", f"Deploy {TO_DEPLOY}:", shown)), ""] if shown else []


def _screen(entries: Sequence[Entry], whole: Path) -> list[str]:
    """Return what fits a screen: every row, else one of each result, those on a front first.

    whole: the file that holds all rows.
    """
    timed = rows = _timed(entries)
    if len(timed) > MAX_ROWS:
        telling = _telling([one for one in entries if one.row], MAX_ROWS)
        rows = [(one, one.row) for one in telling if one.row]
    lines = _fitted(rows)
    if n_more := len(timed) - len(rows):
        lines.append(f"{n_more:,} more rows in {whole}")
    if any(map(_reasons, entries)):
        lines.append("NOISY or INVALID: why is on the page, and with --verbose")
    return lines


def _timed(entries: Sequence[Entry]) -> list[tuple[Entry, Latency]]:
    return [(one, row) for one in entries for row in one.result.latency]


def _fitted(rows: Sequence[tuple[Entry, Latency]]) -> list[str]:
    """Return a table that fits a terminal: if need be without p99 and the middle of names."""
    cells = [_cells(one, row, short=True) for one, row in rows]

    def room() -> int:
        return tables.WIDTH - max(map(len, tables.to_text(_table("screen", "", cells))))

    if not cells:
        return []
    if room() < 0:  # rather than the end of a name
        for row in cells:
            del row["p99 ms"]
    widest = max(len(row["file"]) for row in cells) + min(room(), 0)
    for row in cells:
        row["file"] = tables.shorten(row["file"], max(widest, 5))
    return tables.to_text(_table("screen", "", cells))[1:]


def _details(page: _Page, overview: Table) -> Iterator[str]:
    """Return each result's row of `overview` in words, and why verdicts are not VALID."""
    for row in overview.rows:
        about = zip(overview.columns[1:], row[1:], strict=True)
        yield f"{row[0]}: {'; '.join(f'{name} {cell}' for name, cell in about)}"
    yield from page.reasons


def _telling(entries: Sequence[Entry], most: int) -> list[Entry]:
    """Return at most so many results, in their order: those on a front before any other."""
    fronts = _fronts([one for one in entries if one.point]).values()
    best = {one.number for front in fronts for one in front}
    chosen = sorted(entries, key=lambda one: one.number not in best)[:most]
    return sorted(chosen, key=lambda one: one.number)


def _table(name: str, caption: str, rows: Sequence[dict[str, str]]) -> Table:
    columns = tuple(rows[0]) if rows else ()
    return Table(name, caption, columns, tuple(tuple(row.values()) for row in rows))


def _entries(results: Mapping[Path, Result]) -> list[Entry]:
    """Give each result a number, its machine a letter, and the row of one batch size for charts.

    That is 1 if any result has it, else the smallest one that most of them share.
    """

    def key(machine: Machine) -> str:  # equal for comparable machines; a browser may hide its id
        about = machine.id or f"{machine.cpu}, {machine.architecture}, {machine.usable_cores}"
        return f"{machine.name}, {about}"

    known = list(dict.fromkeys(key(result.machine) for result in results.values()))
    letters = [chr(65 + i) if i < 26 else f"M{i + 1}" for i in range(len(known))]
    sizes = [row.batch_size for result in results.values() for row in result.latency]
    size = min(sizes, key=lambda size: (size != 1, -sizes.count(size), size), default=1)
    return [
        Entry(
            number,
            path,
            letters[known.index(key(result.machine))] if len(known) > 1 else "",
            result,
            next((row for row in result.latency if row.batch_size == size), None),
        )
        for number, (path, result) in enumerate(results.items(), start=1)
    ]


def _machine(one: Entry) -> str:
    """Return the processor and the start of the machine's id, after its letter."""
    machine = one.result.machine
    short = f"id {machine.id[:6]}" if machine.id else "no id"
    letter, name = f"{one.letter}: " * bool(one.letter), f"{machine.name}, " * bool(machine.name)
    return f"{letter}{name}{machine.cpu or NONE} ({short})"


def _ending(one: Entry) -> str:
    if one.result.failed is not None:
        return f"failed: {one.result.failed}"
    return "interrupted" if one.result.interrupted else "complete"


def _reasons(one: Entry) -> list[str]:
    """Return why the verdict is not VALID; the rows' own reasons where the run has no verdict."""
    rows = [row.verdict for row in one.result.latency]
    judged = [one.result.verdict] if one.result.verdict else rows
    return [reason.line() for verdict in judged if verdict for reason in verdict.reasons]


def _overview(entries: Sequence[Entry]) -> Table:
    """Return one row for each result, also of those that failed."""
    rows = [
        {
            "#": str(one.number),
            "result": one.path.name,
            "file": one.name,
            "integers": tables.shown("integers", one.result.model.integers),
            "size": tables.shown("model_bytes", one.result.model.model_bytes),
            "cold start ms": tables.cold_start_text(one.result.cold_start),
            "peak memory": tables.shown("memory_bytes", one.result.memory_bytes),
            "verdict": one.status,
            "ended": _ending(one),
        }
        for one in entries
    ]
    return _table("results", "Size, start, memory and end of each result", rows)


def _summary(entries: Sequence[Entry]) -> str:
    """Return how many results there are of each verdict and end."""
    said = [one.status for one in entries]
    counts = {status: said.count(status) for status in ("VALID", "NOISY", "INVALID")}
    counts["without a verdict"] = said.count(NONE)
    counts["failed"] = sum(one.result.failed is not None for one in entries)
    counts["interrupted"] = sum(one.result.interrupted for one in entries)
    parts = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    return f"{len(entries)} result{'s' * (len(entries) != 1)}: {parts}"


def _section(one: Entry) -> tuple[str, list[str], tuple[Table, ...]]:
    title = f"{one.number}. {one.name}, from {one.path.name}"
    title += f" ({one.status})" * (one.status != NONE)
    ending = _ending(one)
    notes = [ending] * (ending != "complete") + _reasons(one)
    return title, notes, tables.tables_of(one.result)


def _warnings(entries: Sequence[Entry]) -> Iterator[str]:
    versions = {version for one in entries for name, version in one.result.machine.versions.items()
                if name in RUNTIMES}  # fmt: skip
    scores = [one.result.accuracy for one in entries]
    images = {score.test_sha256[:12] for score in scores if score and score.test_sha256}
    for values, what in (
        (set(map(_machine, entries)), "{} machines, whose times cannot be compared"),
        (versions, "{} onnxruntime versions, whose times cannot be compared"),
        (images, "accuracies of {} sets of images, which cannot be compared"),
    ):
        if len(values) > 1:
            more = f"; and {len(values) - MAX_LISTED} more" * (len(values) > MAX_LISTED)
            yield f"{what.format(len(values))}: {'; '.join(sorted(values)[:MAX_LISTED])}{more}"
    for one in entries:
        if (ending := _ending(one)) != "complete":
            yield f"{one.number}, {one.path.name}: {ending}"
        if proof := one.result.model.proof:
            yield f"{one.number}, {one.path.name}: {proof}: {PROOFS[proof]}"


def _figures(entries: Sequence[Entry], out: Path) -> Iterator[tuple[str, str, Picture]]:
    """Draw each chart for which a result holds numbers; yield title, description and picture."""
    size = next((one.row.batch_size for one in entries if one.row), 1)
    timed = [one for one in entries if len(one.times[0])]
    rated = [one for one in entries if one.rates]
    points = [one for one in entries if one.point]
    fronts = _fronts(points)
    lines = {name: front for name, front in fronts.items() if len(front) > 1}
    accuracy = functools.partial(charts.accuracy, fronts=lines)
    front = f"Batch {size}, with the intervals of both. {'; '.join(fronts)}: {FRONT}"
    known = [one for one in entries if one.result.model.model_bytes]
    files = {one.result.model.model_sha256 or one.number: one for one in reversed(known)}
    sized = list(files.values())[::-1]
    found: tuple[tuple[str, Callable[..., Picture], list[Entry], str, str], ...] = (
        ("latency", charts.latency, timed, f"Time of one run, batch {size}", SPREAD),
        ("batches", charts.batches, rated, "Throughput by batch size", RATES),
        ("accuracy", accuracy, points, "Accuracy against time", front),
        ("size", charts.sizes, sized, "Model file", "Bytes of the file that is deployed."),
    )
    for name, chart, shown, title, text in found:
        if shown:
            yield title, text, chart(out.with_suffix(f".{name}.png"), shown, title)


def _fronts(points: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return each machine's Pareto front: the results that none of the same machine dominates."""
    fronts = {}
    for letter in sorted({one.letter for one in points}):
        front: list[Entry] = []
        group = [one for one in points if one.letter == letter]
        for one in sorted(group, key=lambda one: (one.point[0], -one.point[1])):
            if not front or one.point[1] > front[-1].point[1] or one.point == front[-1].point:
                front.append(one)
        numbers = ", ".join(str(one.number) for one in front)
        fronts[f"Pareto front{f' of {letter}' * bool(letter)}: {numbers}"] = front
    return fronts


def _advice(sentences: Sequence[str]) -> list[str]:
    """Return the first of `sentences` as a screen has room for."""
    more = f"{len(sentences) - MAX_LISTED} more such sentences on the page"
    return [*tables.folded(sentences[:MAX_LISTED]), *[more] * (len(sentences) > MAX_LISTED)]


def _to_markdown(page: _Page) -> str:
    """Return the page, but what folds open."""
    safe = tables.markdown_text
    blocks = [f"# {TITLE}", f"{safe(page.summary)}.", *(f"{safe(one)}." for one in page.advice)]
    blocks += [safe(page.source)]
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
    kind = "n" if table.is_numeric(column) else "long" * (len(cell) > LONG)
    tone = TONES.get(cell.partition(":")[0], "") if column else ""
    return f"{kind} {tone}".strip()


def _tint(table: Table, row: int, column: int) -> str:
    """Return how strongly to tint a cell, as a CSS alpha; empty for not at all."""
    share = table.tints[row][column - 1] if table.tints else 0.0
    return f"{MAX_TINT * min(share, 1.0) ** 0.5:.3f}" if share > 0 else ""
