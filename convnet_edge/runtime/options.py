"""Declare an option once, as a field of a stage's frozen dataclass; everything else follows.

The ranges checked, the command line's options (on the host and in a bundle) and the reference page
are made from these declarations. Nothing heavy is imported here.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import InputError

RATE = {"hz": 1.0, "": 1.0}
TIME = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
SHARE = {"%": 0.01, "": 1.0}
MODEL_TEXT = "exported/convnet.onnx if it exists, else the shipped one"


@dataclass(frozen=True)
class About:
    """What is said of an option beside its name, type and default.

    low, high: least and greatest value allowed, of each number in a list. above: what the value
    must exceed. flag: the option on the command line, where it is not the field's name. metavar:
    what stands for the value in a help text. units: what a text may end with, and its value.
    suffixes: one of which the name of a file must end with. default_text: what None stands for.
    positional: an argument rather than an option.
    """

    help: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    flag: str | None = None
    metavar: str | None = None
    units: dict[str, float] | None = None
    suffixes: tuple[str, ...] = ()
    default_text: str | None = None
    positional: bool = False


@dataclass(frozen=True)
class Declared:
    """One option as declared. kind: its type without None; optional: whether None is allowed."""

    name: str
    kind: Any
    optional: bool
    default: Any
    about: About

    @property
    def flag(self) -> str:
        """The option as a person types it, the argument's name for a positional one."""
        dashed = self.name.replace("_", "-")
        return self.about.flag or (dashed.upper() if self.about.positional else f"--{dashed}")

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is tuple

    @property
    def item(self) -> Any:
        """The type of one value."""
        return get_args(self.kind)[0] if self.is_list else self.kind

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are allowed, where they can be named."""
        return get_args(self.item) if get_origin(self.item) is Literal else ()


class Options:
    """What every stage's options are: a frozen dataclass whose values are checked when it is made.

    Raises:
        InputError: a value is outside its range, or options do not fit each other.
    """

    def __post_init__(self) -> None:
        """Check every value; options that have to fit each other are checked on top of that."""
        check(self)


def option(default: Any, help: str, **about: Any) -> Any:  # noqa: A002 - the option's help
    """Return a dataclass field that declares an option; `about` as in `About`."""
    return field(default=default, metadata={"about": About(help, **about)})


def provider() -> Any:
    """Return the field of the provider, which several stages take."""
    return option(
        "cpu",
        "onnxruntime's provider: cpu, cuda, openvino, or another that it knows (untested). Opened, "
        "or an error; never replaced.",
        metavar="NAME",
    )


def threads() -> Any:
    """Return the field of a session's threads, which several stages take."""
    return option(None, "Intra-op threads.", low=1, high=4096, default_text="all usable cores")


def declared(options: type) -> tuple[Declared, ...]:
    """Return what the dataclass `options` declares, in order."""
    hints = get_type_hints(options)
    found = []
    for one in fields(options):
        hint = hints[one.name]
        kinds = [k for k in _members(hint) if k is not type(None)]
        default = None if one.default is MISSING else one.default
        about = one.metadata["about"]
        found.append(Declared(one.name, kinds[0], len(kinds) < len(_members(hint)), default, about))
    return tuple(found)


def check(options: Any) -> None:
    """Check every value of a stage's options against its declaration.

    Raises:
        InputError: a value is not one of those named, out of its range, or no such file's name.
    """
    for one in declared(type(options)):
        value = getattr(options, one.name)
        if value is None and one.optional:
            continue
        for problem in _problems(one, value):
            raise InputError(
                f"{one.flag} {_shown(value)}", expected=problem, next_step=f"change {one.flag}"
            )


def require(holds: bool, found: str, expected: str, flag: str) -> None:
    """Raise unless `holds`: for what is asked of several options together.

    Raises:
        InputError: it does not.
    """
    if not holds:
        raise InputError(found, expected=expected, next_step=f"change {flag}")


def parse(one: Declared, text: str) -> Any:
    """Return the value that `text` stands for: numbers separated by commas, or one with its unit.

    Raises:
        InputError: it stands for none.
    """
    try:
        if one.is_list:
            return tuple(one.item(part) for part in text.split(","))
        if one.about.units is None:
            return one.item(text)
        stripped = text.strip().lower()
        units = one.about.units
        unit = max((u for u in units if stripped.endswith(u)), key=len, default="")
        return float(stripped.removesuffix(unit)) * units[unit]
    except ValueError as error:
        named = " or ".join(unit for unit in one.about.units or () if unit)
        raise InputError(
            f"{one.flag} {text!r}",
            expected="numbers separated by commas, as in 1,8,64"
            if one.is_list
            else f"a number{f', with {named} behind it' if named else ''}",
            next_step=f"change {one.flag}",
        ) from error


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _problems(one: Declared, value: Any) -> Iterator[str]:
    """Yield what was expected instead of `value`, once for each rule that it breaks."""
    about, values = one.about, value if one.is_list else (value,)
    if one.choices and not set(values) <= set(one.choices):
        yield " or ".join(one.choices)
    if about.suffixes and not any(Path(v).name.endswith(about.suffixes) for v in values):
        yield f"a name that ends in {' or '.join(about.suffixes)}"
    if one.item in (int, float) and not isinstance(value, bool):
        if one.is_list and not values:
            yield f"numbers {range_text(about)}, as in 1,8,64"
        for number in values:
            inside = about.low <= number <= about.high and number > about.above
            if not (inside and math.isfinite(number)):
                yield f"{'numbers' if one.is_list else 'a number'} {range_text(about)}"


def range_text(about: About) -> str:
    """Return the range that an option's numbers must be in, in words; empty for any number."""
    ends = []
    if about.above > -math.inf:
        ends.append(f"above {about.above:g}")
    if about.low > -math.inf:
        ends.append(f"from {about.low:g}")
    if about.high < math.inf:
        ends.append(f"to {about.high:,g}" if about.low > -math.inf else f"at most {about.high:,g}")
    return " and ".join(ends) if about.above > -math.inf else " ".join(ends)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(none)"
    return f"{value:g}" if isinstance(value, float) else str(value)
