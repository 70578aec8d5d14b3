# /// script
# dependencies = ["pyte"]  # a terminal's screen, from what a program writes to it
# ///
"""Record `convnet-edge quickstart` as a terminal shows it: `python docs/record.py`.

Runs it in a pseudo-terminal, and writes docs/quickstart.svg, a picture that moves; needs pyte
beside this program. `--typed` and `--speed` record another command.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyte

from convnet_edge.runtime.measure.machine import passport

OUT = Path(__file__).resolve().parent / "quickstart.svg"
REPOSITORY = OUT.parents[1]
COLUMNS, ROWS = 80, 26
FRAMES_PER_S, REST_S = 4, 4.0  # of what is shown; the last screen stays so long
FONT, WIDTH, HEIGHT, MARGIN = 14, 8.4, 19, 14  # pixels; a letter is 0.6 of its size wide
BACKGROUND, TEXT = "#16191d", "#d7dadf"
NO_BREAK = "\N{NO-BREAK SPACE}"  # others fall together
COLOURS = {
    "default": TEXT, "black": "#5c6370", "red": "#ef6b73", "green": "#8ccf7e", "brown": "#e5c76b",
    "blue": "#67b0e8", "magenta": "#c47fd5", "cyan": "#6cbfbf", "white": "#ffffff",
}  # fmt: skip


class Run(NamedTuple):
    """Letters of one look, from a column on."""

    column: int
    text: str
    colour: str
    bold: bool


Row = tuple[Run, ...]


def record(command: list[str]) -> list[tuple[float, bytes]]:
    """Run a command in a terminal of its own; return when it wrote what, in seconds.

    Raises:
        SystemExit: it failed.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    others = {"COLUMNS", "LINES", "NO_COLOR", "TERM", "PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)}
    written = []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(  # noqa: S603 - this program
            command, stdin=its, stdout=its, stderr=its, cwd=folder, env=environment
        ) as process,
    ):
        os.close(its)
        started = time.monotonic()
        while data := _read(ours):
            written.append((time.monotonic() - started, data))
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return written


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # nobody writes to it any more
        return b""


def screens(typed: str, written: list[tuple[float, bytes]], speed: float) -> Iterator[list[Row]]:
    """Yield what the terminal shows, `FRAMES_PER_S` times a second, `speed` times as fast."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(b"$ ")
    for letter in typed:
        stream.feed(letter.encode())
        yield _rows(screen)
    stream.feed(b"\r\n")
    left = iter(written)
    waiting = next(left, None)
    for frame in range(1, 2 + int(written[-1][0] / speed * FRAMES_PER_S)):
        while waiting and waiting[0] <= frame / FRAMES_PER_S * speed:
            stream.feed(waiting[1])
            waiting = next(left, None)
        yield _rows(screen)


def _rows(screen: Any) -> list[Row]:
    """Return a screen's rows."""
    found = []
    for row in range(ROWS):
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        runs, column = [], 0
        for (colour, bold), several in groupby(cells, lambda cell: (cell.fg, cell.bold)):
            text = "".join(cell.data for cell in several)
            if text.strip():
                runs.append(Run(column, text.rstrip(), colour, bold))
            column += len(text)
        found.append(tuple(runs))
    return found


def to_svg(frames: list[list[Row]], title: str) -> str:
    """Return a picture that shows one frame after the other, for ever."""
    whole_s = len(frames) / FRAMES_PER_S + REST_S
    width, height = COLUMNS * WIDTH + 2 * MARGIN, (ROWS + 2) * HEIGHT + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{FONT}" '
        f'fill="{TEXT}">',
        f'<text x="{MARGIN}" y="{MARGIN + FONT}" fill="{COLOURS["black"]}">{escape(title)}</text>',
    ]
    for row in range(ROWS):
        at = 0
        for content, several in groupby(frame[row] for frame in frames):
            start, at = at, at + len(list(several))
            if content:
                is_last = at == len(frames)
                lines.append(_shown(row, content, start, None if is_last else at, whole_s))
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _shown(row: int, content: Row, start: int, stop: int | None, whole_s: float) -> str:
    """Return a row that is there from one frame to another, or to the end."""
    y = MARGIN + (row + 3) * HEIGHT
    runs = "".join(
        f'<tspan x="{MARGIN + run.column * WIDTH:.1f}" textLength="{len(run.text) * WIDTH:.1f}" '
        f'lengthAdjust="spacingAndGlyphs"'
        + (f' fill="{_colour(run.colour)}"' if run.colour != "default" else "")
        + ' font-weight="bold"' * run.bold
        + f">{escape(run.text.replace(' ', NO_BREAK))}</tspan>"
        for run in content
    )
    times = [start / FRAMES_PER_S / whole_s]
    values = ["hidden", "visible"]
    if stop is not None:
        times.append(stop / FRAMES_PER_S / whole_s)
        values.append("hidden")
    moments = ";".join(["0", *(f"{moment:.5f}" for moment in times)])
    return (
        f'<text y="{y}">{runs}<animate attributeName="visibility" calcMode="discrete" '
        f'dur="{whole_s:.1f}s" repeatCount="indefinite" values="{";".join(values)}" '
        f'keyTimes="{moments}"/></text>'
    )


def _colour(name: str) -> str:
    return COLOURS.get(name, f"#{name}")


def main() -> None:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--typed", default="convnet-edge quickstart")
    parser.add_argument("--speed", type=float, default=8.0, help="times as fast as it was")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    written = record([sys.executable, "-m", "convnet_edge", *asked.typed.split()[1:]])
    machine = passport()
    title = (
        f"{asked.typed}: {written[-1][0]:.0f} seconds, shown {asked.speed:g} times as fast "
        f"({machine['cores']} cores)"
    )
    asked.out.write_text(to_svg(list(screens(asked.typed, written, asked.speed)), title))


if __name__ == "__main__":
    main()
