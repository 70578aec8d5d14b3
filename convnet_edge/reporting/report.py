"""Put bench results side by side: a page, the same in Markdown, and the charts as pictures.

Measures nothing; what stands in a report stands in a result file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..drawing import charts
from ..drawing.charts import Series
from ..drawing.pictures import INSTALL, Picture
from ..runtime.files import write_atomically
from ..runtime.measure import tables
from ..runtime.measure.result import Machine, Result
from ..runtime.measure.tables import NONE, Table
from . import page
from .options import ReportOptions
from .read import Stored, read_results

TITLE = "Inference benchmark"
MAX_LABEL = 52  # characters that fit a chart
MISSING = f"The charts are left out, matplotlib is not installed: {INSTALL} draws them."
NOTHING = "No result holds a measured time or size: nothing to chart."
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-web")
MEASUREMENT_COLUMNS = ("#", "file", "machine", "provider, threads", "batch", "p50 ms", "p99 ms",
                       "images/s", "accuracy", "verdict")  # fmt: skip
RESULT_COLUMNS = ("#", "result", "file", "integers", "size", "cold start ms", "peak memory",
                  "verdict", "ended")  # fmt: skip


@dataclass(frozen=True)
class ReportResult:
    """What was written. warnings: why some of the numbers cannot be compared, or are missing."""

    html_path: Path
    markdown_path: Path
    pictures: tuple[Picture, ...]
    markdown: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A result in the report. number: from 1. letter: its machine's, where there are several."""

    number: int
    stored: Stored
    letter: str

    @property
    def result(self) -> Result:
        """What was measured."""
        return self.stored.result

    @property
    def name(self) -> str:
        """The model file's name, the result file's where it has none."""
        return self.result.model.name or self.stored.path.name

    @property
    def machine(self) -> str:
        """The processor and the start of the machine's id, after its letter."""
        machine = self.result.machine
        short = f"id {machine.id[:6]}" if machine.id else "no id"
        return f"{self.letter}: " * bool(self.letter) + f"{machine.cpu or NONE} ({short})"

    @property
    def status(self) -> str:
        """VALID, NOISY or INVALID, a dash without a verdict."""
        return self.result.verdict.status if self.result.verdict else NONE

    @property
    def ending(self) -> str:
        """How the run ended."""
        if self.result.failed is not None:
            return f"failed: {self.result.failed}"
        return "interrupted" if self.result.interrupted else "complete"

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is not VALID; the rows' own reasons where the run has no verdict."""
        rows = [row.verdict for row in self.result.latency]
        judged = [self.result.verdict] if self.result.verdict else rows
        return [reason.line() for verdict in judged if verdict for reason in verdict.reasons]


def report(options: ReportOptions) -> ReportResult:
    """Read the results and write the report; the same results give the same bytes.

    Raises:
        InputError: there is no result, one is unusable, or the report cannot be written.
    """
    stored = read_results(options.results)
    entries = _entries(stored)
    figures = tuple(_figures(entries, options.out))
    pictures = tuple(figure.picture for figure in figures)
    drawn = all(picture.drawn for picture in pictures)
    newest = max(one.result.measured_at for one in entries)
    overview = (measurements(stored), _overview(entries))
    content = page.Page(
        title=TITLE,
        verdicts=_summary(entries),
        source=f"Newest measurement: {newest}. Intervals are those stated by the results.",
        warnings=tuple(_warnings(entries)),
        tables=tuple(table for table in overview if table.rows),
        reasons=tuple(f"{e.number}, {e.name}, {reason}" for e in entries for reason in e.reasons),
        figures=figures,
        missing=NOTHING if not figures else None if drawn else MISSING,
        sections=tuple(map(_section, entries)),
    )
    markdown, markdown_path = _markdown(content), options.out.with_suffix(".md")
    write_atomically(options.out, page.render(content).encode())
    write_atomically(markdown_path, markdown.encode())
    return ReportResult(options.out, markdown_path, pictures, markdown, content.warnings)


