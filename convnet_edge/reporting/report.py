"""Put bench results side by side: a page, the same in Markdown, and the charts as pictures.

Measures nothing; what stands in a report stands in a result file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..drawing import charts
from ..drawing import pictures as plots
from ..runtime.files import write_atomically
from . import page, tables
from .details import detail_tables
from .options import ReportOptions
from .results import Result, read_results

TITLE = "Inference benchmark"
MAX_LABEL = 52  # characters that fit a chart
MISSING = f"The charts are left out, matplotlib is not installed: {plots.INSTALL} draws them."


@dataclass(frozen=True)
class ReportResult:
    """What was written. warnings: why some of the numbers cannot be compared, or are missing."""

    html_path: Path
    markdown_path: Path
    pictures: tuple[plots.Picture, ...]
    markdown: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """A chart to draw. name: of its picture. description: what it shows, in words."""

    name: str
    chart: charts.Chart
    description: str


def report(config: ReportOptions) -> ReportResult:
    """Read the results and write the report; the same results give the same bytes.

    Raises:
        InputError: there is no result, one is unusable, or the report cannot be written.
    """
    results = read_results(config.results)
    plans = _plan(results)
    paths = [config.out.with_suffix(f".{plan.name}.png") for plan in plans]
    drawings = [charts.draw(plan.chart, path) for plan, path in zip(plans, paths, strict=True)]
    figures = tuple(
        page.Figure(plan.name, plan.chart.title, plan.description, drawing.svg)
        for plan, drawing in zip(plans, drawings, strict=True)
    )
    pictures = tuple(drawing.picture for drawing in drawings)
    content = _page(results, figures)
    markdown = _markdown(content, pictures)
    markdown_path = config.out.with_suffix(".md")
    write_atomically(config.out, page.render(content).encode())
    write_atomically(markdown_path, markdown.encode())
    return ReportResult(config.out, markdown_path, pictures, markdown, content.warnings)


def _page(results: Sequence[Result], figures: tuple[page.Figure, ...]) -> page.Page:
    reasons = tuple(
        f"{number}, {tables.model_name(result)}, {tables.reason_text(reason)}"
        for number, result in enumerate(results, start=1)
        for reason in tables.reasons(result)
    )
    missing = None if figures else "No result holds a measured time or size: nothing to chart."
    if any(figure.svg is None for figure in figures):
        missing = MISSING
    measured = [result.document["measured_at"] for result in results]
    newest = max(filter(None, measured), default="an unknown time")
    both = (tables.measurement_table(results), tables.result_table(results))
    return page.Page(
        title=TITLE,
        verdicts=tables.summary(results),
        source=f"Newest measurement: {newest}. Intervals are those stated by the results.",
        warnings=_warnings(results),
        tables=tuple(table for table in both if table.rows),
        reasons=reasons,
        figures=figures,
        missing=missing,
        sections=tuple(_section(number, result) for number, result in enumerate(results, start=1)),
    )


def _section(number: int, result: Result) -> page.Section:
    verdict = tables.status(result.document["verdict"])
    title = f"{number}. {tables.model_name(result)}, from {result.path.name}"
    notes = [] if tables.ending(result) == "complete" else [tables.ending(result)]
    notes += map(tables.reason_text, tables.reasons(result))
    title += f" ({verdict})" if verdict != tables.NONE else ""
    return page.Section(title, tuple(notes), detail_tables(result))


def _warnings(results: Sequence[Result]) -> tuple[str, ...]:
    letters = tables.machine_letters(results)
    found = []
    if len(letters) > 1:
        names = {tables.machine_key(r): tables.machine_name(r, letters) for r in results}
        listed = "; ".join(names.values())
        found.append(f"{len(letters)} machines, whose times cannot be compared: {listed}")
    versions = _distinct(
        result.document["machine"]["versions"].get(name)
        for result in results
        for name in ("onnxruntime", "onnxruntime-gpu")
    )
    if len(versions) > 1:
        listed = ", ".join(versions)
        found.append(f"several onnxruntime versions, whose times cannot be compared: {listed}")
    scores = [result.document["accuracy"] for result in results]
    images = _distinct(score["images_sha256"] for score in scores if score)
    if len(images) > 1:
        listed = ", ".join(digest[:12] for digest in images)
        found.append(f"accuracies of different images, which cannot be compared: {listed}")
    found += [
        f"{number}, {result.path.name}: {tables.ending(result)}"
        for number, result in enumerate(results, start=1)
        if tables.ending(result) != "complete"
    ]
    return tuple(found)


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(value for value in values if value is not None))


def _plan(results: Sequence[Result]) -> list[_Plan]:
    batch_size = _common_batch_size(results)
    plans = []
    if distributions := _distributions(results, batch_size):
        plans.append(
            _Plan(
                "latency",
                charts.latency(distributions, batch_size=batch_size),
                "How often each time came, on a logarithmic axis; further left is faster.",
            )
        )
    if sweeps := _sweeps(results):
        plans.append(
            _Plan("batches", charts.batches(sweeps), "Both axes are logarithmic; higher is faster.")
        )
    if points := _points(results, batch_size):
        fronts = _fronts(results, points)
        named = "; ".join(front.label for front in fronts)
        description = (
            f"Batch {batch_size}, with the intervals of both. {named}: none of the same machine is "
            "both faster and more accurate."
        )
        drawn = [front for front in fronts if len(front.points) > 1]
        plans.append(_Plan("accuracy", charts.accuracy(points, drawn), description))
    if bars := _sizes(results):
        plans.append(_Plan("size", charts.sizes(bars), "Bytes of the file that is deployed."))
    return plans


def _common_batch_size(results: Sequence[Result]) -> int:
    """Return 1 if any result has it, else the smallest batch size that most results share."""
    sizes: list[int] = [
        row["batch_size"] for result in results for row in result.document["latency"]
    ]
    if not sizes or 1 in sizes:
        return 1
    return min(sizes, key=lambda size: (-sizes.count(size), size))


def _label(number: int, results: Sequence[Result]) -> str:
    result = results[number]
    provider = result.document["provider"]
    letter = tables.machine_letters(results)[tables.machine_key(result)]
    name = tables.model_name(result)
    place = [tables.text(provider["obtained"]), tables.text(provider["threads"])]
    end = f", {' '.join(place)}" + f", {letter}" * bool(letter)
    status = tables.status(result.document["verdict"])
    end += f" ({status})" * (status in ("NOISY", "INVALID"))
    start, room = f"{number + 1} {name}", MAX_LABEL - len(end[:MAX_LABEL])
    shortened = start if len(start) <= room else f"{start[: max(room, 4) - 1]}…"
    return f"{shortened}{end[:MAX_LABEL]}"


def _rows(results: Sequence[Result], batch_size: int) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, result in enumerate(results):
        rows = [row for row in result.document["latency"] if row["batch_size"] == batch_size]
        found += [(number, row) for row in rows[:1]]
    return found


def _distributions(results: Sequence[Result], batch_size: int) -> list[charts.Distribution]:
    found = []
    for number, row in _rows(results, batch_size):
        pairs = row["histogram_ns"] or [[sample, 1] for sample in row["samples_ns"]]
        known = np.array([pair for pair in pairs if min(pair) > 0], dtype=float)
        if len(known):
            p50, p99 = (_milliseconds(row, p) for p in (0.5, 0.99))
            times, counts = known[:, 0] / 1e6, known[:, 1]
            found.append(
                charts.Distribution(_label(number, results), number, times, counts, p50, p99)
            )
    return found


def _milliseconds(row: dict[str, Any], p: float) -> float | None:
    entry = tables.percentile(row["percentiles_ms"], p)
    return entry["value"] or None if entry else None


def _sweeps(results: Sequence[Result]) -> list[charts.Sweep]:
    found = []
    for number, result in enumerate(results):
        rates = {
            row["batch_size"]: row["images_per_s"]
            for row in result.document["latency"]
            if row["images_per_s"]
        }
        if rates:
            ordered = dict(sorted(rates.items()))
            label = _label(number, results)
            found.append(charts.Sweep(label, number, tuple(ordered), tuple(ordered.values())))
    return found


def _points(results: Sequence[Result], batch_size: int) -> list[charts.Point]:
    found = []
    for number, row in _rows(results, batch_size):
        entry = tables.percentile(row["percentiles_ms"], 0.5)
        score = results[number].document["accuracy"]
        if entry and entry["value"] and score:
            value, interval = 100 * score["accuracy"], score["interval"]
            low, high = (
                value if interval[end] is None else 100 * interval[end] for end in ("low", "high")
            )
            times = (
                entry["low"] or entry["value"],
                entry["value"],
                entry["high"] or entry["value"],
            )
            found.append(charts.Point(_label(number, results), number, times, (low, value, high)))
    return found


def _fronts(results: Sequence[Result], points: Sequence[charts.Point]) -> list[charts.Front]:
    """Return each machine's Pareto front: the points that none of the same machine dominates."""
    letters = tables.machine_letters(results)
    groups: dict[str, list[charts.Point]] = {}
    for point in sorted(points, key=lambda point: (point.latency_ms[1], point.accuracy[1])):
        groups.setdefault(tables.machine_key(results[point.style]), []).append(point)
    fronts = []
    for key, group in sorted(groups.items(), key=lambda entry: letters[entry[0]]):
        front = [point for point in group if not any(_dominates(other, point) for other in group)]
        numbers = ", ".join(str(point.style + 1) for point in front)
        machine = f" of {letters[key]}" * bool(letters[key])
        fronts.append(charts.Front(f"Pareto front{machine}: {numbers}", tuple(front)))
    return fronts


