"""Read what a person says of a classifier from elsewhere, and hold it against the graph.

The files are `--preprocessing` and `--classes`; what becomes of it is the business of `unproved`.
"""

import json
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

from ..contract import INPUT_DTYPES, MAX_CLASSES, MAX_SIDE
from ..errors import InputError
from ..files import MIB, read_bytes
from ..model_file import ELEMENT_TYPES, Graph, Shape
from ..options import UnprovedOptions
from ..pictures.preprocess import Preprocessing

MAX_GIVEN_BYTES = 4 * MIB
EXPORT_ANEW = "export it so where it was made"
EXPORT_OTHERWISE = "try another exporter's options, or a network without that operation"
CLASSIFIER = (
    "an image classifier: one input (batch, 1 or 3, height, width) of float32 or uint8, one output "
    "(batch, classes) of float32"
)
NORMALIZATION = ("mean", "std")
PRINTED_TOO = ("steps", "samples", "pixel_tolerance")  # by `inspect`, of what the other keys say


@dataclass(frozen=True)
class Signature:
    """What goes into a graph and what comes out: names, type, (C, H, W); n_classes: None untold."""

    taken: str
    dtype: str
    image_shape: tuple[int, int, int]
    given: str
    n_classes: int | None


@dataclass(frozen=True)
class Told:
    """What is known before a graph runs. normalization: its keys and values, or none."""

    signature: Signature
    preprocessing: Preprocessing
    normalization: dict[str, list[float]]


def describe(graph: Graph, given: UnprovedOptions) -> Told:
    """Return what the graph and the person say together.

    Raises:
        InputError: the graph is no classifier as `CLASSIFIER` has it; a file that is given is
            unreadable or makes no sense; or graph and person disagree.
    """
    path, stated = given.preprocessing, {}
    if path is not None:
        stated = _read_object(path)
    side = given.image_size or stated.get("size") or ()
    sizes = (side[0], side[-1]) if isinstance(side, list | tuple) and side else None
    signature = _signature(graph, sizes)
    channels, *size = signature.image_shape
    usual: dict[str, Any] = {"size": size, "channels": channels}
    if path is None:
        return Told(signature, Preprocessing.read(_defaults() | usual), {})
    for key, value in usual.items():
        if stated.setdefault(key, value) != value:
            _refuse(path, key, stated[key], f"{value}, as the graph takes it")
    normalization = _normalization(path, stated, signature)
    kept = {key: value for key, value in stated.items() if key not in NORMALIZATION}
    try:
        return Told(signature, Preprocessing.read(_defaults() | kept), normalization)
    except ValueError as error:  # it begins with the key
        key, _, rest = str(error).partition(" ")
        raise InputError(
            f"{path}: {key} {rest}",
            expected="what `convnet-edge inspect --json` prints as preprocessing",
            next_step=f"change {key!r} in it",
        ) from error


def read_classes(path: Path, n: int | None) -> tuple[str, ...]:
    """Return the names in a file: one a line, or a JSON list; n: how many there must be.

    Raises:
        InputError: unreadable, or there are fewer, more, equal or empty ones.
    """
    text = _read_text(path)
    names: Any = text.splitlines()
    if text.lstrip().startswith("["):
        names = _read_json(path, text)
    names = [name.strip() if isinstance(name, str) else "" for name in names]
    while names and not names[-1]:
        names.pop()
    expected = f"{n:,}, one for each output" if n else f"2 to {MAX_CLASSES:,} of them"
    found = None
    if (n and len(names) != n) or not 2 <= len(names) <= MAX_CLASSES:
        found = f"{len(names):,} names"
    elif "" in names:
        found, expected = f"no name at place {names.index('') + 1}", "a text"
    elif len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        found, expected = f"{twice!r} twice", "different names: pictures are matched by them"
    if found:
        raise InputError(
            f"{path} has {found}",
            expected=f"{expected}, in the order of the outputs",
            next_step="change the file, or name another with --classes",
        )
    return tuple(names)


