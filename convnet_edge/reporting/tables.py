"""Turn results into the tables of a report, as plain unescaped text.

Computes no statistic that a result states itself, but for medians over cold starts; the look of a
table is Markdown's and the page's.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .results import STATUSES, Result

NONE = "–"
MEASUREMENT_COLUMNS = ("#", "file", "machine", "provider, threads", "batch", "p50 ms", "p99 ms",
                       "images/s", "accuracy", "verdict")  # fmt: skip
RESULT_COLUMNS = ("#", "result", "file", "integers", "model kB", "cold start ms", "peak memory MB",
                  "verdict", "ended")  # fmt: skip
MARKDOWN_SPECIAL = re.compile(r"([\\`*\[\]|~])")

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A caption over rows of text, the first cell of each naming its row.

    tints: for each row, how strongly to tint each cell after the first, in [0, 1]; or empty.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tints: tuple[tuple[float, ...], ...] = ()


def measurement_table(results: Sequence[Result]) -> Table:
    """Return one row for each result and batch size."""
    letters = machine_letters(results)
    rows = []
    for number, result in enumerate(results, start=1):
        document = result.document
        provider = document["provider"]
        start = (
            str(number),
            model_name(result),
            machine_name(result, letters),
            f"{text(provider['obtained'])}, {text(provider['threads'])}",
        )
        for row in document["latency"]:
            measured = (
                str(row["batch_size"]),
                percentile_text(row["percentiles_ms"], 0.5),
                percentile_text(row["percentiles_ms"], 0.99),
                count(row["images_per_s"]),
                accuracy_text(document["accuracy"]),
                status(row["verdict"]),
            )
            rows.append(start + measured)
    return Table(
        "Speed and accuracy of each result and batch size", MEASUREMENT_COLUMNS, tuple(rows)
    )


def result_table(results: Sequence[Result]) -> Table:
    """Return one row for each result, also of those that failed."""
    rows = []
    for number, result in enumerate(results, start=1):
        document = result.document
        model = document["model"]
        rows.append(
            (
                str(number),
                result.path.name,
                model_name(result),
                text(model["integers"]),
                decimal(scaled(model["model_bytes"], 1e3), 0),
                cold_start_text(document["cold_start"]),
                decimal(scaled(_peak_memory(document), 1e6), 0),
                status(document["verdict"]),
                ending(result),
            )
        )
    return Table("Size, start, memory and end of each result", RESULT_COLUMNS, tuple(rows))


def reasons(result: Result) -> list[Row]:
    """Return why the verdict is not VALID; the rows' own reasons where the run has no verdict."""
    verdict = result.document["verdict"]
    if verdict is not None:
        return list(verdict["reasons"])
    return [
        {**reason, "batch_size": row["batch_size"]}
        for row in result.document["latency"]
        if row["verdict"] is not None
        for reason in row["verdict"]["reasons"]
    ]


def _peak_memory(document: Row) -> Any:
    """Return the most that a fresh process took; else what the measuring process did."""
    processes = document["cold_start"]["processes"] if document["cold_start"] else []
    known = [p["peak_memory_bytes"] for p in processes if p["peak_memory_bytes"] is not None]
    return max(known, default=document["peak_memory_bytes"])


def reason_text(reason: Row) -> str:
    """Return one reason as a line."""
    place = f"batch {reason['batch_size']}, " if reason["batch_size"] is not None else ""
    return f"{place}{reason['name']} ({reason['status']}): {reason['text']}"


def summary(results: Sequence[Result]) -> str:
    """Return how many results there are of each verdict and end."""
    verdicts = [status(result.document["verdict"]) for result in results]
    parts = [f"{verdicts.count(name)} {name}" for name in STATUSES if name in verdicts]
    if NONE in verdicts:
        parts.append(f"{verdicts.count(NONE)} without a verdict")
    n_failed = sum(result.document["failed"] is not None for result in results)
    n_interrupted = sum(bool(result.document["interrupted"]) for result in results)
    parts += [f"{n_failed} failed"] * bool(n_failed)
    parts += [f"{n_interrupted} interrupted"] * bool(n_interrupted)
    return f"{len(results)} result{'s' * (len(results) != 1)}: {', '.join(parts)}"


def machine_key(result: Result) -> str:
    """Return what is equal for comparable machines; older results have no id of their own."""
    machine = result.document["machine"]
    described = (machine[name] for name in ("cpu", "architecture", "usable_cores"))
    return machine["id"] or ", ".join(map(text, described))