def _dominates(other: charts.Point, point: charts.Point) -> bool:
    faster = point.latency_ms[1] - other.latency_ms[1]
    better = other.accuracy[1] - point.accuracy[1]
    return faster >= 0 and better >= 0 and (faster > 0 or better > 0)


def _sizes(results: Sequence[Result]) -> list[charts.Size]:
    """Return each model file once, under the first result that has it."""
    found: dict[Any, charts.Size] = {}
    for number, result in enumerate(results):
        model = result.document["model"]
        if model["model_bytes"]:
            label = f"{number + 1} {tables.model_name(result)}"[:MAX_LABEL]
            key = model["model_sha256"] or number
            found.setdefault(key, charts.Size(label, number, model["model_bytes"] / 1e3))
    return list(found.values())


def _markdown(content: page.Page, pictures: Sequence[plots.Picture]) -> str:
    safe = tables.markdown_text
    blocks = [f"# {content.title}", f"{safe(content.verdicts)}.", safe(content.source)]
    if content.warnings:
        blocks.append("\n".join(f"- {safe(warning)}" for warning in content.warnings))
    blocks += map(tables.to_markdown, content.tables)
    if content.reasons:
        listed = "\n".join(f"- {safe(reason)}" for reason in content.reasons)
        blocks.append(f"Why a verdict is not VALID:\n\n{listed}")
    if content.missing:
        blocks.append(safe(content.missing))
    for figure, picture in zip(content.figures, pictures, strict=True):
        if picture.drawn:
            blocks += [f"![{safe(figure.title)}](<{picture.path.name}>)", safe(figure.description)]
    return "\n\n".join(blocks) + "\n"
