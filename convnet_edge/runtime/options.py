"""Declare an option once, as a field of a stage's frozen dataclass; everything else follows.

The ranges checked, the command line's options (on the host and in a bundle) and the reference page
are made from these declarations. Nothing heavy is imported here.
"""

import math
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import ARGUMENTS, InputError
from .files import as_path, require_writable

RATE = {"hz": 1.0, "": 1.0}
TIME = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
SHARE = {"%": 0.01, "": 1.0}
METAVARS = {int: "N", float: "NUMBER", Path: "PATH"}
NOUNS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False each"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
}
ELSEWHERE = "An .onnx from elsewhere"
ADVANCED = "Advanced"
MODEL_TEXT = "exported/convnet.onnx if it exists, else the shipped one"


@dataclass(frozen=True)
class Declared:
    """One option as declared.

    kind: the type of one value, without None; is_list: whether it takes several; optional: whether
    None is allowed. low, high: least and greatest value allowed, of each number in a list. above:
    what the value must exceed. flag: as a person types it, the argument's name for a positional
    one. metavar: what stands for the value in a help text. units: what a text may end with, and its
    value. suffixes: one of which the name of a file must end with that is to be written.
    default_text: what None stands for. positional: an argument, not an option. panel: under which
    heading of the help text. repeated: of a list, whether each value has the flag anew.
    takes_callable: whether Python code may give a class or function in place of its name.
    """

    name: str
    kind: Any
    is_list: bool
    optional: bool
    default: Any
    flag: str
    help: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    metavar: str | None = None
    units: dict[str, float] | None = None
    suffixes: tuple[str, ...] = ()
    default_text: str | None = None
    positional: bool = False
    panel: str | None = None
    repeated: bool = False
    takes_callable: bool = False

    @property
    def range_text(self) -> str:
        """The range that its numbers must be in, in words; empty for any number."""
        ends = []
        if self.above > -math.inf:
            ends.append(f"above {self.above:g}")
        if self.low > -math.inf:
            ends.append(f"from {self.low:g}")
        if self.high < math.inf:
            highest = f"{self.high:,}" if isinstance(self.high, int) else f"{self.high:,g}"
            ends.append(f"{'to' if self.low > -math.inf else 'at most'} {highest}")
        return (" and " if self.above > -math.inf else " ").join(ends)


class Options:
    """What every stage's options are: a frozen dataclass whose values are checked when it is made.

    Text stands for a path, too, and a list, or one number, for a tuple: they are converted.

    Raises:
        InputError: a value is of another type, outside its range, or does not fit the others.
    """

    def __init_subclass__(cls) -> None:
        """Tell errors the arguments whose flags have another name."""
        for name, one in vars(cls).items():
            if isinstance(one, Field) and "flag" in one.metadata:
                ARGUMENTS[one.metadata["flag"]] = name

    def __post_init__(self) -> None:
        """Check every value; options that have to fit each other are checked on top of that."""
        for one in declared(type(self)):
            value = _checked(one, getattr(self, one.name))
            object.__setattr__(self, one.name, value)
            if one.suffixes and value is not None and self.writes:
                require_writable(value, flag=one.flag)

    @property
    def writes(self) -> bool:
        """Whether the files that are named will be written."""
        return True


def option(default: Any, help: str, **about: Any) -> Any:  # noqa: A002 - the option's help
    """Return a dataclass field that declares an option; `about` as in `Declared`."""
    return field(default=default, metadata={"help": help, **about})


def model(**about: Any) -> Any:
    """Return the field of the model file, which several stages take."""
    return option(None, "The .onnx file.", default_text=MODEL_TEXT, **about)


def models() -> Any:
    """Return the field of one or more model files."""
    text = "The .onnx files, the main one first."
    return option((), text, positional=True, metavar="MODEL", default_text=MODEL_TEXT)


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


def ceiling() -> Any:
    """Return the field of how much a model may take, for stages that open one."""
    text = "How many times 2 GiB of memory and 2^36 multiplications an image of the model may take."
    return option(1.0, text, low=1, high=1000, panel=ADVANCED)


def seed(help: str) -> Any:  # noqa: A002 - the option's help
    """Return the field of a random seed, which several stages take."""
    return option(0, help, low=0, high=2**63 - 1)


def preprocessing(default_text: str | None = "pixels in [0, 1], a middle crop") -> Any:
    """Return the field of the file that says how an unproved model's pictures are prepared."""
    return option(
        None,
        "How its pictures become pixels: JSON as `inspect --json` prints it, with mean and std.",
        metavar="FILE",
        panel=ELSEWHERE,
        default_text=default_text,
    )


def classes(
    default_text: str | None = "class 0, class 1, ...", *, panel: str | None = ELSEWHERE
) -> Any:
    """Return the field of the file that names the outputs of what was trained elsewhere."""
    text = "Its classes in the order of its outputs: one a line, or a JSON list."
    return option(None, text, metavar="FILE", panel=panel, default_text=default_text)