def machine_letters(results: Iterable[Result]) -> dict[str, str]:
    """Return a letter for each machine, none where there is only one."""
    keys = list(dict.fromkeys(machine_key(result) for result in results))
    if len(keys) == 1:
        return {keys[0]: ""}
    return {key: chr(65 + i) if i < 26 else f"M{i + 1}" for i, key in enumerate(keys)}


def machine_name(result: Result, letters: dict[str, str]) -> str:
    """Return the processor and the start of the machine's id, after its letter."""
    machine, letter = result.document["machine"], letters[machine_key(result)]
    short = f"id {machine['id'][:6]}" if machine["id"] else "no id"
    return f"{letter}: " * bool(letter) + f"{text(machine['cpu'])} ({short})"


def model_name(result: Result) -> str:
    """Return the model file's name, the result's own where it has none."""
    return result.document["model"]["name"] or result.path.name


def ending(result: Result) -> str:
    """Return how the run ended if not by itself."""
    document = result.document
    if document["failed"] is not None:
        return f"failed: {document['failed']}"
    return "interrupted" if document["interrupted"] else "complete"


def cold_start_ms(cold_start: Row | None) -> float | None:
    """Return the median total of the cold starts, None where only parts are known."""
    processes = cold_start["processes"] if cold_start else []
    totals = [process["total_ms"] for process in processes if process["total_ms"] is not None]
    return statistics.median(totals) if totals else None


def cold_start_text(cold_start: Row | None) -> str:
    """Return the median cold start; of an older result what is known, and that it is a part."""
    if cold_start is None:
        return NONE
    total = cold_start_ms(cold_start)
    if total is not None:
        return f"{milliseconds(total)} ({cold_start['n_processes']} processes)"
    parts = [
        process["session_ms"] + process["first_run_ms"]
        for process in cold_start["processes"]
        if process["session_ms"] is not None and process["first_run_ms"] is not None
    ]
    return (
        f"{milliseconds(statistics.median(parts))} (session and first run only)" if parts else NONE
    )


def status(verdict: Row | None) -> str:
    """Return VALID, NOISY or INVALID, a dash without a verdict."""
    return NONE if verdict is None else str(verdict["status"])


def accuracy_text(accuracy: Row | None) -> str:
    """Return the accuracy in percent with its interval."""
    if accuracy is None:
        return NONE
    ends = [accuracy["interval"][end] for end in ("low", "high")]
    value = f"{100 * accuracy['accuracy']:.2f} %"
    if None in ends:
        return value
    return f"{value} ({100 * ends[0]:.2f}–{100 * ends[1]:.2f})"


def percentile(percentiles: Sequence[Row], p: float) -> Row | None:
    """Return the entry of `p`, None where there is none."""
    return next((entry for entry in percentiles if abs(entry["p"] - p) < 1e-9), None)


def percentile_text(percentiles: Sequence[Row], p: float) -> str:
    """Return a percentile with its interval, or how many runs it needs."""
    entry = percentile(percentiles, p)
    if entry is None:
        return NONE
    if entry["value"] is None:
        return f"n/a (needs {entry['floor']:,})"
    if entry["low"] is None or entry["high"] is None:
        return milliseconds(entry["value"])
    ends = "–".join(milliseconds(entry[end]) for end in ("low", "high"))
    return f"{milliseconds(entry['value'])} ({ends})"


def milliseconds(value: float | None) -> str:
    """Return a time with as many decimals as its size deserves."""
    if value is None:
        return NONE
    places = sum(value < limit for limit in (1, 10, 100))
    return decimal(value, 1 + places)


def decimal(value: float | None, places: int) -> str:
    """Return a number with thousands' commas."""
    return NONE if value is None else f"{value:,.{places}f}"


def count(value: float | None) -> str:
    """Return a whole number."""
    return decimal(value, 0)


def percent(value: float | None, places: int = 1) -> str:
    """Return a share in percent."""
    return NONE if value is None else f"{100 * value:.{places}f} %"


def scaled(value: float | None, unit: float) -> float | None:
    """Return `value` in `unit`."""
    return None if value is None else value / unit


def text(value: Any) -> str:
    """Return any plain value, or list of them, as text."""
    if value is None or value in ([], {}):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(text, value))
    return f"{value:,.6g}" if isinstance(value, float) else _counted(value)


def _counted(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, its caption before it."""
    lines = [table.columns, ("---",) * len(table.columns)]
    lines += [tuple(map(markdown_text, row)) for row in table.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table.caption}:\n\n{body}"


def markdown_text(raw: str) -> str:
    """Escape what Markdown or HTML would take for its own."""
    escaped = raw.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN_SPECIAL.sub(r"\\\1", escaped)