def _signature(graph: Graph, sizes: tuple[int, int] | None) -> Signature:
    if (len(graph.inputs), len(graph.outputs)) != (1, 1):
        sides = (", ".join(map(repr, side)) or "none" for side in (graph.inputs, graph.outputs))
        _refuse_graph("inputs {} and outputs {}".format(*sides))
    ((taken, shape),), ((given, result),) = graph.inputs.items(), graph.outputs.items()
    names = {number: name for name, number in ELEMENT_TYPES.items()}
    dtype, output_dtype = (
        names.get(number, f"ONNX's number {number}")
        for number in (graph.element_types[taken], graph.element_types[given])
    )
    if dtype not in INPUT_DTYPES or output_dtype != "float32":
        _refuse_graph(f"an input of type {dtype} and an output of type {output_dtype}")
    if len(shape) != 4:
        _refuse_graph(f"the input {_text(shape)}, which is no image")
    if shape[1] not in (1, 3):
        is_last = shape[3] in (1, 3)
        _refuse_graph(f"the input {_text(shape)}{': NHWC, channels last' if is_last else ''}")
    if isinstance(shape[0], int) and shape[0] != 1:
        _refuse_graph(f"a batch fixed at {shape[0]} images", "any number of images, or one")
    if len(result) not in (0, 2):  # 0: unsaid, and found by running it
        _refuse_graph(f"the output {_text(result)}")
    n_classes = result[1] if result and isinstance(result[1], int) else None
    image_shape = (int(shape[1]), *_sides(shape, sizes))
    return Signature(taken, dtype, image_shape, given, n_classes)


def _sides(shape: Shape, sizes: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width: the graph's, where that leaves them free the person's."""
    height, width = shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        if sizes not in (None, (height, width)):
            raise InputError(
                f"images of {sizes[0]} x {sizes[1]} for the input {_text(shape)}" if sizes else "",
                expected=f"{height} x {width}, as the graph takes them",
                next_step="leave --image-size out, and change 'size' in what is given",
            )
        sizes = height, width
    if sizes is None:
        raise InputError(
            f"the input {_text(shape)}, whose height and width are free",
            expected="the size of its images",
            next_step="add --image-size, such as --image-size 224, or 'size' to what is given",
        )
    if not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sizes):
        raise InputError(
            f"images of {str(sizes)[:80]}",
            expected=f"sides of 1 to {MAX_SIDE} pixels",
            next_step="change --image-size, or 'size' in what is given",
        )
    return sizes


def _defaults() -> dict[str, Any]:
    return {one.name: one.default for one in fields(Preprocessing) if one.default is not MISSING}


def _normalization(
    path: Path, stated: dict[str, Any], signature: Signature
) -> dict[str, list[float]]:
    found = {key: stated[key] for key in NORMALIZATION if key in stated}
    if not found:
        return {}
    if signature.dtype != "float32":
        _refuse(path, *next(iter(found.items())), "none: the graph takes uint8, as it is stored")
    n = signature.image_shape[0]
    for key in NORMALIZATION:
        values = found.get(key)
        listed = values if isinstance(values, list) else []
        low, high = (0, 1) if key == "mean" else (1e-6, 1)
        sound = all(isinstance(value, Real) and not isinstance(value, bool) for value in listed)
        if len(listed) != n or not sound or not all(low <= value <= high for value in listed):
            expected = f"{n} number{'s' * (n > 1)} from {low:g} to {high}, of pixels in [0, 1]"
            _refuse(path, key, values, expected)
    return {key: [float(value) for value in values] for key, values in found.items()}


def _read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or of all that `inspect` prints the part that matters."""
    found = _read_json(path, _read_text(path))
    if isinstance(found, dict) and isinstance(found.get("contract"), dict):
        found = found["contract"].get("preprocessing")
    if not isinstance(found, dict):
        raise InputError(
            f"{path} holds {type(found).__name__}, no object",
            expected='an object, such as {"mean": [0.5], "std": [0.5]}',
            next_step="see what `convnet-edge inspect --json` prints as preprocessing",
        )
    known = [*(one.name for one in fields(Preprocessing)), *NORMALIZATION]
    for key in found.keys() - {*known, *PRINTED_TOO}:
        near = get_close_matches(key, known, 1)
        raise InputError(
            f"{path} has the key {key[:80]!r}",
            expected=f"some of {', '.join(known)}",
            next_step=f"write {near[0]!r}" if near else "leave it out",
        )
    return {key: value for key, value in found.items() if key in known}


def _read_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no JSON: {str(error)[:200]}",
            expected="a whole JSON document",
            next_step="see what `convnet-edge inspect --json` prints",
        ) from error


def _read_text(path: Path) -> str:
    data = read_bytes(path, limit=MAX_GIVEN_BYTES, next_step="name another file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text", expected="UTF-8", next_step="name another file"
        ) from error


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"[:200]


def _refuse_graph(found: str, expected: str = CLASSIFIER) -> NoReturn:
    raise InputError(f"the graph has {found}", expected=expected, next_step=EXPORT_ANEW)


def _refuse(path: Path, key: str, value: Any, expected: str) -> NoReturn:
    shown = json.dumps(value)[:80]
    raise InputError(
        f"{path}: {key} is {shown}", expected=expected, next_step=f"change {key!r} in it"
    )
