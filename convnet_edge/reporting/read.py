"""Read bench results of unknown origin, and finish those of the web page: it keeps raw samples.

What a result holds is declared in `runtime/measure/result.py`; a file is checked here, only here.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.measure import accuracy, verdict
from ..runtime.measure.options import RESULTS_DIR
from ..runtime.measure.result import MAX_MATRIX, SCHEMA, Accuracy, Latency, Result
from ..runtime.measure.stats import percentiles_ms

MAX_RESULT_BYTES = 64 * MIB
LARGEST = 1 << 63
FAMILY, NEWEST = SCHEMA.rsplit("/", 1)
AMOUNT = re.compile(r"n|n_\w+|\w+_(ns|us|ms|s|hz|mhz|bytes|size|share)|confusion|accuracy")
UNREADABLE: dict[type, str] = {
    RecursionError: "nested too deeply",
    UnicodeDecodeError: "its bytes are no text",
}
ROUNDED = 1e-6  # of a share, as text may hold it
MAX_DEPTH = 32  # of lists and objects inside one another; a result has 6
UPGRADE = "read it with the convnet-edge that wrote it, or a newer one"
MEASURE = "measure again with `convnet-edge bench`, or leave the file out"


def read_results(paths: Iterable[Path]) -> dict[Path, Result]:
    """Read result files, and those directly in folders; none given: in benchmarks/results.

    Other JSON files in a folder are passed over, a file given twice is read once. What raw samples
    tell, but the file does not, is added.

    Raises:
        InputError: there is no result, or one cannot be read, is of another schema, or holds a
            value of the wrong type or range.
    """
    given = tuple(paths) or (RESULTS_DIR,)
    found: dict[Path, tuple[Path, Result]] = {}
    for path in given:
        listed = sorted(file for file in path.glob("*.json") if file.is_file())
        for file in listed if path.is_dir() else [path]:
            data = read_bytes(file, limit=MAX_RESULT_BYTES, next_step=MEASURE)
            try:
                document = json.loads(data)
            except (ValueError, RecursionError) as error:  # also of vast numbers
                why = UNREADABLE.get(type(error)) or str(error).partition(";")[0][:200]
                whole = "a whole result file of `convnet-edge bench`"
                raise _misfit(f"{file} is no JSON: {why}", whole) from error
            if not path.is_dir() or _schema(document):
                found.setdefault(file.resolve(), (file, _check(document, file)))
    if not found:
        raise InputError(
            f"no bench result in {', '.join(map(str, given))}",
            expected=f"JSON files of schema {SCHEMA}",
            next_step="run `convnet-edge bench`",
        )
    return dict(found.values())


def _schema(document: Any) -> int:
    """Return the number of a bench result's schema, 0 of anything else."""
    schema = document.get("schema") if isinstance(document, dict) else None
    match = re.fullmatch(rf"{FAMILY}/([1-9][0-9]{{0,5}})", str(schema))
    return int(match[1]) if match else 0


def _check(document: Any, path: Path) -> Result:
    from pydantic import ValidationError

    schema = _schema(document)
    if schema != int(NEWEST):
        what = f"{path} is {f'of schema {schema}' if schema else 'no bench result'}"
        raise _misfit(what, f"schema {SCHEMA}", UPGRADE if schema > int(NEWEST) else MEASURE)
    try:
        clean = json.dumps(_clean(document, f"{path}: ", "", MAX_DEPTH))
        result = _validator()(clean, strict=True)
    except ValidationError as error:
        raise _explained(error.errors(include_url=False)[0], path) from error
    score = _scored(result.accuracy, path) if result.accuracy else None
    limits = [check.limit for check in result.checks if check.name.startswith("golden vectors")]
    tolerance = min((limit for limit in limits if limit is not None), default=0.0)
    rows = tuple(_judged(row, tolerance) for row in result.latency)
    judged = result.verdict or (verdict.combine(rows) if rows != result.latency else None)
    return replace(result, accuracy=score, latency=rows, verdict=judged)


def _scored(score: Accuracy, path: Path) -> Accuracy:
    """Return a score; of many classes with the worst pairs, where an older file has a matrix."""
    share = score.n_correct / score.n if score.n else -1.0
    if not 0 <= share <= 1 or abs(score.accuracy - share) > ROUNDED:
        known = f"{score.n_correct:,} of {score.n:,}, which are right"
        raise _misfit(f"{path}: accuracy.accuracy is {score.accuracy:g}", known)
    n, confusion = len(score.classes), score.confusion
    if n > MAX_MATRIX and not confusion:
        return score
    if {n} != {len(confusion), *map(len, confusion)}:
        size = f"{n} × {n}, as classes has"
        raise _misfit(f"{path}: accuracy.confusion is of another size", size)
    if n <= MAX_MATRIX:
        return score
    cells = ((i, j, count) for i, row in enumerate(confusion) for j, count in enumerate(row))
    return replace(score, confusion=(), confused=accuracy.worst_pairs(cells, score.classes))


def _explained(first: Mapping[str, Any], path: Path) -> InputError:
    """Return pydantic's first complaint about a file, and where in it that is."""
    place, (_, _, word) = first["loc"], first["msg"].partition("Input should be ")
    if place[0] == "settings" and len(place) > 2:  # which of several types pydantic tried last
        place, word = place[:2], "a number, string, boolean, null, or an array of integers"
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    is_missing = first["type"] == "missing"
    found = "missing" if is_missing else json.dumps(first["input"], ensure_ascii=False)[:40]
    return _misfit(
        f"{path}: {key[1:]} is {found}", word or "what `convnet-edge bench` writes there"
    )


@functools.cache
def _validator() -> Callable[..., Result]:
    from pydantic import TypeAdapter

    return TypeAdapter(Result).validate_json


def _clean(value: Any, place: str, name: str, room: int) -> Any:
    """Return a JSON value with what cannot be printed made visible; refuse amounts below zero.

    place: of the value, for people. name: the key that says what it is, also of all inside of it.
    room: how many levels may be inside.
    """
    if not room:
        raise _misfit(f"{place[:80]}… is nested too deeply", f"at most {MAX_DEPTH} levels")
    is_amount = AMOUNT.fullmatch(name)
    if isinstance(value, dict):
        dot = "" if place.endswith(" ") else "."
        named = {_clean(key, place, "", 1): inner for key, inner in value.items()}
        return {key: _clean(inner, f"{place}{dot}{key}", name if is_amount else key, room - 1)
                for key, inner in named.items()}  # fmt: skip
    if isinstance(value, list):
        return [
            _clean(inner, f"{place}[{index}]", name, room - 1) for index, inner in enumerate(value)
        ]
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else "\ufffd" for letter in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least = 1 if name == "batch_size" else 0 if is_amount else -LARGEST
        if not least <= value <= LARGEST:  # nor is NaN
            raise _misfit(f"{place} is {str(value)[:20]}", f"a number from {least} to 2^63")
    return value


def _misfit(found: str, expected: str, next_step: str = MEASURE) -> InputError:
    return InputError(found, expected=expected, next_step=next_step)


def _judged(row: Latency, tolerance: float) -> Latency:
    """Return a row with the percentiles and verdict that follow from its raw samples."""
    if row.verdict or not row.samples_ns:
        return row
    samples = np.array(row.samples_ns, np.int64)
    judged = verdict.judge(row, samples, np.cumsum(samples) - samples, tolerance=tolerance)
    times = row.percentiles_ms or percentiles_ms(samples)
    return replace(row, percentiles_ms=times, verdict=judged)
