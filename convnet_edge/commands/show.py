"""Print results for people: what the commands say once the library has answered.

Takes results and a console; decides nothing, measures nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from ..reporting import compare as compare_stage
    from ..runtime.measure.latency import Latency
    from ..runtime.measure.stats import Percentile
    from ..training import loop as train_stage
    from ..training.options import TrainOptions
    from . import bench as bench_stage
    from . import inspect as inspect_stage


def training_start(config: TrainOptions, start: train_stage.Start, console: Console) -> None:
    """Print data, network, cost and recipe, before the first epoch."""
    cost, recipe = start.cost, config.plan
    together = f", {start.n_processes} processes" if start.n_processes > 1 else ""
    held_out = f", {config.validate:,} more held out for validation" if config.validate else ""
    console.print(
        f"Data: {config.data}, {len(start.images):,} training images{held_out} "
        f"({start.images.source}); device {start.device}{together}"
    )
    console.print(str(start.model))
    console.print(f"Model has {cost.n_parameters} trainable parameters")
    conv1, conv2, *linear = cost.n_multiplications
    console.print(
        f"Cost: {cost.n_parameters:,} parameters ({cost.parameter_bytes / 1e6:.2f} MB); "
        f"{sum(cost.n_multiplications):,} multiplications an image (conv1 {conv1:,}, conv2 "
        f"{conv2:,}, linear {sum(linear):,}); data {cost.data_bytes / 1e6:.0f} MB; peak measured "
        f"here {cost.peak_flops / 1e9:,.0f} GFLOP/s, so an epoch takes {cost.bound_s:.2g} s or more"
    )
    console.print(f"Recipe {config.recipe}: {recipe.epochs} epochs of batches of "
                  f"{recipe.batch_size}, seed {config.seed}")  # fmt: skip
    if config.resume:
        resumed = f"Resuming after {start.n_done} complete epochs"
        fresh = "No unfinished run to resume: starting from the beginning"
        console.print(resumed if start.n_done else fresh)
    for warning in start.warnings:
        typer.echo(f"warning: {warning}", err=True)


def inspection(result: inspect_stage.Inspection, console: Console) -> None:
    """Print what a model file is."""
    document = result.as_json()
    contract, file = document["contract"], result.file
    measured, training = contract["measured"], contract["training"]
    ops = ", ".join(f"{count} {name}" for name, count in document["ops"].items())
    multiplications = result.n_multiplications
    lines = {
        "file": f"{result.path}  ({result.n_bytes:,} bytes, sha256 {result.sha256[:16]}…)",
        "format": f"opset {document['opsets']}, IR {file.ir_version}",
        "operations": ops,
        "parameters": f"{result.n_parameters:,}{_integers(contract)}",
        "multiplications": "unknown: shapes are not in the file"
        if multiplications is None
        else f"{multiplications:,} an image",
        "input": f"{document['inputs']}, {contract['input']['scale']}",
        "output": f"{document['outputs']}",
        "classes": ", ".join(contract["class_labels"]),
        "trained on": f"{training['data']}, {training['n_images']:,} images, recipe "
        f"{training['recipe']}, {training['epochs']} epochs, seed {training['seed']}",
        "test accuracy": f"{measured['accuracy']:.2%} of {measured['n']:,} ({measured['what']})",
        "golden vectors": f"{contract['goldens']['n']}, tolerance "
        f"{contract['goldens']['tolerance']:.2g}",
        "trained with": _joined(contract["versions"]["training"]),
        "exported with": _joined(contract["versions"]["export"]),
    }
    for name, text in lines.items():
        console.print(f"{name:>15}  {text}")
    for check in result.digests:
        console.print(f"{'':>15}  {check.line()}")


def cost(path: Path, document: dict[str, Any], console: Console) -> None:
    """Print what is measured, where and what it must cost, before any number."""
    provider, machine, model = (document[part] for part in ("provider", "machine", "model"))
    untested = "" if provider["tested"] else " (untested provider)"
    nodes = ", ".join(f"{n} on {name}" for name, n in provider["n_nodes_run"].items())
    copies = f", {provider['n_copies']} copies between them" if provider["n_copies"] else ""
    console.print(
        f"{path}: {model['model_bytes']:,} bytes, on {provider['obtained']}{untested}, "
        f"{_count(provider['threads'], 'thread')}; nodes: {nodes}{copies}"
    )
    if provider["gpu_libraries"]:
        console.print(f"mapped: {', '.join(provider['gpu_libraries'])}")
    read = {
        "governor": machine["governor"],
        "temperature": machine["temperature_c"] and f"{machine['temperature_c']:.0f} °C",
        "container": machine["container"],
        "load": machine["load_1min"] is not None and f"{machine['load_1min']:.2f}",
    }
    known = "".join(f", {name} {value}" for name, value in read.items() if value)
    gpus = "".join(f", {gpu}" for gpu in machine["gpus"])
    console.print(f"machine {machine['id']}: {machine['cpu']}, {machine['usable_cores']} usable "
                  f"cores{gpus}{known}")  # fmt: skip
    found = document["cost"]
    multiplications = found["n_multiplications"]
    work = "an unknown number of" if multiplications is None else f"{multiplications:,}"
    text = f"cost: {work} multiplications an image, {found['weight_bytes']:,} bytes of weights"
    if found["peak_multiplications_per_s"]:
        text += (
            f"; this provider's peak here {found['peak_multiplications_per_s'] / 1e9:.1f} G/s "
            f"({found['peak_of']})"
        )
    if found["bound_ms"]:
        text += f", so an image takes {found['bound_ms']:.3g} ms or more"
    console.print(text)


def measured(result: bench_stage.BenchResult, console: Console) -> None:
    """Print what `bench` found of one model: checks, accuracy, cold start, times, verdict."""
    document = result.document
    console.print("\n".join(check.line() for check in result.checks))
    error = document["accuracy"]["calibration"]["error"]
    console.print(f"test accuracy {result.score.summary()}; calibration error {100 * error:.2f} %")
    for pair in document.get("pairs", ()):
        shown = "not " if pair["mcnemar_p"] > 0.05 else ""
        console.print(
            f"against {pair['name']}: {pair['n_differing']} of {pair['n']:,} images labelled "
            f"differently, {pair['n_lost']} right answers lost, {pair['n_gained']} gained; "
            f"difference {shown}shown (exact McNemar p = {pair['mcnemar_p']:.2g})"
        )
    _classes(result, console)
    _cold_start(document, console)
    _latencies(result.latencies, document, console)
    _throughput(document, console)
    _paced(document, console)
    for line in document.get("loadgen") or ():
        console.print(line["text"])
    _verdict(result, console)


def nodes(document: dict[str, Any], console: Console) -> None:
    """Print the time of each node."""
    table = Table("node", "operation", "provider", "µs", "share", title="Profile of one image")
    for node in document["profile"]:
        table.add_row(node["name"], node["op_type"], node["provider"], f"{node['median_us']:.1f}",
                      f"{node['share']:.1%}")  # fmt: skip
    console.print(table)


def comparison(found: compare_stage.Comparison, console: Console) -> None:
    """Print both sides' medians, the ratio and the gates."""
    for name, path, medians in (
        ("BASE", found.config.base, found.base_ms),
        ("NEW", found.config.new, found.new_ms),
    ):
        spread = f"{min(medians):.4f} to {max(medians):.4f} ms" if medians else "none stored"
        console.print(f"{name:>4} {path}: p50 of {len(medians)} fresh processes {spread}")
    for note in found.notes:
        console.print(f"they differ in {note}")
    console.print("\n".join(gate.line() for gate in found.gates))


