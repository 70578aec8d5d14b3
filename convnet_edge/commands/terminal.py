"""Show what a command does: text, tables, a moving bar, files written, the JSON document, "next:".

Takes what the library returned; decides nothing, measures nothing. What a person asked for goes to
stdout, or to stderr where stdout carries the JSON document; notes and pictures always to stderr.
"""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ..drawing.pictures import Picture
    from ..runtime.measure.tables import Table

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a command leaves to be done once it has shown its result.

    document: for --json, a dataclass or a dict. next_command: to copy. judge: raises where the
    result is a failure. exit_code: of a failure of which everything has been said.
    """

    result: T
    document: Any = None
    next_command: str | None = None
    judge: Callable[[], None] = lambda: None
    exit_code: int = 0


def rank() -> int:
    """Return this process's rank among those that torchrun started, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


class Bar:
    """What a long run is doing, and how much of it is done; unseen where stderr is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("starting", total=None)

    def step(self, text: str) -> None:
        """Say what begins now; how much of it is done is not known."""
        self._progress.reset(self._task, description=text, total=None)

    def share(self, share: float, text: str | None = None) -> None:
        """Say how much is done, in [0, 1]; text: in other words than those that it began with."""
        self._progress.update(self._task, completed=share, total=1, description=text)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed."""
        self._progress.stop()
        yield
        self._progress.start()


class Terminal:
    """Where the words of one command go. json: whether stdout carries the JSON document."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self._bar: Bar | None = None

    def say(self, *lines: str) -> None:
        """Print what a person asked for."""
        with self._bar.hidden() if self._bar else nullcontext():
            for line in lines:
                typer.echo(line, err=self.json)

    def note(self, text: str) -> None:
        """Print what matters beside it."""
        with self._bar.hidden() if self._bar else nullcontext():
            typer.echo(text, err=True)

    def show(self, table: Table) -> None:
        """Print a table, its cells as they stand."""
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table as RichTable

        drawn = RichTable(*table.columns, title=table.caption, box=SIMPLE)
        for row in table.rows:
            drawn.add_row(*row)
        with self._bar.hidden() if self._bar else nullcontext():
            Console(stderr=self.json, markup=False, emoji=False, highlight=False).print(drawn)

    @contextmanager
    def progress(self) -> Iterator[Bar]:
        """Show a bar on stderr while it is a terminal; what is printed meanwhile goes above it."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress:
            self._bar = Bar(progress)
            try:
                yield self._bar
            finally:
                self._bar = None

    def wrote(self, files: Sequence[Path], pictures: Sequence[Picture] = ()) -> None:
        """Name the files and the pictures that were written, and the pictures that were not."""
        self.say(*(f"wrote {path}" for path in files))
        for picture in pictures:
            if picture.drawn:
                self.note(f"wrote {picture.path}")
        left_out = [str(picture.path) for picture in pictures if not picture.drawn]
        if left_out:
            from ..drawing.pictures import INSTALL

            self.note(f"left out, matplotlib is not installed: {', '.join(left_out)}; {INSTALL}")

    def finish(self, done: Done[Any]) -> None:
        """Print the JSON document where it was asked for, and the next command to copy.

        Raises:
            EdgeError: as `done.judge` does.
            typer.Exit: with `done.exit_code`.
        """
        if self.json and done.document is not None:
            from ..runtime.measure.result import as_json

            plain = done.document if isinstance(done.document, dict) else as_json(done.document)
            typer.echo(json_module.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False))
        if done.next_command is not None:
            self.say(f"next: {done.next_command}")
        done.judge()
        if done.exit_code:
            raise typer.Exit(done.exit_code)
