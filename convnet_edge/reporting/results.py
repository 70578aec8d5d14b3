"""Read bench results of any schema so far, as documents in the shape of the newest.

A result file is untrusted: every value that a report uses is checked here, and only here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from ..runtime.measure.options import RESULTS_DIR
from .shape import Flag, Many, MisfitError, Named, Number, Record, Shape, Text, printable

MAX_RESULT_BYTES = 64 * MIB
NEWEST_SCHEMA = 2
SCHEMA = re.compile(r"convnet-edge/bench/([1-9][0-9]{0,5})")
STATUSES = ("VALID", "NOISY", "INVALID")
MEASURE = "measure with `convnet-edge bench`, or leave the file out"

TEXT, NAME, FLAG = Text(), Text(required=True), Flag()
NUMBER, POSITIVE, SHARE = Number(), Number(low=0), Number(low=0, high=1)
COUNT, SIZE = Number(low=0, whole=True), Number(low=1, whole=True, required=True)
NEEDED_COUNT = Number(low=0, whole=True, required=True)
INTERVAL = Record({"low": SHARE, "high": SHARE})
PERCENTILES = Many(
    Record(
        {
            "p": Number(low=0, high=1, required=True),
            "floor": NEEDED_COUNT,
            "value": POSITIVE,
            "low": POSITIVE,
            "high": POSITIVE,
        }
    )
)
VERDICT = Record(
    {
        "status": Text(STATUSES, required=True),
        "reasons": Many(
            Record(
                {
                    "name": NAME,
                    "status": Text(STATUSES, required=True),
                    "value": NUMBER,
                    "threshold": NUMBER,
                    "text": NAME,
                    "batch_size": COUNT,
                }
            )
        ),
    },
    optional=True,
)
MODEL = Record(
    {
        "name": TEXT,
        "model_bytes": COUNT,
        "model_sha256": TEXT,
        "graph_sha256": TEXT,
        "n_parameters": COUNT,
        "n_multiplications": COUNT,
        "input_dtype": TEXT,
        "integers": FLAG,
    }
)
PROVIDER = Record(
    {
        "asked": TEXT,
        "obtained": TEXT,
        "tested": FLAG,
        "threads": COUNT,
        "spin": FLAG,
        "io_binding": FLAG,
        "cuda_graph": FLAG,
        "precision": TEXT,
        "placement": Named(Many(NAME)),
        "n_nodes_run": Named(COUNT),
        "n_copies": COUNT,
        "gpu_libraries": Many(NAME),
    }
)
MACHINE = Record(
    {
        "id": TEXT,
        "cpu": TEXT,
        "architecture": TEXT,
        "isa": Many(NAME),
        "cores": COUNT,
        "usable_cores": COUNT,
        "cgroup_cores": POSITIVE,
        "affinity": Many(COUNT),
        "governor": TEXT,
        "smt": FLAG,
        "temperature_c": NUMBER,
        "clock_mhz": POSITIVE,
        "load_1min": POSITIVE,
        "memory_bytes": COUNT,
        "memory_available_bytes": COUNT,
        "system": TEXT,
        "container": TEXT,
        "python": TEXT,
        "gpus": Many(NAME),
        "gpu_driver": TEXT,
        "versions": Named(TEXT),
    }
)
SETTINGS = Record(
    {
        "batch_sizes": Many(SIZE),
        "duration_s": POSITIVE,
        "min_runs": COUNT,
        "quick": FLAG,
    }
)
CHECKS = Many(
    Record(
        {
            "name": NAME,
            "passed": Flag(required=True),
            "detail": TEXT,
            "value": NUMBER,
            "limit": NUMBER,
            "skipped": FLAG,
        }
    )
)
COST = Record(
    {
        "n_multiplications": COUNT,
        "weight_bytes": COUNT,
        "peak_multiplications_per_s": POSITIVE,
        "peak_of": TEXT,
        "bound_ms": POSITIVE,
    },
    optional=True,
)
COLD_START = Record(
    {
        "n_processes": NEEDED_COUNT,
        "processes": Many(
            Record(
                {
                    "interpreter_ms": POSITIVE,
                    "import_ms": POSITIVE,
                    "read_ms": POSITIVE,
                    "check_ms": POSITIVE,
                    "session_ms": POSITIVE,
                    "first_run_ms": POSITIVE,
                    "total_ms": POSITIVE,
                    "batch_first_run_ms": Named(POSITIVE),
                    "p50_ms": Named(POSITIVE),
                    "peak_memory_bytes": COUNT,
                }
            )
        ),
    },
    optional=True,
)
CALIBRATION = Record(
    {
        "error": SHARE,
        "bins": Many(
            Record(
                {
                    "low": SHARE,
                    "high": SHARE,
                    "n": NEEDED_COUNT,
                    "confidence": SHARE,
                    "accuracy": SHARE,
                }
            )
        ),
    },
    optional=True,
)
ACCURACY = Record(
    {
        "n": NEEDED_COUNT,
        "n_correct": NEEDED_COUNT,
        "accuracy": Number(low=0, high=1, required=True),
        "interval": INTERVAL,
        "classes": Many(
            Record({"label": NAME, "n": COUNT, "precision": SHARE, "recall": SHARE, "f1": SHARE})
        ),
        "confusion": Many(Many(NEEDED_COUNT)),
        "calibration": CALIBRATION,
        "images_sha256": TEXT,
    },
    optional=True,
)
LATENCY = Many(
    Record(
        {
            "batch_size": SIZE,
            "n_runs": COUNT,
            "n_warmup": COUNT,
            "elapsed_s": POSITIVE,
            "images_per_s": POSITIVE,
            "mean_ms": POSITIVE,
            "min_ms": POSITIVE,
            "max_ms": POSITIVE,
            "percentiles_ms": PERCENTILES,
            "n_outputs_checked": COUNT,
            "largest_output_error": POSITIVE,
            "cpu_ms_per_run": POSITIVE,
            "n_switched": COUNT,
            "waited_share": POSITIVE,
            "split": Named(POSITIVE),
            "share_of_bound": POSITIVE,
            "samples_ns": Many(NEEDED_COUNT),
            "histogram_ns": Many(Many(NEEDED_COUNT, length=2)),
            "verdict": VERDICT,
        }
    )
)
THROUGHPUT = Many(
    Record(
        {
            "batch_size": SIZE,
            "threads": COUNT,
            "n_callers": COUNT,
            "images_per_s": POSITIVE,
            "rounds_images_per_s": Many(POSITIVE),
        }
    )
)
PACED = Record(
    {
        "pace_hz": POSITIVE,
        "duration_s": POSITIVE,
        "n_late": COUNT,
        "n_dropped": COUNT,
        "percentiles_ms": PERCENTILES,
        "minutes": Many(
            Record(
                {
                    "minute": NEEDED_COUNT,
                    "n_runs": COUNT,
                    "p50_ms": POSITIVE,
                    "p90_ms": POSITIVE,
                    "clock_mhz": POSITIVE,
                    "temperature_c": NUMBER,
                }
            )
        ),
        "penalty": POSITIVE,
    },
    optional=True,
)
PROFILE = Many(
    Record({"name": NAME, "op_type": TEXT, "provider": TEXT, "median_us": POSITIVE, "share": SHARE})
)
PAIRS = Many(
    Record(
        {
            "name": NAME,
            "model_sha256": TEXT,
            "n": COUNT,
            "n_lost": COUNT,
            "n_gained": COUNT,
            "n_differing": COUNT,
            "mcnemar_p": SHARE,
        }
    )
)
LOADGEN = Many(
    Record({"scenario": NAME, "mode": NAME, "valid": FLAG, "accuracy": SHARE, "text": NAME})
)
DOCUMENT = Record(
    {
        "schema": NAME,
        "measured_at": TEXT,
        "convnet_edge": TEXT,
        "model": MODEL,
        "provider": PROVIDER,
        "machine": MACHINE,
        "settings": SETTINGS,
        "checks": CHECKS,
        "cost": COST,
        "cold_start": COLD_START,
        "accuracy": ACCURACY,
        "latency": LATENCY,
        "throughput": THROUGHPUT,
        "paced": PACED,
        "loadgen": LOADGEN,
        "profile": PROFILE,
        "pairs": PAIRS,
        "verdict": VERDICT,
        "peak_memory_bytes": COUNT,
        "failed": TEXT,
        "interrupted": FLAG,
    }
)
SESSION: Shape = Record({"create_ms": POSITIVE, "first_run_ms": POSITIVE})


@dataclass(frozen=True)
class Result:
    """One bench result.

    document: checked, with every key of schema 2; what was not measured is None or empty.
    schema_version: the file's own. With 1 the only cold start is that of the measuring process,
    of which session_ms and first_run_ms are known and all else, total_ms too, is None.
    """

    path: Path
    document: dict[str, Any]
    schema_version: int = NEWEST_SCHEMA


def read_results(paths: Iterable[Path]) -> tuple[Result, ...]:
    """Read result files, and those directly in folders; none given: in benchmarks/results.

    Other JSON files in a folder are passed over, a file given twice is read once.

    Raises:
        InputError: as read_result does, or there is no result at all.
    """
    given = tuple(paths) or (RESULTS_DIR,)
    found: dict[Path, Result] = {}
    for path in given:
        if path.is_dir():
            candidates = sorted(file for file in path.glob("*.json") if file.is_file())
            read = [_read(file, is_named=False) for file in candidates]
        else:
            read = [_read(path, is_named=True)]
        for result in read:
            if result is not None:
                found.setdefault(result.path.resolve(), result)
    if not found:
        raise InputError(
            f"no bench result in {', '.join(map(str, given))}",
            expected="JSON files of schema convnet-edge/bench",
            next_step="run `convnet-edge bench`",
        )
    return tuple(found.values())


def read_result(path: Path) -> Result:
    """Read one result file.

    Raises:
        InputError: it cannot be read, is no bench result, is newer than this version, or a value
            has the wrong type or range.
    """
    result = _read(path, is_named=True)
    assert result is not None
    return result


def _read(path: Path, *, is_named: bool) -> Result | None:
    raw = _parse(path)
    schema = raw.get("schema") if isinstance(raw, dict) else None
    match = SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if match is None:
        if not is_named:
            return None
        raise InputError(
            f"{path} is no bench result",
            expected=f"schema convnet-edge/bench/1 to {NEWEST_SCHEMA}",
            next_step=MEASURE,
        )
    version = int(match[1])
    if version > NEWEST_SCHEMA:
        raise InputError(
            f"{path} is of schema {version}, newer than this version",
            expected=f"schema convnet-edge/bench/{NEWEST_SCHEMA} or older",
            next_step="pip install --upgrade convnet-edge",
        )
    try:
        document = DOCUMENT.fit(_upgrade(raw, version), "")
        assert document is not None
        _check_confusion(document["accuracy"])
    except MisfitError as error:
        raise InputError(
            f"{path}: {printable(error.key)} is {error.found}",
            expected=error.expected,
            next_step=MEASURE,
        ) from error
    return Result(path, document, version)


def _parse(path: Path) -> Any:
    data = read_bytes(path, limit=MAX_RESULT_BYTES, next_step=MEASURE)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, vast numbers
        raise InputError(
            f"{path} is no JSON: {str(error)[:200]}", expected="a complete file", next_step=MEASURE
        ) from error


def _upgrade(document: dict[str, Any], version: int) -> dict[str, Any]:
    if version == NEWEST_SCHEMA:
        return document
    session = SESSION.fit(document.get("session"), "session")
    process = {"session_ms": session["create_ms"], "first_run_ms": session["first_run_ms"]}
    measured = any(value is not None for value in process.values())
    return {
        **document,
        "schema": f"convnet-edge/bench/{NEWEST_SCHEMA}",
        "settings": {"duration_s": document.get("duration_s")},
        "cold_start": {"n_processes": 1, "processes": [process]} if measured else None,
    }


def _check_confusion(accuracy: dict[str, Any] | None) -> None:
    if accuracy is None or not accuracy["confusion"]:
        return
    rows, n_classes = accuracy["confusion"], len(accuracy["classes"])
    if any(len(row) != n_classes for row in rows) or len(rows) != n_classes:
        raise MisfitError(
            "accuracy.confusion", "of another size", f"{n_classes} × {n_classes}, as classes has"
        )
