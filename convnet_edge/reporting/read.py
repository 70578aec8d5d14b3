"""Read bench results of unknown origin, and finish those of the web page: it keeps raw samples.

What a result holds is declared in `runtime/measure/result.py`; a file is checked here, only here.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.measure import verdict
from ..runtime.measure.options import RESULTS_DIR
from ..runtime.measure.result import SCHEMA, Latency, Result
from ..runtime.measure.stats import percentiles_ms

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_RESULT_BYTES = 64 * MIB
LARGEST = 1 << 63
FAMILY, _, NEWEST = SCHEMA.rpartition("/")
AMOUNT = re.compile(r"n|n_\w+|\w+_(ns|us|ms|s|hz|mhz|bytes|size|share)|confusion|accuracy")
MEASURE = "measure again with `convnet-edge bench`, or leave the file out"


@dataclass(frozen=True)
class Stored:
    """A result and the file that it stands in."""

    path: Path
    result: Result


def read_results(paths: Iterable[Path]) -> tuple[Stored, ...]:
    """Read result files, and those directly in folders; none given: in benchmarks/results.

    Other JSON files in a folder are passed over, a file given twice is read once.

    Raises:
        InputError: as read_result does, or there is no result at all.
    """
    given = tuple(paths) or (RESULTS_DIR,)
    found: dict[Path, Stored] = {}
    for path in given:
        listed = sorted(file for file in path.glob("*.json") if file.is_file())
        for file in listed if path.is_dir() else [path]:
            document = _parse(file)
            if not path.is_dir() or _schema(document) is not None:
                found.setdefault(file.resolve(), Stored(file, _check(document, file)))
    if not found:
        raise InputError(
            f"no bench result in {', '.join(map(str, given))}",
            expected=f"JSON files of schema {SCHEMA}",
            next_step="run `convnet-edge bench`",
        )
    return tuple(found.values())


def read_result(path: Path) -> Result:
    """Read one result file; what its raw samples tell, but it does not, is added.

    Raises:
        InputError: it cannot be read, is no bench result or one of another schema, or a value has
            the wrong type or range.
    """
    return _check(_parse(path), path)


def _parse(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    data = read_bytes(path, limit=MAX_RESULT_BYTES, next_step=MEASURE)
    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, vast numbers
        raise _misfit(f"{path} is no JSON: {str(error)[:200]}", "a complete file") from error


def _schema(document: Any) -> int | None:
    """Return the number of a bench result's schema, None of anything else."""
    schema = document.get("schema") if isinstance(document, dict) else None
    match = re.fullmatch(rf"{FAMILY}/([1-9][0-9]{{0,5}})", str(schema))
    return int(match[1]) if match else None


def _check(document: Any, path: Path) -> Result:
    from pydantic import ValidationError

    schema = _schema(document)
    if schema is not None and schema > int(NEWEST):
        raise InputError(
            f"{path} is of schema {schema}, newer than this version",
            expected=f"schema {SCHEMA}",
            next_step="pip install --upgrade convnet-edge",
        )
    if schema != int(NEWEST):
        what = "no bench result" if schema is None else f"of schema {schema}, older than this one"
        raise _misfit(f"{path} is {what}", f"schema {SCHEMA}")
    try:
        clean = json.dumps(_clean(document, f"{path}: ", ""))
        result = _adapter().validate_json(clean, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        what = "missing" if first["type"] == "missing" else f"{str(first['input'])[:40]!r}"
        expected = first["msg"].removeprefix("Input should be ")
        raise _misfit(f"{path}: {key[1:]} is {what}", expected) from error
    score = result.accuracy
    if score and {len(score.classes)} != {len(score.confusion), *map(len, score.confusion)}:
        size = f"{len(score.classes)} × {len(score.classes)}, as classes has"
        raise _misfit(f"{path}: accuracy.confusion is of another size", size)
    return _judged(result)


@functools.cache
def _adapter() -> TypeAdapter[Result]:
    from pydantic import TypeAdapter

    return TypeAdapter(Result)


def _clean(value: Any, place: str, name: str) -> Any:
    """Return a JSON value with what cannot be printed made visible; refuse amounts below zero.

    place: of the value, for people. name: the key that says what it is, also of all inside of it.
    """
    inherits = AMOUNT.fullmatch(name)
    if isinstance(value, dict):
        named = {_printable(key): inner for key, inner in value.items()}
        dot = "" if place.endswith(" ") else "."
        return {key: _clean(inner, f"{place}{dot}{key}", name if inherits else key)
                for key, inner in named.items()}  # fmt: skip
    if isinstance(value, list):
        return [_clean(inner, f"{place}[{index}]", name) for index, inner in enumerate(value)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least = 1 if name == "batch_size" else 0 if inherits else -LARGEST
        if not least <= value <= LARGEST:
            raise _misfit(f"{place} is {str(value)[:20]}", f"a number from {least} to 2^63")
    return _printable(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _misfit(found: str, expected: str) -> InputError:
    return InputError(found, expected=expected, next_step=MEASURE)


def _judged(result: Result) -> Result:
    """Return the result with the percentiles and verdicts that follow from its raw samples."""
    limits = [check.limit for check in result.checks if check.name.startswith("golden vectors")]
    tolerance = min((limit for limit in limits if limit is not None), default=0.0)
    rows = tuple(
        _judge(row, tolerance) if row.samples_ns and row.verdict is None else row
        for row in result.latency
    )
    judged = result.verdict or (verdict.combine(rows) if rows != result.latency else None)
    return replace(result, latency=rows, verdict=judged)


def _judge(row: Latency, tolerance: float) -> Latency:
    samples = np.array(row.samples_ns, np.int64)
    judged = verdict.judge(row, samples, np.cumsum(samples) - samples, tolerance=tolerance)
    times = row.percentiles_ms or percentiles_ms(samples)
    return replace(row, percentiles_ms=times, verdict=judged)
