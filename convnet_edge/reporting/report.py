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
from ..runtime.measure.result import Machine, Reason
from ..runtime.measure.tables import NONE, Table
from . import page
from .options import ReportOptions
from .read import Stored, read_results

TITLE = "Inference benchmark"
MAX_LABEL = 52  # characters that fit a chart
MISSING = f"The charts are left out, matplotlib is not installed: {INSTALL} draws them."
NOTHING = "No result holds a measured time or size: nothing to chart."
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


def report(options: ReportOptions) -> ReportResult:
    """Read the results and write the report; the same results give the same bytes.

    Raises:
        InputError: there is no result, one is unusable, or the report cannot be written.
    """
    found = read_results(options.results)
    figures = tuple(_figures(found, options.out))
    pictures = tuple(figure.picture for figure in figures)
    drawn = all(picture.drawn for picture in pictures)
    newest = max(one.result.measured_at for one in found)
    overview = (measurements(found), _overview(found))
    reasons = [
        f"{number}, {_name(one)}, {reason.line()}"
        for number, one in enumerate(found, start=1)
        for reason in _reasons(one)
    ]
    content = page.Page(
        title=TITLE,
        verdicts=_summary(found),
        source=f"Newest measurement: {newest}. Intervals are those stated by the results.",
        warnings=tuple(_warnings(found)),
        tables=tuple(table for table in overview if table.rows),
        reasons=tuple(reasons),
        figures=figures,
        missing=NOTHING if not figures else None if drawn else MISSING,
        sections=tuple(_section(number, one) for number, one in enumerate(found, start=1)),
    )
    markdown, markdown_path = _markdown(content), options.out.with_suffix(".md")
    write_atomically(options.out, page.render(content).encode())
    write_atomically(markdown_path, markdown.encode())
    return ReportResult(options.out, markdown_path, pictures, markdown, content.warnings)


def measurements(found: Sequence[Stored]) -> Table:
    """Return one row for each result and batch size."""
    rows = [
        (
            str(number),
            _name(one),
            machine,
            f"{one.result.provider.obtained}, {one.result.provider.threads or NONE}",
            f"{row.batch_size:,}",
            tables.percentile_text(row.percentile(0.5)),
            tables.percentile_text(row.percentile(0.99)),
            tables.shown("images_per_s", row.images_per_s),
            tables.accuracy_text(one.result.accuracy),
            row.verdict.status if row.verdict else NONE,
        )
        for number, (one, machine) in enumerate(zip(found, _machines(found), strict=True), start=1)
        for row in one.result.latency
    ]
    caption = "Speed and accuracy of each result and batch size"
    return Table("measurements", caption, MEASUREMENT_COLUMNS, tuple(rows))


def _overview(found: Sequence[Stored]) -> Table:
    """Return one row for each result, also of those that failed."""
    rows = []
    for number, one in enumerate(found, start=1):
        model, cold_start = one.result.model, one.result.cold_start
        processes = cold_start.processes if cold_start else ()
        peaks = [process.peak_memory_bytes or 0 for process in processes]
        peak = max(peaks, default=0) or one.result.peak_memory_bytes
        rows.append(
            (
                str(number),
                one.path.name,
                _name(one),
                tables.shown("integers", model.integers),
                tables.shown("model_bytes", model.model_bytes),
                tables.cold_start_text(cold_start),
                tables.shown("peak_memory_bytes", peak),
                _status(one),
                _ending(one),
            )
        )
    caption = "Size, start, memory and end of each result"
    return Table("results", caption, RESULT_COLUMNS, tuple(rows))


def _name(one: Stored) -> str:
    return one.result.model.name or one.path.name


def _status(one: Stored) -> str:
    return one.result.verdict.status if one.result.verdict else NONE


def _ending(one: Stored) -> str:
    if one.result.failed is not None:
        return f"failed: {one.result.failed}"
    return "interrupted" if one.result.interrupted else "complete"


def _reasons(one: Stored) -> Iterable[Reason]:
    """Return why the verdict is not VALID; the rows' own reasons where the run has no verdict."""
    judged = [one.result.verdict] if one.result.verdict else [r.verdict for r in one.result.latency]
    return (reason for verdict in judged if verdict for reason in verdict.reasons)


def _summary(found: Sequence[Stored]) -> str:
    """Return how many results there are of each verdict and end."""
    said = [_status(one) for one in found]
    counts = {status: said.count(status) for status in ("VALID", "NOISY", "INVALID")}
    counts["without a verdict"] = said.count(NONE)
    counts["failed"] = sum(one.result.failed is not None for one in found)
    counts["interrupted"] = sum(one.result.interrupted for one in found)
    parts = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    return f"{len(found)} result{'s' * (len(found) != 1)}: {parts}"


def _letters(found: Sequence[Stored]) -> list[str]:
    """Return the letter of each result's machine, nothing where all are of one."""
    keys = [_machine_key(one.result.machine) for one in found]
    known = list(dict.fromkeys(keys))
    names = [chr(65 + i) if i < 26 else f"M{i + 1}" for i in range(len(known))]
    return [names[known.index(key)] if len(known) > 1 else "" for key in keys]