@dataclass(frozen=True, kw_only=True)
class UnprovedOptions(Options):
    """What a person says of a model that came from elsewhere and holds no contract."""

    preprocessing: Path | None = preprocessing()
    classes: Path | None = classes()
    image_size: tuple[int, ...] | None = option(
        None,
        "Pixels of its images: one number, or height,width.",
        low=1,
        high=4096,
        panel=ELSEWHERE,
        default_text="as its graph says",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.image_size or (1,))
        require(n <= 2, f"--image-size of {n} numbers", "one, or height,width", "--image-size")


def declared(options: type) -> tuple[Declared, ...]:
    """Return what the dataclass `options` declares, in order."""
    hints, found = get_type_hints(options), []
    for one in fields(options):
        hint, about = hints[one.name], dict(one.metadata)
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        kind = next(kind for kind in kinds if kind is not type(None))
        is_list = get_origin(kind) is tuple
        dashed = one.name.replace("_", "-")
        about.setdefault("flag", dashed.upper() if about.get("positional") else f"--{dashed}")
        if one.name == "format" or one.name.endswith("out"):
            about.setdefault("panel", "Output")
        about["default"] = None if one.default is MISSING else one.default
        item = get_args(kind)[0] if is_list else kind
        if not about.get("positional"):
            several = is_list and not about.get("repeated")
            about.setdefault("metavar", "N,N,..." if several else METAVARS.get(item))
        found.append(Declared(one.name, item, is_list, type(None) in kinds, **about))
    return tuple(found)


def require(holds: bool, found: str, expected: str, flag: str, *, verb: str = "change") -> None:
    """Raise InputError unless `holds`: for what an option's declaration alone cannot tell."""
    if not holds:
        raise InputError(found, expected=expected, next_step=f"{verb} {flag}")


def require_values(arguments: Sequence[str]) -> None:
    """Refuse empty ones: as a path, an empty text would be this folder.

    Raises:
        InputError: naming what the first of them follows.
    """
    for before, text in zip(("the command", *arguments), arguments):  # noqa: B905 - pairs
        if not text or (text.startswith("--") and text.endswith("=")):
            flag = text[:-1] or before
            raise InputError(
                f"nothing after {flag}",
                expected="a value (is a variable of the shell empty?)",
                next_step=f"give {flag} a value, or leave it out",
            )


def parse(one: Declared, text: str) -> Any:
    """Return the value that `text` stands for: numbers separated by commas, or one with its unit.

    Raises:
        InputError: it stands for none.
    """
    try:
        if one.is_list:
            return tuple(one.kind(part) for part in text.split(","))
        if one.units is None:
            return one.kind(text)
        stripped = text.strip().lower()
        unit = max((u for u in one.units if stripped.endswith(u)), key=len, default="")
        return float(stripped.removesuffix(unit)) * one.units[unit]
    except ValueError as error:
        units = " or ".join(filter(None, one.units or ()))
        expected = f"a number{f', with {units} behind it' if units else ''}"
        raise InputError(
            f"{one.flag} {text!r}",
            expected="numbers separated by commas, as in 1,8,64" if one.is_list else expected,
            next_step=f"change {one.flag}",
        ) from error


def _checked(one: Declared, value: Any) -> Any:
    """Return `value` as the type that is declared.

    Raises:
        InputError: it is none that is allowed.
    """
    if (value is None and one.optional) or (one.takes_callable and callable(value)):
        return value
    if one.is_list and isinstance(value, Real) and not isinstance(value, bool):
        value = (value,)
    listed = isinstance(value, (list, tuple))
    given = tuple(value) if listed and one.is_list else (value,)
    values = tuple(_converted(one.kind, item) for item in given)
    of_type = None not in values and (listed or not one.is_list)
    if of_type and _allowed(one, values):
        return values if one.is_list else values[0]
    # from a command line all is of its type, and a person knows what was typed
    shown = (f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    text = (", ".join(shown) or "(none)") if of_type else repr(value)[:80]
    raise InputError(
        f"{one.name}={text}" if one.positional else f"{one.flag} {text}",
        expected="a tuple of " * (one.is_list and not listed) + _expected(one),
        next_step=f"change {one.name if one.positional else one.flag}",
    )


def _converted(kind: Any, value: Any) -> Any:
    """Return `value` as the plain type that `kind` is, None if it is of another."""
    if kind is Path:
        return as_path(value)
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind not in (int, float):  # text, or some of it
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def _allowed(one: Declared, values: Sequence[Any]) -> bool:
    if get_origin(one.kind) is Literal:
        return set(values) <= set(get_args(one.kind))
    if one.suffixes:
        return all(value.name.endswith(one.suffixes) for value in values)
    if one.kind not in (int, float):
        return True
    inside = all(one.low <= v <= one.high and one.above < v < math.inf for v in values)
    return inside and (bool(values) or not one.is_list)


def _expected(one: Declared) -> str:
    """Return what is allowed, in words."""
    if get_origin(one.kind) is Literal:
        return " or ".join(get_args(one.kind))
    if one.suffixes:
        return f"a name that ends in {' or '.join(one.suffixes)}"
    percent = ", or with % behind it" * ("%" in (one.units or ()))
    return f"{NOUNS[one.kind][one.is_list]} {one.range_text}".rstrip() + percent
