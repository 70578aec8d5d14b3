"""Show a bench as it goes, on the host's terminal and a device's: its answer, or all of it.

The answer of one or several models is a table, a row for each batch size as soon as it is timed,
and a verdict under each model. All of it are `tables`.
"""

import shutil
import textwrap
from collections.abc import Callable, Sequence

from . import tables
from .result import Result, Verdict
from .tables import NONE, WIDTH, accuracy_parts, number, percentile_parts, shorten, shown

COLUMNS = {"model": 27, "batch": 6, "p50 ms": 9, "p99 ms": 10, "images/s": 10, "accuracy": 9,
           "memory": 9}  # and their widths  # fmt: skip


class Screen:
    """What `say` prints of one model after the other; verbose: everything."""

    def __init__(self, say: Callable[..., None], *, verbose: bool) -> None:
        self._say, self._verbose, self._is_first = say, verbose, True

    def opened(self, result: Result) -> None:
        """Say what is timed where, before any time is known; the columns, over the first model."""
        if self._verbose:
            self._say(*tables.card(result))
        elif self._is_first:
            ran, cpu = result.provider, result.machine.cpu or NONE
            threads = f"{ran.threads or NONE} thread{'s' * (ran.threads != 1)}"
            self._say(shorten(f"Time of a run on {ran.obtained}, {threads}, {cpu}"), _line(COLUMNS))
        self._is_first = False

    def timed(self, result: Result) -> None:
        """Say what the last batch size took; beside the first, what holds for the model."""
        if self._verbose:
            return
        row, name, about = result.latency[-1], "", ("", "")
        if len(result.latency) == 1:
            name, memory = result.model.name, shown("memory_bytes", result.memory_bytes)
            about = accuracy_parts(result.accuracy)[0], memory
        p50, p99 = (percentile_parts(row.percentile(p))[0] for p in (0.5, 0.99))
        rate = shown("images_per_s", row.images_per_s)
        self._say(_line((name, number(row.batch_size), p50, p99, rate, *about)))

    def ended(self, result: Result) -> None:
        """Say whether to believe it, and how it compares with the first model."""
        if self._verbose:
            self._say(*tables.report_lines(result, shutil.get_terminal_size().columns))
            return
        if result.verdict is not None:
            self._say(f"  {_in_one_line(result.verdict)}")
        self._say(*map(tables.pair_line, result.pairs))


def in_one_line(result: Result) -> str:
    """Return the answer of a bench in a line: how fast, how large in memory, whether to believe."""
    first, status = result.latency[0], result.verdict.status if result.verdict else NONE
    most = max(row.images_per_s or 0.0 for row in result.latency)
    return (
        f"{result.model.name}: p50 {percentile_parts(first.percentile(0.5))[0]} ms at batch "
        f"{first.batch_size}, {most:,.0f} images/s, {shown('memory_bytes', result.memory_bytes)}: "
        f"{status}"
    )


def _line(cells: Sequence[str] | dict[str, int]) -> str:
    (name, width), *others = zip(cells, COLUMNS.values(), strict=True)
    numbers = "".join(f"{cell:>{width}}" for cell, width in others)
    return f"{shorten(name, width):<{width}}{numbers}".rstrip()


def _in_one_line(verdict: Verdict) -> str:
    """Return the verdict with its first reason, which weighs most."""
    reasons = [reason.summary() for reason in verdict.reasons]
    line = ": ".join((verdict.status, *reasons[:1]))
    more = f"; {len(reasons) - 1} more with --verbose" * (len(reasons) > 1)
    return textwrap.shorten(line, WIDTH - 2 - len(more), placeholder="…") + more