def _classes(result: bench_stage.BenchResult, console: Console) -> None:
    table = Table("class", "n", "precision", "recall", "F1", title="Per class")
    for row in result.score.classes:
        shares = (row.precision, row.recall, row.f1)
        cells = ("n/a" if share is None else f"{share:.3f}" for share in shares)
        table.add_row(row.label, str(row.n), *cells)
    console.print(table)


def _cold_start(document: dict[str, Any], console: Console) -> None:
    rows = document["cold_start"]["processes"]
    names = ("interpreter", "import", "read", "check", "session", "first_run", "total")
    table = Table("", *(name.replace("_", " ") for name in names),
                  title=f"Cold start in ms, {len(rows)} fresh processes")  # fmt: skip
    for word, pick in (("median", len(rows) // 2), ("fastest", 0), ("slowest", -1)):
        ordered = [sorted(row[f"{name}_ms"] for row in rows) for name in names]
        table.add_row(word, *(f"{column[pick]:.1f}" for column in ordered))
    console.print(table)
    firsts = {
        size: sorted(row["batch_first_run_ms"][size] for row in rows)[len(rows) // 2]
        for size in rows[0]["batch_first_run_ms"]
    }
    if firsts:
        listed = ", ".join(f"{size}: {ms:.2f} ms" for size, ms in firsts.items())
        console.print(f"first run at a new batch size: {listed}")
    peaks = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"]]
    if peaks:
        console.print(f"peak memory of a fresh process {max(peaks) / 2**20:.0f} MiB")


def _latencies(latencies: tuple[Latency, ...], document: dict[str, Any], console: Console) -> None:
    """Print a column for each batch size, so that it fits a terminal of 80."""
    table = Table("batch", *(str(latency.batch_size) for latency in latencies), box=SIMPLE,
                  title="Latency in ms, one caller, runs back to back")  # fmt: skip
    columns = []
    for latency, row in zip(latencies, document["latency"], strict=True):
        p50, *others = latency.percentiles_ms()
        share = row["share_of_bound"]
        columns.append(
            [
                f"{len(latency.samples_ns):,}",
                _percentile(p50),
                "" if p50.value is None else f"{p50.low:.3f}–{p50.high:.3f}",
                *(_percentile(found) for found in others),
                f"{latency.images_per_s:,.0f}",
                "–" if share is None else f"{share:.0%}",
                latency.verdict.status,
            ]
        )
    names = [f"p{100 * found.p:g}" for found in latencies[0].percentiles_ms()]
    rows = ("runs", names[0], "95 %", *names[1:], "images/s", "of bound", "verdict")
    for name, *cells in zip(rows, *columns, strict=True):
        table.add_row(name, *cells)
    console.print(table)
    for row in document["latency"]:
        if "split" in row:
            parts = ", ".join(f"{name.removesuffix('_ms').replace('_', ' ')} {ms:.4f} ms"
                              for name, ms in row["split"].items())  # fmt: skip
            console.print(f"batch {row['batch_size']} through bound buffers: {parts}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _percentile(found: Percentile) -> str:
    return f"n/a (needs {found.floor:,})" if found.value is None else f"{found.value:.3f}"


def _throughput(document: dict[str, Any], console: Console) -> None:
    for title, rows in (
        ("Throughput, images/s", document.get("throughput")),
        ("Tuning, images/s", (document.get("tuning") or {}).get("searched")),
    ):
        if not rows:
            continue
        table = Table("batch", "threads", "callers", "median", "lowest–highest", title=title)
        for row in rows:
            rounds = row["rounds_images_per_s"]
            table.add_row(str(row["batch_size"]), str(row["threads"]), str(row["n_callers"]),
                          f"{row['images_per_s']:,.0f}",
                          f"{min(rounds):,.0f}–{max(rounds):,.0f}")  # fmt: skip
        console.print(table)
    tuned = document.get("tuning")
    if tuned:
        console.print(
            f"kept for this machine: {_count(tuned['threads'], 'thread')} for one image at a time; "
            f"for most images a second {_count(tuned['n_callers'], 'caller')}, sessions of "
            f"{_count(tuned['throughput_threads'], 'thread')}, batches of {tuned['batch_size']}"
        )


def _paced(document: dict[str, Any], console: Console) -> None:
    paced = document.get("paced")
    if not paced:
        return
    pace = f"{paced['pace_hz']:g} a second" if paced["pace_hz"] else "back to back"
    table = Table("minute", "runs", "p50", "p90", "MHz", "°C", title=f"One image a run, {pace}, ms")
    for row in paced["minutes"]:
        values = (row["p50_ms"], row["p90_ms"])
        cells = ["n/a" if value is None else f"{value:.3f}" for value in values]
        sensors = (row["clock_mhz"], row["temperature_c"])
        cells += ["unreadable" if value is None else f"{value:.0f}" for value in sensors]
        table.add_row(str(row["minute"] + 1), f"{row['n_runs']:,}", *cells)
    console.print(table)
    if paced["pace_hz"]:
        console.print(f"{paced['n_late']} runs began late, {paced['n_dropped']} frames dropped")
        if paced["penalty"]:
            console.print(f"p50 at this pace is {paced['penalty']:.2f} times that back to back")


def _verdict(result: bench_stage.BenchResult, console: Console) -> None:
    console.print(f"verdict: {result.verdict.status}")
    for reason in result.document["verdict"]["reasons"]:
        size = reason.get("batch_size")
        console.print(f"  {f'batch {size}: ' if size else ''}{reason['name']}: {reason['text']}")


def _integers(contract: dict[str, Any]) -> str:
    quantization = contract.get("quantization")
    if not quantization:
        return ""
    notes = {
        "portable": "standard QDQ, for any runtime",
        "ort-cpu": "for onnxruntime's CPU provider only",
    }
    layout = quantization["layout"]
    return f", int8 of {quantization['weight_bits']} bits, layout {layout}: {notes[layout]}"


def _joined(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