def measurements(found: Sequence[Stored]) -> Table:
    """Return one row for each result and batch size."""
    rows = [
        (
            str(one.number),
            one.name,
            one.machine,
            f"{one.result.provider.obtained}, {one.result.provider.threads or NONE}",
            tables.number(row.batch_size),
            tables.percentile_text(row.percentile(0.5)),
            tables.percentile_text(row.percentile(0.99)),
            tables.shown("images_per_s", row.images_per_s),
            tables.accuracy_text(one.result.accuracy),
            row.verdict.status if row.verdict else NONE,
        )
        for one in _entries(found)
        for row in one.result.latency
    ]
    caption = "Speed and accuracy of each result and batch size"
    return Table("measurements", caption, MEASUREMENT_COLUMNS, tuple(rows))


def _entries(found: Sequence[Stored]) -> list[Entry]:
    keys = [_machine_key(one.result.machine) for one in found]
    known = list(dict.fromkeys(keys))
    letters = [chr(65 + i) if i < 26 else f"M{i + 1}" for i in range(len(known))]
    return [
        Entry(number, one, letters[known.index(key)] if len(known) > 1 else "")
        for number, (one, key) in enumerate(zip(found, keys, strict=True), start=1)
    ]


def _machine_key(machine: Machine) -> str:
    """Return what is equal for comparable machines; a browser may hide its id."""
    return machine.id or f"{machine.cpu}, {machine.architecture}, {machine.usable_cores}"


def _overview(entries: Sequence[Entry]) -> Table:
    """Return one row for each result, also of those that failed."""
    rows = []
    for one in entries:
        model, cold_start = one.result.model, one.result.cold_start
        peaks = [process.peak_memory_bytes or 0 for process in cold_start.processes
                 ] if cold_start else []  # fmt: skip
        peak = max(peaks, default=0) or one.result.peak_memory_bytes
        cells = (
            str(one.number),
            one.stored.path.name,
            one.name,
            tables.shown("integers", model.integers),
            tables.shown("model_bytes", model.model_bytes),
            tables.cold_start_text(cold_start),
            tables.shown("peak_memory_bytes", peak),
            one.status,
            one.ending,
        )
        rows.append(cells)
    caption = "Size, start, memory and end of each result"
    return Table("results", caption, RESULT_COLUMNS, tuple(rows))


def _summary(entries: Sequence[Entry]) -> str:
    """Return how many results there are of each verdict and end."""
    said = [one.status for one in entries]
    counts = {status: said.count(status) for status in ("VALID", "NOISY", "INVALID")}
    counts["without a verdict"] = said.count(NONE)
    counts["failed"] = sum(one.result.failed is not None for one in entries)
    counts["interrupted"] = sum(one.result.interrupted for one in entries)
    parts = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    return f"{len(entries)} result{'s' * (len(entries) != 1)}: {parts}"


def _section(one: Entry) -> page.Section:
    title = f"{one.number}. {one.name}, from {one.stored.path.name}"
    title += f" ({one.status})" * (one.status != NONE)
    notes = (*[one.ending] * (one.ending != "complete"), *one.reasons)
    return page.Section(title, notes, tables.tables_of(one.result))


def _warnings(entries: Sequence[Entry]) -> Iterable[str]:
    versions = {version for one in entries for name, version in one.result.machine.versions.items()
                if name in RUNTIMES}  # fmt: skip
    scores = [one.result.accuracy for one in entries]
    images = {score.images_sha256[:12] for score in scores if score and score.images_sha256}
    for values, what in (
        ({one.machine for one in entries}, "{} machines, whose times cannot be compared"),
        (versions, "{} onnxruntime versions, whose times cannot be compared"),
        (images, "accuracies of {} sets of images, which cannot be compared"),
    ):
        if len(values) > 1:
            yield f"{what.format(len(values))}: {'; '.join(sorted(values))}"
    for one in entries:
        if one.ending != "complete":
            yield f"{one.number}, {one.stored.path.name}: {one.ending}"


