"""Show what a command does: text, a moving bar, files written, the JSON document, "next:".

Takes what the library returned; decides nothing, measures nothing. What a person asked for goes to
stdout, or to stderr where stdout carries the JSON document; notes and pictures always to stderr.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..runtime.files import json_text, visible

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..drawing.pictures import Picture


class Terminal:
    """Where the words of one command go.

    json: whether stdout carries the JSON document. chained: whether the next command follows by
    itself. pictures: all that were named until now.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json, self.chained = json, False
        self.pictures: list[Picture] = []
        self._bar: Progress | None = None

    def say(self, *lines: str, aside: bool = False) -> None:
        """Print what a person asked for; aside: what matters beside it."""
        if self._bar is not None:  # off the terminal while something else is printed
            self._bar.stop()
        for line in lines:
            typer.echo(visible(line), err=self.json or aside)
        if self._bar is not None:
            self._bar.start()

    def note(self, *lines: str) -> None:
        """Print what matters beside it."""
        self.say(*lines, aside=True)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show a bar on stderr while it is a terminal; what is printed meanwhile goes above it."""
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            bar.add_task("starting", total=None)
            self._bar = bar
            yield
            self._bar = None  # after an error nothing more is said here

    def step(self, text: str) -> None:
        """Say in the bar what begins now; how much of it is done is not known."""
        if self._bar is not None:
            from rich.markup import escape

            self._bar.reset(self._bar.task_ids[0], description=escape(visible(text)), total=None)

    def share(self, share: float, text: str | None = None) -> None:
        """Say how much is done, in [0, 1]; text: in other words than those that it began with."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=share, total=1, description=text)

    def wrote(self, files: Sequence[Path], pictures: Sequence[Picture] = ()) -> None:
        """Name the files and the pictures that were written, and the pictures that were not."""
        self.pictures += pictures
        self.say(*(f"wrote {path}" for path in files))
        self.note(*(f"wrote {picture.path}" for picture in pictures if picture.drawn))
        left_out = [str(picture.path) for picture in pictures if not picture.drawn]
        if left_out:
            from ..drawing.pictures import INSTALL

            self.note(f"left out, matplotlib is not installed: {', '.join(left_out)}; {INSTALL}")

    def finish(self, document: Any, next_command: str = "") -> None:
        """Print a dataclass or dict where JSON was asked for, and the next command to copy."""
        if self.json:
            from ..runtime.measure.result import as_json

            typer.echo(json_text(as_json(document)))
        if next_command and not self.chained:
            self.say(f"next: {next_command}")
