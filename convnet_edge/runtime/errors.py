"""The errors that a user can meet: what was found, what was expected, what to do next.

Nothing here prints or exits; the command line turns `exit_code` into the process's own.
"""

from typing import ClassVar


class EdgeError(Exception):
    """Base of every error that is the user's to mend rather than a defect of this program."""

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

    def __str__(self) -> str:
        text = f"{self.found}; expected {self.expected}; next: {self.next_step}"
        return text.replace("\n", "\\n")  # one line, whatever names are in it


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