def _figures(entries: Sequence[Entry], out: Path) -> Iterable[page.Figure]:
    """Draw each chart for which a result holds numbers."""
    size = _common_batch_size(entries)
    series = [
        Series(one.number, _label(one), one.letter, one.result,
               next((row for row in one.result.latency if row.batch_size == size), None))
        for one in entries
    ]  # fmt: skip

    def drawn(
        name: str, chart: Callable[..., Picture], shown: list[Series], title: str, text: str,
        **more: object,
    ) -> Iterable[page.Figure]:  # fmt: skip
        if shown:
            picture = chart(out.with_suffix(f".{name}.png"), shown, title, **more)
            yield page.Figure(title, text, picture)

    timed = [one for one in series if len(one.times[0])]
    rated = [one for one in series if one.rates]
    points = [one for one in series if one.point]
    files = {one.result.model.model_sha256 or one.number: one for one in reversed(series)
             if one.result.model.model_bytes}  # fmt: skip
    fronts = _fronts(points)
    yield from drawn(
        "latency",
        charts.latency,
        timed,
        f"Time of one run, batch {size}",
        "How often each time came, on a logarithmic axis; further left is faster.",
    )
    yield from drawn(
        "batches",
        charts.batches,
        rated,
        "Throughput by batch size",
        "Both axes are logarithmic; higher is faster.",
    )
    yield from drawn(
        "accuracy",
        charts.accuracy,
        points,
        "Accuracy against time",
        f"Batch {size}, with the intervals of both. {'; '.join(fronts)}: none of the "
        "same machine is both faster and more accurate.",
        fronts={name: front for name, front in fronts.items() if len(front) > 1},
    )
    yield from drawn(
        "size",
        charts.sizes,
        list(files.values())[::-1],
        "Model file",
        "Bytes of the file that is deployed.",
    )


def _common_batch_size(entries: Sequence[Entry]) -> int:
    """Return 1 if any result has it, else the smallest batch size that most results share."""
    sizes = [row.batch_size for one in entries for row in one.result.latency]
    if not sizes or 1 in sizes:
        return 1
    return min(sizes, key=lambda size: (-sizes.count(size), size))


def _label(one: Entry) -> str:
    provider = one.result.provider
    end = f", {provider.obtained} {provider.threads or NONE}"
    end += f", {one.letter}" * bool(one.letter)
    end += f" ({one.status})" * (one.status in ("NOISY", "INVALID"))
    start, room = f"{one.number} {one.name}", max(MAX_LABEL - len(end[:MAX_LABEL]), 4)
    return (start if len(start) <= room else f"{start[: room - 1]}…") + end[:MAX_LABEL]


def _fronts(points: Sequence[Series]) -> dict[str, list[Series]]:
    """Return each machine's Pareto front: the results that none of the same machine dominates."""
    fronts = {}
    for letter in sorted({one.machine for one in points}):
        group = [one for one in points if one.machine == letter]
        front = [one for one in group if not any(_dominates(other, one) for other in group)]
        front.sort(key=lambda one: one.point or (0.0, 0.0))
        numbers = ", ".join(str(one.number) for one in front)
        fronts[f"Pareto front{f' of {letter}' * bool(letter)}: {numbers}"] = front
    return fronts


def _dominates(other: Series, one: Series) -> bool:
    (time, share), (other_time, other_share) = one.point or (0, 0), other.point or (0, 0)
    return other_time <= time and other_share >= share and one.point != other.point


def _markdown(content: page.Page) -> str:
    safe = tables.markdown_text
    blocks = [f"# {content.title}", f"{safe(content.verdicts)}.", safe(content.source)]
    blocks += ["\n".join(f"- {safe(one)}" for one in content.warnings)] * bool(content.warnings)
    blocks += map(tables.to_markdown, content.tables)
    if content.reasons:
        listed = "\n".join(f"- {safe(reason)}" for reason in content.reasons)
        blocks.append(f"Why a verdict is not VALID:\n\n{listed}")
    blocks += [safe(content.missing)] if content.missing else []
    for one in content.figures:
        if one.picture.drawn:
            image = f"![{safe(one.title)}](<{one.picture.path.name}>)"
            blocks += [image, safe(one.description)]
    return "\n\n".join(blocks) + "\n"
