"""Lay out a result as lines and tables of plain text, for a terminal, a page or a device's screen.

THE description of every table of a result; its words are made from the names and units of fields.
Which results may be compared is the report's business.
"""

import heapq
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..files import percent
from .result import (
    Accuracy,
    ColdStart,
    Interval,
    Latency,
    Paced,
    Pair,
    Percentile,
    Race,
    Result,
)

NONE = "–"
WIDTH = 80  # of a terminal that nobody has widened
NUMBER = re.compile(r"-?\d[\d,.]*( (%|MB|bytes))?( \(.*\))?|n/a .*|needs .*|–")
MAX_CLASSES = 100  # rows of their table; a page of 10,000 nobody reads
MAX_P = 0.05  # from which on a difference is not shown
FACTS = ("what", "value")
LATENCY_FACTS = ("min_ms", "mean_ms", "max_ms", "images_per_s", "share_of_bound", "cpu_ms_per_run",
                 "n_switched", "waited_share")  # fmt: skip
MARKDOWN_SPECIAL = re.compile(r"([\\`*\[\]|~])")
LABELS = {
    "n": "images",
    "f1": "F1",
    "op_type": "operator",
    "share_of_bound": "of the bound",
    "n_switched": "interrupted",
    "waited_share": "waited, summed",
    "mcnemar_p": "McNemar's p",
}
SHARES = {"share", "share_of_bound", "waited_share", "precision", "recall", "f1", "low", "high",
          "confidence", "accuracy"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A caption over rows of text, the first cell of each naming its row.

    name: by which one is picked out. tints: for each row, how strongly to tint each cell after the
    first, in [0, 1]; or empty.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tints: tuple[tuple[float, ...], ...] = ()

    def is_numeric(self, column: int) -> bool:
        """Return whether a column is set to the right: where its first cell is a number."""
        first = self.rows[0][column] if self.rows and len(self.columns) > 2 else ""
        return NUMBER.fullmatch(first) is not None


def shorten(text: str, room: int = WIDTH) -> str:
    """Return `text` without its middle, if it takes more than `room` characters (5 or more)."""
    return text if len(text) <= room else f"{text[: room // 2]}…{text[-((room - 1) // 2) :]}"


def pair_line(pair: Pair) -> str:
    """Return how a model compares with the first one."""
    return (
        f"against {pair.name}: {pair.n_differing} of {pair.n:,} labels differ, "
        f"{pair.n_lost} right answers lost, {pair.n_gained} gained; {difference(pair)}"
    )


def folded(sentences: Iterable[str]) -> list[str]:
    """Return sentences as lines of a terminal that nobody has widened."""
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, WIDTH, break_on_hyphens=False)
    ]


def race_line(race: Race) -> str:
    """Return how a model did in turn with another one, under one use."""
    times, (ratio, ends) = _race_times(race), race.ratio_interval_95.around(race.ratio, 2)
    return (
        f"{race.use}: {race.name} {times[0]} ms, {race.other} {times[1]} ms, "
        f"{ratio} times as fast (95 % {ends}): {race.outcome}"
    )


def _race_times(race: Race) -> tuple[str, str]:
    return _milliseconds(race.ms), _milliseconds(race.other_ms)


def difference(found: Any, name: str = "") -> str:
    """Return which way two models are shown to differ in accuracy, if they are.

    found: what holds `n_lost`, `n_gained` and `mcnemar_p` of the second, whose `name` may be said.
    """
    which = "better" if found.n_gained > found.n_lost else "worse"
    shown = f"shown: {name} {which}".replace("  ", " ")
    shown = "difference not shown" if found.mcnemar_p > MAX_P else shown
    return f"{shown} (exact McNemar p = {found.mcnemar_p:.2g})"


def drop_text(found: Any, upper_bound: float, allowed: float) -> str:
    """Return what accuracy was lost on the same images, its 95 % bound, and what may be; shares.

    found: what holds `n`, `n_lost` and `n_gained`.
    """
    drop = (found.n_lost - found.n_gained) / found.n
    return (
        f"{found.n_lost:,} lost, {found.n_gained:,} gained, drop {100 * drop:+.2f} points, at "
        f"most {100 * upper_bound:.2f} (95 %), allowed {100 * allowed:g}"
    )


