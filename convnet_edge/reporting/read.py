"""Read bench results of unknown origin, and finish those of the web page: it keeps raw samples.

What a result holds is declared in `runtime/measure/result.py`; a file is checked here, and only here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.measure import verdict
from ..runtime.measure.options import RESULTS_DIR
from ..runtime.measure.result import SCHEMA, Latency, Result
from ..runtime.measure.stats import percentile

MAX_RESULT_BYTES = 64 * MIB
MAX_TEXT = 20_000  # characters
LARGEST = 1 << 63
PERCENTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
FAMILY, _, NEWEST = SCHEMA.rpartition("/")
AMOUNT = re.compile(r"n|n_.*|.*_(ns|us|ms|s|hz|mhz|bytes|size|share)|confusion|accuracy")
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
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            document = _parse(file) if file.is_file() or file == path else None
            if file.resolve() not in found and (file == path or _schema(document) is not None):
                found[file.resolve()] = Stored(file, _checked(document, file))
    if not found:
        raise InputError(
            f"no bench result in {', '.join(map(str, given))}",
            expected=f"JSON files of schema {SCHEMA}",
            next_step="run `convnet-edge bench`",
        )
    return tuple(found.values())


def read_result(path: Path) -> Result:
    """Read one result file.

    Raises:
        InputError: it cannot be read, is no bench result or one of another schema, or a value has
            the wrong type or range.
    """
    return _checked(_parse(path), path)


def _parse(path: Path) -> Any:
    data = read_bytes(path, limit=MAX_RESULT_BYTES, next_step=MEASURE)
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, vast numbers
        raise _misfit(f"{path} is no JSON: {str(error)[:200]}", "a complete file") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _schema(document: Any) -> int | None:
    """Return the number of a bench result's schema, None of anything else."""
    schema = document.get("schema") if isinstance(document, dict) else None
    match = re.fullmatch(rf"{FAMILY}/([1-9][0-9]{{0,5}})", schema) if type(schema) is str else None
    return int(match[1]) if match else None


def _checked(document: Any, path: Path) -> Result:
    from pydantic import TypeAdapter, ValidationError

    schema = _schema(document)
    if schema is None:
        raise _misfit(f"{path} is no bench result", f"schema {SCHEMA}")
    if schema != int(NEWEST):
        age = "newer" if schema > int(NEWEST) else "older"
        raise InputError(
            f"{path} is of schema {schema}, {age} than this version's",
            expected=f"schema {SCHEMA}",
            next_step="pip install --upgrade convnet-edge" if age == "newer" else MEASURE,
        )
    clean = _clean(document, "", "", path)
    try:
        result = TypeAdapter(Result).validate_json(json.dumps(clean), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        found = f"{path}: {key.removeprefix('.')} is {str(first['input'])[:60]!r}"
        raise _misfit(found, first["msg"].removeprefix("Input should be ")) from error
    score = result.accuracy
    if score and {len(score.classes)} != {len(score.confusion), *map(len, score.confusion)}:
        size = f"{len(score.classes)} × {len(score.classes)}, as classes has"
        raise _misfit(f"{path}: accuracy.confusion is of another size", size)
    return _judged(result)


def _clean(value: Any, key: str, name: str, path: Path) -> Any:
    """Return a JSON value with its texts printable; `name` of a number says whether it is one's
    amount, which is never negative."""
    if isinstance(value, dict):
        return {
            _printable(inner): _clean(found, f"{key}.{_printable(inner)}".lstrip("."),
                                      name if AMOUNT.fullmatch(name) else inner, path)
            for inner, found in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [_clean(found, f"{key}[{i}]", name, path) for i, found in enumerate(value)]
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise _misfit(f"{path}: {key} is text of {len(value):,} characters", f"{MAX_TEXT:,}")
        return _printable(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    least = 1 if name == "batch_size" else 0 if AMOUNT.fullmatch(name) else -LARGEST
    if is_number and not least <= value <= LARGEST:
        raise _misfit(f"{path}: {key} is {str(value)[:20]}", f"a number of {least} or more")
    return value


def _printable(text: str) -> str:
    """Return `text` without control, direction and surrogate characters."""
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
    if result.verdict is not None or rows == result.latency:
        return result
    reasons = tuple(
        replace(reason, batch_size=row.batch_size)
        for row in rows if row.verdict is not None
        for reason in row.verdict.reasons
    )  # fmt: skip
    return replace(result, latency=rows, verdict=verdict.combine(reasons))


def _judge(row: Latency, tolerance: float) -> Latency:
    samples = np.array(row.samples_ns, np.int64)
    unknown = np.inf if row.n_outputs_checked else 0.0  # JSON has no NaN: a wrong output is null
    error = unknown if row.largest_output_error is None else row.largest_output_error
    trace = verdict.Trace(
        samples_ns=samples,
        starts_ns=np.cumsum(samples) - samples,
        n_switched=row.n_switched,
        timer_step_ns=row.timer_step_ns or 0.0,
        waited_share=row.waited_share,
        error=error,
        tolerance=tolerance,
    )
    times = tuple(percentile(samples / 1e6, p) for p in PERCENTILES)
    return replace(row, percentiles_ms=row.percentiles_ms or times, verdict=verdict.judge(trace))
