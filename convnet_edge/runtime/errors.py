"""The errors that a user can meet: what was found, what was expected, what to do next.

Nothing here prints or exits; the command line turns `exit_code` into the process's own. Messages
are written as the command line says them (`--batch-size 8`); `str(error)` says the same of Python's
arguments (`batch_size=8`). Commands stand between backticks, and stay as they are.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

# by Ctrl-C, where nothing more is known of what it ended
INTERRUPTED = "interrupted; expected the whole command; next: run it again, no file is half written"
ARGUMENTS: dict[str, str] = {}  # of the flags that are not their argument's name with dashes
# what may follow a flag that is named without a value
WORDS = "and|as|at|but|by|for|from|has|if|in|into|is|not|of|on|or|out|than|that|to|was|with|without"
FLAG = re.compile(
    r"`[^`]*`|(?<![\w./-])(?P<flag>--[a-z-]*[a-z])"
    rf"(?P<value> (?!({WORDS})\b)(?=\w|['\"./({{\[-]))?"
)

MOST_NAMED = 10  # of many things that a message is about
MOST_LETTERS = 300  # of a foreign error


class EdgeError(Exception):
    """Base of every error that is the user's to mend rather than a defect of this program.

    found, expected, next_step: its three parts, options as on the command line. exit_code: with
    which the command line ends.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self, found: str, *, expected: str, next_step: str, details: tuple[str, ...] = ()
    ) -> None:
        """Keep the three parts; details: lines to print before them."""
        super().__init__(found)
        self.details = details
        self.found = found
        self.expected = expected
        self.next_step = next_step

    @property
    def line(self) -> str:
        """The three parts as the command line prints them."""
        text = f"{self.found}; expected {self.expected}; next: {self.next_step}"
        return text.replace("\n", "\\n")  # one line, whatever names are in it

    def __str__(self) -> str:
        return FLAG.sub(_as_argument, self.line)

    def __reduce__(self) -> tuple[Any, ...]:  # so that it passes from one process to another
        others = {name: getattr(self, name) for name in ("expected", "next_step", "details")}
        return partial(type(self), **others), (self.found,)


class InputError(EdgeError):
    """Wrong usage, or a missing or unreadable file, package, data set or provider."""


class MissingPackageError(InputError):
    """A package is not installed, or does not load."""


class CheckFailedError(EdgeError):
    """A check ran and did not hold: parity, digest, golden vectors, accuracy, training."""

    exit_code: ClassVar[int] = 1


class UndecidedError(EdgeError):
    """A comparison whose measurements allow neither answer."""

    exit_code: ClassVar[int] = 3


class InterruptedRunError(EdgeError):
    """The user stopped a long run; `next_step` says how to go on."""

    exit_code: ClassVar[int] = 130


def first_line(error: BaseException) -> str:
    """Return the beginning of what a foreign error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MOST_LETTERS]


def first(values: Sequence[object], n: int = MOST_NAMED) -> list[str]:
    """Return the first `n` of `values` as text, and how many more there are."""
    n_more = len(values) - n
    return [*map(str, values[:n]), *[f"and {n_more:,} more"] * (n_more > 0)]


def some(values: Sequence[object], n: int = MOST_NAMED) -> str:
    """Return the `first` of `values` as one text."""
    return ", ".join(first(values, n))


def _as_argument(found: re.Match[str]) -> str:
    """Return `--name value` as `name=value`; a command as it is."""
    if found["flag"] is None:
        return found[0]
    name = ARGUMENTS.get(found["flag"]) or found["flag"][2:].replace("-", "_")
    return f"{name}=" if found["value"] else name