def _machine_key(machine: Machine) -> str:
    return machine.id or f"{machine.cpu}, {machine.architecture}, {machine.usable_cores}"


def _machines(found: Sequence[Stored]) -> list[str]:
    """Return the processor and the start of the machine's id, after its letter, of each result."""
    return [
        f"{letter}{': ' * bool(letter)}{one.result.machine.cpu or NONE} "
        f"({f'id {one.result.machine.id[:6]}' if one.result.machine.id else 'no id'})"
        for one, letter in zip(found, _letters(found), strict=True)
    ]


def _section(number: int, one: Stored) -> page.Section:
    title = f"{number}. {_name(one)}, from {one.path.name}"
    title += f" ({_status(one)})" * (_status(one) != NONE)
    notes = [_ending(one)] * (_ending(one) != "complete")
    notes += [reason.line() for reason in _reasons(one)]
    return page.Section(title, tuple(notes), tables.tables_of(one.result))


def _warnings(found: Sequence[Stored]) -> Iterable[str]:
    packages = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-web")
    versions = {v for one in found for n, v in one.result.machine.versions.items() if n in packages}
    images = {(one.result.accuracy.images_sha256 or "")[:12] for one in found
              if one.result.accuracy}  # fmt: skip
    for values, what in (
        (dict.fromkeys(_machines(found)), "{} machines, whose times cannot be compared: "),
        (versions, "{} onnxruntime versions, whose times cannot be compared: "),
        (images - {""}, "accuracies of {} sets of images, which cannot be compared: "),
    ):
        if len(values) > 1:
            yield what.format(len(values)) + "; ".join(sorted(values))
    for number, one in enumerate(found, start=1):
        if _ending(one) != "complete":
            yield f"{number}, {one.path.name}: {_ending(one)}"


def _figures(found: Sequence[Stored], out: Path) -> Iterable[page.Figure]:
    """Draw each chart for which a result holds numbers."""
    size = _common_batch_size(found)
    series = [
        Series(number, _label(number, one, letter), one.result,
               next((row for row in one.result.latency if row.batch_size == size), None))
        for number, (one, letter) in enumerate(zip(found, _letters(found), strict=True))
    ]  # fmt: skip

    def drawn(
        name: str, title: str, text: str, chart: Callable[..., Picture], shown: list[Series],
        **more: object,
    ) -> Iterable[page.Figure]:  # fmt: skip
        if shown:
            path = out.with_suffix(f".{name}.png")
            yield page.Figure(title, text, chart(path, shown, title, **more))

    timed = [one for one in series if len(one.times[0])]
    text = "How often each time came, on a logarithmic axis; further left is faster."
    yield from drawn("latency", f"Time of one run, batch {size}", text, charts.latency, timed)
    text = "Both axes are logarithmic; higher is faster."
    rated = [one for one in series if one.rates]
    yield from drawn("batches", "Throughput by batch size", text, charts.batches, rated)
    points = [one for one in series if one.point]
    fronts = _fronts(points, found)
    text = (f"Batch {size}, with the intervals of both. {'; '.join(fronts)}: none of the same "
            "machine is both faster and more accurate.")  # fmt: skip
    lines = {name: front for name, front in fronts.items() if len(front) > 1}
    title = "Accuracy against time"
    yield from drawn("accuracy", title, text, charts.accuracy, points, fronts=lines)
    files = {one.result.model.model_sha256 or one.number: one for one in reversed(series)
             if one.result.model.model_bytes}  # fmt: skip
    text = "Bytes of the file that is deployed."
    yield from drawn("size", "Model file", text, charts.sizes, list(files.values())[::-1])


def _common_batch_size(found: Sequence[Stored]) -> int:
    """Return 1 if any result has it, else the smallest batch size that most results share."""
    sizes = [row.batch_size for one in found for row in one.result.latency]
    if not sizes or 1 in sizes:
        return 1
    return min(sizes, key=lambda size: (-sizes.count(size), size))


def _label(number: int, one: Stored, letter: str) -> str:
    provider, status = one.result.provider, _status(one)
    end = f", {provider.obtained} {provider.threads or NONE}" + f", {letter}" * bool(letter)
    end = f"{end}{f' ({status})' * (status in ('NOISY', 'INVALID'))}"[:MAX_LABEL]
    start, room = f"{number + 1} {_name(one)}", max(MAX_LABEL - len(end), 4)
    return (start if len(start) <= room else f"{start[: room - 1]}…") + end


def _fronts(points: Sequence[Series], found: Sequence[Stored]) -> dict[str, list[Series]]:
    """Return each machine's Pareto front: the results that none of the same machine dominates."""
    letters = _letters(found)
    groups: dict[str, list[Series]] = {}
    for one in sorted(points, key=lambda one: one.point or (0.0, 0.0)):
        groups.setdefault(letters[one.number], []).append(one)
    fronts = {}
    for letter, group in sorted(groups.items()):
        front = [one for one in group if not any(_dominates(other, one) for other in group)]
        numbers = ", ".join(str(one.number + 1) for one in front)
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
