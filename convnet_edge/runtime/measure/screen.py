"""Show a bench as it goes, on the host's terminal and a device's: its answer, or all of it.

The answer of one or several models is a table, a row for each batch size as soon as it is timed,
and a verdict under each model. All of it are `tables`.
"""

import shutil
import textwrap
from collections.abc import Callable, Sequence

from . import race, tables
from .result import Result, Verdict
from .tables import NONE, WIDTH, accuracy_text, shorten, shown

COLUMNS = {"model": 27, "batch": 6, "p50 ms": 9, "p99 ms": 10, "images/s": 10, "accuracy": 9,
           "memory": 9}  # and their widths  # fmt: skip
UNSHOWN = {"confusion", "pairs"}  # tables: the one is too wide, the other said in a sentence


class Screen:
    """What `say` prints of one model after the other; verbose: every table once it is known."""

    def __init__(self, say: Callable[..., None], *, verbose: bool) -> None:
        self._say, self._verbose, self._is_first = say, verbose, True
        self._told: set[str] = set()

    def opened(self, result: Result) -> None:
        """Say what is timed where, before any time is known; the columns, over the first model."""
        if self._verbose:
            self._told = {*UNSHOWN, *["profile"] * (not result.settings.get("profile"))}
            self._tell_tables(result)
        elif self._is_first:
            ran, cpu = result.provider, result.machine.cpu or NONE
            threads = f"{ran.threads or NONE} thread{'s' * (ran.threads != 1)}"
            self._say(shorten(f"Time of a run on {ran.obtained}, {threads}, {cpu}"), _line(COLUMNS))
        self._is_first = False

    def timed(self, result: Result) -> None:
        """Say what the last batch size took; beside the first, what holds for the model."""
        if self._verbose:
            return
        name, about = "", ("", "")
        if len(result.latency) == 1:
            name, memory = result.model.title, shown("memory_bytes", result.memory_bytes)
            about = accuracy_text(result.accuracy, ends=False), memory
        self._say(_line((name, *tables.speed(result.latency[-1]).values(), *about)))

    def ended(self, result: Result) -> None:
        """Say whether to believe it, and how it compares with the first model."""
        if self._verbose:
            self._tell_tables(result)
        if result.verdict is not None:
            self._say(*(_in_full if self._verbose else _in_one_line)(result.verdict))
        compared = (*map(tables.pair_line, result.pairs), *race.advise(result.races))
        self._say(*tables.folded(["; ".join(compared)]))

    def _tell_tables(self, result: Result) -> None:
        """Say the tables that were not known before."""
        for table in tables.tables_of(result):
            if table.name not in self._told:
                self._say(*tables.to_text(table, shutil.get_terminal_size().columns), "")
                self._told.add(table.name)


def in_one_line(result: Result) -> str:
    """Return the answer of a bench in a line: how fast, how large in memory, whether to believe."""
    status = result.verdict.status if result.verdict else NONE
    first = tables.speed(result.latency[0])
    most = max(row.images_per_s or 0.0 for row in result.latency)
    return (
        f"{result.model.title}: p50 {first['p50 ms']} ms at batch {first['batch']}, "
        f"{most:,.0f} images/s, {shown('memory_bytes', result.memory_bytes)}: {status}"
    )


def _line(cells: Sequence[str] | dict[str, int]) -> str:
    (name, width), *others = zip(cells, COLUMNS.values(), strict=True)
    numbers = "".join(f"{cell:>{width}}" for cell, width in others)
    return f"{shorten(name, width):<{width}}{numbers}".rstrip()


def _in_full(verdict: Verdict) -> list[str]:
    return [f"verdict: {verdict.status}", *(f"  {reason.line()}" for reason in verdict.reasons)]


def _in_one_line(verdict: Verdict) -> list[str]:
    """Return the verdict with its first reason, which weighs most."""
    reasons = [reason.summary() for reason in verdict.reasons]
    line = ": ".join((verdict.status, *reasons[:1]))
    more = f"; {len(reasons) - 1} more with --verbose" * (len(reasons) > 1)
    return [f"  {textwrap.shorten(line, WIDTH - 2 - len(more), placeholder='…')}{more}"]
