"""Show what a command does: text, a moving bar, files written, the JSON document, "next:".

Takes what the library returned; decides nothing, measures nothing. What a person asked for goes to
stdout, or to stderr where stdout carries the JSON document; notes always to stderr. What is said is
of three kinds: the answer, which `quickstart` shows too; what the first screen says around it; and
details, for `--verbose`. A line may be longer than the terminal is wide: there it is folded.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..runtime.files import fold, json_text, visible
from ..runtime.options import Options, declared

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..drawing.pictures import Picture
    from ..runtime.measure.check import Check

ROOM_FOR_CTRL_C = 4  # columns: where the terminal's own "^C" begins a line, the bar stays above it
MAX_PICTURES = 2  # named one by one
COLOURS = {"VALID": "green", "PASS": "green", "[✓]": "green", "NOISY": "yellow", "[?]": "yellow",
           "INVALID": "red", "FAIL": "red", "[x]": "red"}  # fmt: skip
COLOURED = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in COLOURS))


class Terminal:
    """Where the words of one command go.

    json: whether stdout carries the JSON document. verbose: whether details are wanted. chained:
    whether the next command follows by itself, so that only answers are shown.
    """

    def __init__(self, *, json: bool = False, verbose: bool = False) -> None:
        self.json, self.verbose, self.chained, self.finished = json, verbose, False, False
        self._bar: Progress | None = None

    def answer(self, *lines: str) -> None:
        """Print what a person asked for, in two lines or so."""
        self._print(lines, err=self.json)

    def say(self, *lines: str) -> None:
        """Print what the first screen says around the answer."""
        if self.verbose or not self.chained:
            self._print(lines, err=self.json)

    def detail(self, *lines: str) -> None:
        """Print what only --verbose shows."""
        if self.verbose:
            self._print(lines, err=self.json)

    def note(self, *lines: str) -> None:
        """Print what matters beside it."""
        self._print(lines, err=True)

    def checks(self, checks: Iterable[Check]) -> None:
        """Print those that did not hold, and the others as details."""
        for check in checks:
            (self.detail if check.passed else self.answer)(check.line())

    def heading(self, text: str) -> None:
        """Print what the next answers are about."""
        self._print([text], err=False, bold=True)

    def draw(self, lines: Iterable[str]) -> None:
        """Print a picture made of letters: light on dark, whatever the terminal's colours."""
        for line in lines:
            typer.secho(line, fg=typer.colors.BRIGHT_WHITE, bg=typer.colors.BLACK)

    def _print(self, lines: Iterable[str], *, err: bool, bold: bool = False) -> None:
        if self._bar is not None:  # off the terminal until there is more to show in it
            self._bar.stop()
        width = shutil.get_terminal_size().columns if is_terminal(err=err) else None
        for line in lines:
            for text in fold(visible(line), width):
                shown = COLOURED.sub(lambda found: typer.style(found[0], COLOURS[found[0]]), text)
                shown = typer.style(shown, bold=True) if bold else shown
                _echo(shown, err=err)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show a bar on stderr while it is a terminal; what is printed meanwhile goes above it."""
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        console.width -= ROOM_FOR_CTRL_C
        bar = Progress(console=console, transient=True, disable=not console.is_interactive)
        bar.add_task("", total=None)
        self._bar = bar
        try:
            yield
        finally:
            bar.stop()
            self._bar = None

    def step(self, text: str) -> None:
        """Say in the bar what begins now; how much of it is done is not known."""
        if self._bar is not None:
            from rich.markup import escape

            self._bar.reset(self._bar.task_ids[0], description=escape(visible(text)), total=None)
            self._bar.start()

    def share(self, share: float, text: str | None = None) -> None:
        """Say how much is done, in [0, 1]; text: in other words than those that it began with."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=share, total=1, description=text)
            self._bar.start()

    def wrote(self, files: Sequence[Path], pictures: Sequence[Picture] = ()) -> None:
        """Name the files and the pictures that were written, and the pictures that were not."""
        drawn = [str(one.path) for one in pictures if one.drawn]
        n_more = len(drawn) if files and len(drawn) > MAX_PICTURES and not self.verbose else 0
        paths = [*map(str, files), *drawn[n_more:]]
        if paths:
            stem = paths[0].removesuffix(Path(paths[0]).suffix)
            listed = ", ".join([paths[0], *(path.removeprefix(stem) for path in paths[1:])])
            self.say(f"wrote {listed}{f' and {n_more} pictures' * bool(n_more)}")
        if boxes := "".join(sorted({letter for one in pictures for letter in one.boxes})):
            self.note(
                f"no font here has {boxes:.40}: boxes in the pictures; install one, such as Noto"
            )
        left_out = [str(picture.path) for picture in pictures if not picture.drawn]
        if left_out:
            from ..drawing.pictures import INSTALL

            named = f": {', '.join(left_out)}" * self.verbose
            number = f"{len(left_out)} picture{'s' * (len(left_out) > 1)}"
            self.note(f"left out {number}, matplotlib is not installed ({INSTALL}){named}")

    def finish(self, document: Any, *next_command: object) -> None:
        """Print a dataclass or dict where JSON was asked for, and the next command to copy.

        next_command: its words, quoted here.
        """
        self.finished = True
        if self.json:
            from ..runtime.files import as_json

            typer.echo(json_text(as_json(document)))
        if next_command and not self.chained:  # not folded: it is there to be copied
            _echo(visible(f"next: {shlex.join(map(str, next_command))}"), err=self.json)


def _echo(text: str, *, err: bool) -> None:
    """Print a line. What is told beside the answer, on stderr, stops nothing if it cannot be."""
    with suppress(OSError) if err else nullcontext():
        # where there is no terminal, Typer takes the colours out again
        typer.echo(text, err=err, color=False if "NO_COLOR" in os.environ else None)


def as_words(options: Options, kind: type[Options], but: Sequence[str] = ()) -> list[str]:
    """Return those of the options that `kind` declares, written out, that are not the defaults.

    but: the names of those to leave out.
    """
    words: list[str] = []
    for one in declared(kind):
        value = getattr(options, one.name)
        if value == one.default or one.name in but:
            continue
        if isinstance(value, bool):
            words.append(one.flag if value else f"--no-{one.flag.removeprefix('--')}")
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [one.flag, shown]
    return words


def is_terminal(*, err: bool) -> bool:
    """Tell whether a person reads what is printed."""
    return (sys.stderr if err else sys.stdout).isatty()