def tables_of(result: Result) -> tuple[Table, ...]:
    """Return the tables of one result in reading order; what was not measured has none."""
    settings = [("measured_at", result.measured_at), *result.settings.items()]
    versions = {"convnet-edge": result.convnet_edge, **result.machine.versions}
    checks = [
        (one.name, "skipped" if one.skipped else "passed" if one.passed else "FAILED", one.detail)
        for one in result.checks
    ]
    found = [
        _facts("model", "Model", _fields(result.model)),
        _facts("provider", "Provider", _fields(result.provider)),
        _facts("settings", "Settings", settings),
        _facts("machine", "Machine", _fields(result.machine, but=("versions",))),
        Table("versions", "Versions", FACTS, tuple(versions.items())),
        Table("checks", "Checks before timing", ("check", "outcome", "detail"), tuple(checks)),
        _facts("cost", "Cost of an image, and the least time for it", _fields(result.cost)),
        _cold_start(result),
        _latency(result.latency),
        *_accuracy(result.accuracy),
        _listed("throughput", "Throughput by load", result.throughput),
        *_paced(result.paced),
        _listed("profile", "Profile of the nodes", result.profile),
        _listed("pairs", "Paired with the first model, on the same images", result.pairs,
                but=("model_sha256", "differing", "shown")),
_races(result.races),
    ]  # fmt: skip
    return tuple(table for table in found if table.rows)


def _races(races: Sequence[Race]) -> Table:
    columns = ("use", "in turn with", "ms", "its ms", "times as fast", "outcome")
    rows = []
    for race in races:
        ratio, ends = race.ratio_interval_95.around(race.ratio, 2)
        times = _race_times(race)
        rows.append((race.use, race.other, *times, f"{ratio} ({ends})", race.outcome))
    return Table("races", "Timed in turn with another model, one caller", columns, tuple(rows))


