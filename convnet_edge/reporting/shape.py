"""Check JSON of unknown origin against a declared shape, and say where it differs.

Knows no schema and reads no file. Absent and null are the same: a value becomes None, a list or a
map empty, a record one without values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MAX_TEXT = 20_000  # characters
MAX_ITEMS = 200_000
LARGEST = float(1 << 63)


class MisfitError(Exception):
    """What a key holds, and what it should."""

    def __init__(self, key: str, found: str, expected: str) -> None:
        """Keep the three parts."""
        super().__init__(key)
        self.key = key
        self.found = found
        self.expected = expected


class Shape(Protocol):
    """What a value has to be."""

    def fit(self, value: Any, key: str) -> Any:
        """Return `value` in this shape.

        Raises:
            MisfitError: it cannot be.
        """


@dataclass(frozen=True)
class Text:
    """A string, made printable. choices: the only ones allowed, if any."""

    choices: tuple[str, ...] = ()
    required: bool = False

    def fit(self, value: Any, key: str) -> str | None:
        """Return the text; what cannot be printed becomes U+FFFD, line ends become spaces."""
        expected = " or ".join(self.choices) or f"text of at most {MAX_TEXT:,} characters"
        if value is None and not self.required:
            return None
        if not isinstance(value, str):
            raise MisfitError(key, _kind(value), expected)
        if len(value) > MAX_TEXT or (self.choices and value not in self.choices):
            raise MisfitError(key, f"text of {len(value):,} characters", expected)
        return printable(value)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    required: bool = False

    def fit(self, value: Any, key: str) -> bool | None:
        """Return the flag."""
        if isinstance(value, bool) or (value is None and not self.required):
            return value
        raise MisfitError(key, _kind(value), "true or false")


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`. whole: without a fraction."""

    low: float = -LARGEST
    high: float = LARGEST
    whole: bool = False
    required: bool = False

    def fit(self, value: Any, key: str) -> float | None:
        """Return the number."""
        if value is None and not self.required:
            return None
        kinds = int if self.whole else (int, float)
        expected = "a whole number" if self.whole else "a finite number"
        expected += f" of {self.low:g} or more" if self.low > -LARGEST else ""
        expected += f", at most {self.high:g}" if self.high < LARGEST else ""
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise MisfitError(key, _kind(value), expected)
        if not self.low <= value <= self.high:  # NaN is never between
            raise MisfitError(key, "outside that range", expected)
        return value


@dataclass(frozen=True)
class Many:
    """A list. length: how many items it must have, None for any number."""

    item: Shape
    length: int | None = None

    def fit(self, value: Any, key: str) -> list[Any]:
        """Return the list, each item in its shape."""
        if value is None and self.length is None:
            return []
        limit = f"at most {MAX_ITEMS:,}" if self.length is None else f"{self.length}"
        expected = f"a list of {limit} items"
        if not isinstance(value, list):
            raise MisfitError(key, _kind(value), expected)
        if len(value) > MAX_ITEMS or self.length not in (None, len(value)):
            raise MisfitError(key, f"a list of {len(value):,}", expected)
        for index, entry in enumerate(value):
            if entry is None:
                raise MisfitError(f"{key}[{index}]", "null", "a value")
        return [self.item.fit(entry, f"{key}[{index}]") for index, entry in enumerate(value)]


@dataclass(frozen=True)
class Named:
    """An object with any keys; those that are null are left out."""

    item: Shape

    def fit(self, value: Any, key: str) -> dict[str, Any]:
        """Return the map, each value in its shape."""
        given = {} if value is None else _object(value, key)
        return {
            printable(name): self.item.fit(entry, f"{key}.{printable(name[:60])}")
            for name, entry in given.items()
            if entry is not None
        }


@dataclass(frozen=True)
class Record:
    """An object with known keys; others are dropped. optional: null stays None."""

    fields: Mapping[str, Shape]
    optional: bool = False

    def fit(self, value: Any, key: str) -> dict[str, Any] | None:
        """Return the object with every known key."""
        if value is None and self.optional:
            return None
        given = {} if value is None else _object(value, key)
        prefix = f"{key}." if key else ""
        return {
            name: shape.fit(given.get(name), prefix + name) for name, shape in self.fields.items()
        }


def printable(text: str) -> str:
    """Return `text` without control, direction and surrogate characters."""
    line = " ".join(text.splitlines())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _object(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MisfitError(key or "the document", _kind(value), "an object")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "missing or null"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    kinds = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")
