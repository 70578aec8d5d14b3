"""Lay out everything that one result holds as tables; what was not measured has none.

Text only, unescaped: the page decides how it looks.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from .results import Result
from .tables import (
    NONE,
    Row,
    Table,
    count,
    decimal,
    milliseconds,
    percent,
    percentile_text,
    scaled,
    text,
)

PARTS = {
    "interpreter": "interpreter_ms",
    "imports": "import_ms",
    "reading the file": "read_ms",
    "contract and digests": "check_ms",
    "session": "session_ms",
    "first run": "first_run_ms",
    "all, to the first result": "total_ms",
}


def detail_tables(result: Result) -> tuple[Table, ...]:
    """Return the tables of one result, in reading order."""
    document = result.document
    tables = [
        _model(document),
        _machine(document["machine"]),
        _versions(document),
        _checks(document["checks"]),
        _cost(document["cost"]),
        _cold_start(document["cold_start"]),
        _latency(document["latency"]),
        *_accuracy(document["accuracy"]),
        _throughput(document["throughput"]),
        *_paced(document["paced"]),
        _split(document["latency"]),
        _loadgen(document["loadgen"]),
        _profile(document["profile"]),
        _pairs(document["pairs"]),
    ]
    return tuple(table for table in tables if table.rows)


def _facts(caption: str, facts: Iterable[tuple[str, str]]) -> Table:
    rows = tuple(fact for fact in facts if fact[1] != NONE)
    return Table(caption, ("what", "value"), rows)


def _model(document: Row) -> Table:
    model, provider, settings = (document[name] for name in ("model", "provider", "settings"))
    obtained = text(provider["obtained"])
    asked = provider["asked"]
    if asked is not None and asked != provider["obtained"]:
        obtained += f" (asked for {asked})"
    facts = [
        ("file", text(model["name"])),
        ("bytes", text(model["model_bytes"])),
        ("sha256 of the file", text(model["model_sha256"])),
        ("sha256 of the graph", text(model["graph_sha256"])),
        ("parameters", text(model["n_parameters"])),
        ("multiplications an image", text(model["n_multiplications"])),
        ("input", text(model["input_dtype"])),
        ("integers", text(model["integers"])),
        ("provider", obtained),
        *((name.replace("_", " "), text(provider[name])) for name in (
            "tested", "threads", "spin", "io_binding", "cuda_graph", "precision", "n_copies",
            "gpu_libraries")),
        *((f"operators on {name}", text(nodes)) for name, nodes in provider["placement"].items()),
        *((f"nodes run on {name}", text(n)) for name, n in provider["n_nodes_run"].items()),
        ("measured at", text(document["measured_at"])),
        ("seconds a batch size", text(settings["duration_s"])),
        ("fewest runs", text(settings["min_runs"])),
        ("quick", text(settings["quick"])),
    ]  # fmt: skip
    return _facts("Model, provider and settings", facts)


def _machine(machine: Row) -> Table:
    units = {"memory_bytes": "memory MB", "memory_available_bytes": "memory available MB"}
    facts = [
        (name.replace("_", " "), text(value))
        for name, value in machine.items()
        if name not in (*units, "versions")
    ]
    facts += [(label, count(scaled(machine[name], 1e6))) for name, label in units.items()]
    return _facts("Machine", facts)


def _versions(document: Row) -> Table:
    versions = {"convnet-edge": document["convnet_edge"], **document["machine"]["versions"]}
    return _facts("Versions", [(name, text(version)) for name, version in versions.items()])


def _checks(checks: list[Row]) -> Table:
    rows = [
        (
            check["name"],
            "skipped" if check["skipped"] else "passed" if check["passed"] else "FAILED",
            text(check["detail"]),
        )
        for check in checks
    ]
    return Table("Checks before the timing", ("check", "outcome", "detail"), tuple(rows))


def _cost(cost: Row | None) -> Table:
    if cost is None:
        return Table("Cost", (), ())
    peak = decimal(scaled(cost["peak_multiplications_per_s"], 1e9), 1)
    facts = [
        ("multiplications an image", text(cost["n_multiplications"])),
        ("bytes of weights", text(cost["weight_bytes"])),
        ("peak, 10⁹ multiplications/s", peak),
        ("peak measured with", text(cost["peak_of"])),
        ("one image at that peak, ms", decimal(cost["bound_ms"], 4)),
    ]
    return _facts("Cost and bound", facts)


def _cold_start(cold_start: Row | None) -> Table:
    processes = cold_start["processes"] if cold_start else []
    columns = ("part", "median ms", "lowest ms", "highest ms")
    named = {label: [process[key] for process in processes] for label, key in PARTS.items()}
    for key, label in (("batch_first_run_ms", "first run, batch"), ("p50_ms", "p50, batch")):
        sizes = dict.fromkeys(size for process in processes for size in process[key])
        for size in sizes:
            named[f"{label} {size}"] = [process[key].get(size) for process in processes]
    rows = []
    for label, values in named.items():
        known = [value for value in values if value is not None]
        if known:
            ends = (statistics.median(known), min(known), max(known))
            rows.append((label, *map(milliseconds, ends)))
    n_processes = cold_start["n_processes"] if cold_start else 0
    several = f"Cold start of {n_processes} new process{'es' * (n_processes != 1)}"
    partial = all(process["total_ms"] is None for process in processes)
    caption = "Cold start: session and first run only" if partial else several
    return Table(caption, columns, tuple(rows))


def _latency(latency: list[Row]) -> Table:
    columns = ("batch", "runs", "lowest ms", "mean ms", "p50 ms", "p90 ms", "p95 ms", "p99 ms",
               "p99.9 ms", "highest ms", "of the bound", "CPU ms a run",
               "waited for a core", "verdict")  # fmt: skip
    rows = [
        (
            str(row["batch_size"]),
            text(row["n_runs"]),
            milliseconds(row["min_ms"]),
            milliseconds(row["mean_ms"]),
            *(percentile_text(row["percentiles_ms"], p) for p in (0.5, 0.9, 0.95, 0.99, 0.999)),
            milliseconds(row["max_ms"]),
            percent(row["share_of_bound"]),
            milliseconds(row["cpu_ms_per_run"]),
            percent(row["waited_share"]),
            NONE if row["verdict"] is None else row["verdict"]["status"],
        )
        for row in latency
    ]
    return Table("Time of one run, back to back", columns, tuple(rows))


def _accuracy(accuracy: Row | None) -> list[Table]:
    if accuracy is None:
        return []
    columns = ("class", "images", "precision", "recall", "F1")
    rows = [
        (
            entry["label"],
            text(entry["n"]),
            *(percent(entry[n]) for n in ("precision", "recall", "f1")),
        )
        for entry in accuracy["classes"]
    ]
    classes = Table(f"Classes, {accuracy['n']:,} test images", columns, tuple(rows))
    return [classes, _confusion(accuracy), _calibration(accuracy["calibration"])]


def _confusion(accuracy: Row) -> Table:
    labels = [entry["label"] for entry in accuracy["classes"]]
    matrix = accuracy["confusion"]
    rows = [
        (label, *(f"{n:,}" for n in counts)) for label, counts in zip(labels, matrix, strict=False)
    ]
    tints = [tuple(n / max(sum(counts), 1) for n in counts) for counts in matrix]
    return Table(
        "Confusion matrix: rows are true, columns predicted",
        ("true", *labels),
        tuple(rows),
        tuple(tints),
    )


def _calibration(calibration: Row | None) -> Table:
    bins = [entry for entry in calibration["bins"] if entry["n"]] if calibration else []
    rows = [
        (
            f"{decimal(entry['low'], 2)}–{decimal(entry['high'], 2)}",
            text(entry["n"]),
            percent(entry["confidence"]),
            percent(entry["accuracy"]),
        )
        for entry in bins
    ]
    error = percent(calibration["error"]) if calibration else NONE
    columns = ("confidence from–to", "images", "mean confidence", "accuracy")
    return Table(f"Calibration, expected error {error}", columns, tuple(rows))


def _throughput(throughput: list[Row]) -> Table:
    columns = ("batch", "threads", "callers", "images/s", "each round")
    rows = [
        (
            str(row["batch_size"]),
            text(row["threads"]),
            text(row["n_callers"]),
            count(row["images_per_s"]),
            ", ".join(map(count, row["rounds_images_per_s"])) or NONE,
        )
        for row in throughput
    ]
    return Table("Throughput", columns, tuple(rows))


def _paced(paced: Row | None) -> list[Table]:
    if paced is None:
        return []
    facts = [
        ("runs a second", text(paced["pace_hz"])),
        ("seconds", text(paced["duration_s"])),
        ("late runs", text(paced["n_late"])),
        ("frames dropped", text(paced["n_dropped"])),
        *((f"p{100 * entry['p']:g} ms", percentile_text([entry], entry["p"]))
          for entry in paced["percentiles_ms"]),
        ("p50 paced / p50 back to back", decimal(paced["penalty"], 2)),
    ]  # fmt: skip
    columns = ("minute", "runs", "p50 ms", "p90 ms", "clock MHz", "temperature °C")
    rows = [
        (
            str(row["minute"]),
            text(row["n_runs"]),
            milliseconds(row["p50_ms"]),
            milliseconds(row["p90_ms"]),
            count(row["clock_mhz"]),
            decimal(row["temperature_c"], 1),
        )
        for row in paced["minutes"]
    ]
    return [_facts("Paced runs", facts), Table("Paced runs by minute", columns, tuple(rows))]


def _split(latency: list[Row]) -> Table:
    names = ("host_to_device_ms", "compute_ms", "device_to_host_ms")
    columns = ("batch", *(name.removesuffix("_ms").replace("_", " ") + " ms" for name in names))
    rows = [
        (str(row["batch_size"]), *(milliseconds(row["split"].get(name)) for name in names))
        for row in latency
        if row["split"]
    ]
    return Table("Through bound buffers", columns, tuple(rows))


def _loadgen(loadgen: list[Row]) -> Table:
    words = {True: "VALID", False: "INVALID", None: NONE}
    rows = [(f"{r['scenario']} {r['mode']}", words[r["valid"]], r["text"]) for r in loadgen]
    columns = ("scenario, mode", "its own word", "found")
    return Table("MLPerf LoadGen (not an MLPerf result)", columns, tuple(rows))


def _profile(profile: list[Row]) -> Table:
    columns = ("node", "operator", "provider", "median µs", "share")
    rows = [
        (
            node["name"],
            text(node["op_type"]),
            text(node["provider"]),
            decimal(node["median_us"], 1),
            percent(node["share"]),
        )
        for node in profile
    ]
    return Table("Profile of the nodes", columns, tuple(rows))


def _pairs(pairs: list[dict[str, Any]]) -> Table:
    columns = ("against", "images", "lost", "gained", "differing", "McNemar's p")
    rows = [
        (
            pair["name"],
            *(text(pair[name]) for name in ("n", "n_lost", "n_gained", "n_differing")),
            decimal(pair["mcnemar_p"], 3),
        )
        for pair in pairs
    ]
    return Table("Paired with other models on the same images", columns, tuple(rows))