def _fields(found: Any, *, but: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """Return (name, value) of a dataclass's fields, none of None."""
    if found is None:
        return []
    return [(one.name, getattr(found, one.name)) for one in fields(found) if one.name not in but]


def _facts(name: str, caption: str, facts: Iterable[tuple[str, Any]]) -> Table:
    rows = ((heading(key), shown(key, value)) for key, value in facts)
    return Table(name, caption, FACTS, tuple(row for row in rows if row[1] != NONE))


def _listed(name: str, caption: str, found: Sequence[Any], *, but: Sequence[str] = ()) -> Table:
    """Return a row for each of several dataclasses of one kind, a column for each field."""
    listed = [_fields(one, but=but) for one in found]
    columns = tuple(heading(key) for key, _ in listed[0]) if listed else ()
    rows = tuple(tuple(shown(key, value) for key, value in row) for row in listed)
    return Table(name, caption, columns, rows)


def _cold_start(result: Result) -> Table:
    processes = result.cold_start.processes if result.cold_start else ()
    parts: dict[str, list[float]] = {}
    for name, value in (fact for process in processes for fact in _fields(process)):
        part = heading(name).removesuffix(" ms")
        if isinstance(value, dict):
            for size, time_ms in value.items():
                parts.setdefault(f"{part} at batch {size}", []).append(time_ms)
        elif name.endswith("_ms") and value is not None:
            parts.setdefault(part, []).append(value)
    caption = f"Cold start of {len(processes)} fresh process{'es' * (len(processes) != 1)}"
    caption += f"; peak memory {shown('memory_bytes', result.memory_bytes)}"
    rows = [(part, *map(_milliseconds, (statistics.median(times), min(times), max(times))))
            for part, times in parts.items()]  # fmt: skip
    columns = ("part", "median ms", "lowest ms", "highest ms")
    return Table("cold start", caption, columns, tuple(rows))


def _latency(latencies: Sequence[Latency]) -> Table:
    """Return a column for each batch size: so many fields fit no screen side by side."""
    facts = list(map(_latency_facts, latencies))
    names = dict.fromkeys(name for column in facts for name in column)
    rows = ((name, *(column.get(name, NONE) for column in facts)) for name in names)
    columns = ("batch", *(number(row.batch_size) for row in latencies))
    known = tuple(row for row in rows if {*row[1:]} != {NONE})
    return Table("latency", "Time of a run, one caller, back to back", columns, known)


def _latency_facts(row: Latency) -> dict[str, str]:
    found = {"runs": number(row.n_runs)}
    for one in row.percentiles_ms:
        found[f"p{100 * one.p:g} ms"], ends = _percentile_parts(one)
        if one.p == 0.5:
            found["p50 95 % ms"] = ends or NONE
    facts = [(name, getattr(row, name)) for name in LATENCY_FACTS] + _fields(row.split)
    found |= {heading(name): shown(name, value) for name, value in facts}
    return found | {"verdict": row.verdict.status if row.verdict else NONE}


def _accuracy(accuracy: Accuracy | None) -> list[Table]:
    if accuracy is None:
        return []
    labels = [one.label for one in accuracy.classes]
    counts = [(label, *map(number, row)) for label, row in zip(labels, accuracy.confusion)]  # noqa: B905 - empty of many
    tints = [tuple(n / max(sum(row), 1) for n in row) for row in accuracy.confusion]
    caption = "Confusion matrix: rows are true, columns predicted"
    found = [
        _classes(accuracy),
        Table("confusion", caption, ("true", *labels), tuple(counts), tuple(tints)),
        _listed("confused", "The pairs of classes confused most", accuracy.confused),
    ]
    if accuracy.calibration is not None:
        caption = f"Calibration, expected error {percent(accuracy.calibration.error, 2)}"
        filled = [one for one in accuracy.calibration.bins if one.n]
        found.append(_listed("calibration", caption, filled))
    return found


def _classes(accuracy: Accuracy) -> Table:
    """Return a row for each class; of very many, for those of the lowest F1."""
    caption, shown = f"Classes; test accuracy {accuracy.summary()}", accuracy.classes
    if len(shown) > MAX_CLASSES:
        caption += f"; of {len(shown):,} classes the {MAX_CLASSES} of the lowest F1"
        known = (one for one in shown if one.f1 is not None)
        shown = tuple(heapq.nsmallest(MAX_CLASSES, known, key=lambda one: one.f1 or 0.0))
    return _listed("classes", caption, shown)


def _paced(paced: Paced | None) -> list[Table]:
    if paced is None:
        return []
    caption = f"One image a run, {f'{paced.pace_hz:g} a second' if paced.pace_hz else 'on and on'}"
    facts = _fields(paced, but=("percentiles_ms", "minutes"))
    facts += [(f"p{100 * one.p:g} ms", percentile_text(one)) for one in paced.percentiles_ms]
    minutes = _listed("minutes", f"{caption}, by minute", paced.minutes)
    return [_facts("paced", caption, facts), minutes]


def speed(row: Latency, *, ends: bool = False) -> dict[str, str]:
    """Return what is said first of one batch size, by column; ends: with those of intervals."""
    return {
        "batch": number(row.batch_size),
        "p50 ms": percentile_text(row.percentile(0.5), ends=ends),
        "p99 ms": percentile_text(row.percentile(0.99), ends=ends),
        "images/s": shown("images_per_s", row.images_per_s),
    }


def percentile_text(found: Percentile | None, *, ends: bool = True) -> str:
    """Return a percentile in milliseconds, or how many runs it needs; ends: with its interval's."""
    value, interval = _percentile_parts(found)
    if ends and found is not None and found.value is None:
        return f"n/a ({value})"
    return f"{value} ({interval})" if ends and interval else value


def _percentile_parts(found: Percentile | None) -> tuple[str, str]:
    """Return value and ends of the interval, with the digits that tell these apart."""
    if found is None or found.value is None:
        return NONE if found is None else f"needs {found.floor:,}", ""
    if found.low is None or found.high is None:
        return _milliseconds(found.value), ""
    return Interval(found.low, found.high).around(found.value, _decimals(found.value))


def accuracy_text(accuracy: Accuracy | None, *, ends: bool = True) -> str:
    """Return the accuracy in percent; ends: with those of its interval."""
    if accuracy is None:
        return NONE
    value, interval = accuracy.percents()
    return f"{value} ({interval})" if ends else value


def cold_start_text(cold_start: ColdStart | None) -> str:
    """Return the median cold start in milliseconds."""
    processes = cold_start.processes if cold_start else ()
    totals = [process.total_ms for process in processes if process.total_ms is not None]
    return f"{_milliseconds(statistics.median(totals))} (n = {len(totals)})" if totals else NONE


def _milliseconds(value: float | None) -> str:
    return NONE if value is None else f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 1 + sum(value < limit for limit in (1, 10, 100))


def number(value: float) -> str:
    """Return a number with thousands' commas, and no more digits than a person reads."""
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"


def _size(value: float) -> str:  # all bytes of a file, megabytes of a memory
    return f"{value:,} bytes" if value < 1e7 else f"{value / 1e6:,.0f} MB"


def shown(name: str, value: Any) -> str:
    """Return a field's value as text, by what its name says of the unit, which the heading has."""
    if value is None or value in ("", (), [], {}):
        return NONE
    if isinstance(value, dict):
        return "; ".join(f"{key}: {shown(name, inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        if all(isinstance(inner, str) for inner in value):
            counted = Counter(value).items()
            return ", ".join(f"{text} × {n}" if n > 1 else text for text, n in counted)
        return ", ".join(shown(name, inner) for inner in value)
    if isinstance(value, (bool, str)):
        return value if isinstance(value, str) else "yes" if value else "no"
    if name == "share_of_bound" and value > 1:
        return "no bound"  # as the peak that it follows from was measured too low
    return percent(value) if name in SHARES else UNITS[_suffix(name)][1](value)


def heading(name: str) -> str:
    """Return a field's name in words, with its unit."""
    suffix = _suffix(name)
    words = name.removesuffix(suffix).removeprefix("n_").replace("_", " ")
    return LABELS.get(name, words + UNITS[suffix][0])


# what a field's name ends with: the unit in its heading, and how its numbers are written
UNITS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "_ms": (" ms", _milliseconds),
    "_ms_per_run": (" ms a run", _milliseconds),
    "_us": (" µs", "{:,.1f}".format),
    "_bytes": ("", _size),
    "_multiplications_per_s": (" 10⁹ multiplications/s", lambda value: f"{value / 1e9:,.1f}"),
    "_per_s": ("/s", "{:,.0f}".format),
    "_s": (" s", number),
    "_mhz": (" MHz", "{:,.0f}".format),
    "_hz": (" Hz", number),
    "_c": (" °C", "{:.1f}".format),
    "_p": ("", "{:.2g}".format),
    "": ("", number),
}


def _suffix(name: str) -> str:
    return next(suffix for suffix in UNITS if name.endswith(suffix))


def to_text(table: Table, width: int = WIDTH) -> list[str]:
    """Return the table as lines of aligned columns; the last is folded beyond `width`."""
    lines, found = (table.columns, *table.rows), [table.caption]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = [">" if table.is_numeric(column) else "<" for column in range(len(widths))]
    indent = sum(widths[:-1]) + 2 * len(widths[:-1])
    for line in lines:
        cells = [
            f"{cell:{sign}{size}}" for cell, sign, size in zip(line, signs, widths, strict=True)
        ]
        start = "".join(f"{cell}  " for cell in cells[:-1])
        first, *others = textwrap.wrap(cells[-1], max(20, width - indent)) or [""]
        found += [f"{start}{first}".rstrip(), *(" " * indent + rest for rest in others)]
    return found


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, its caption before it."""
    lines = [table.columns, ("---",) * len(table.columns)]
    lines += [tuple(map(markdown_text, row)) for row in table.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{markdown_text(table.caption)}:\n\n{body}"


def markdown_text(raw: str) -> str:
    """Escape what Markdown or HTML would take for its own."""
    escaped = raw.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN_SPECIAL.sub(r"\\\1", escaped)
