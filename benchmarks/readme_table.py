"""Print the README's numbers from the stored results: `python benchmarks/readme_table.py`.

A test compares them with what stands in the README, so neither can change alone.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from convnet_edge.reporting.read import read_results
from convnet_edge.reporting.report import measurements

REFERENCE_DIR = Path(__file__).resolve().parent / "results" / "reference"
SHOWN_BATCH_SIZES = ("1", "64")
TRAINING_COLUMNS = ("a step of 64 images", "ms", "times the tutorial's loop", "of the bound")
RECIPE_COLUMNS = ("recipe", "epochs", "seconds (median)", "test accuracy, mean ± s.d.", "seeds")


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['lowest']:.2f}–{spread['highest']:.2f})"


def _median(form: str) -> Callable[[list[float]], str]:
    return lambda values: format(statistics.median(values), form)


# of a row: what it is called there, and how it is shown
PEERS_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "input": ("input", str),
    "kB": ("model_bytes", lambda n: f"{n / 1e3:.0f}"),
    "accuracy": ("accuracy", lambda share: f"{100 * share:.2f} %"),
    "our int8 behind by, at most": (
        "convnet_edge_int8",
        lambda pair: f"{100 * pair['drop_upper_bound_95']:.2f} points",
    ),
    "1 image, ms": ("latency_ms", _median(".3f")),
    "times as fast": ("latency_ratio", _ratio),
    "64 each, images/s": ("images_per_s", _median(",.0f")),
    "times as many": ("throughput_ratio", _ratio),
    "a CPU second": ("throughput_cpu_ratio", _ratio),
    "cold start, s": ("cold_start_s", _median(".2f")),
    "memory, MB": ("peak_memory_bytes", lambda n: f"{n / 1e6:.0f}"),
}


def table() -> str:
    """Return the Markdown table of every stored bench result: the report's, without numbers."""
    found = measurements(read_results((REFERENCE_DIR,)))
    place = found.columns.index("batch")
    rows = [row[1:] for row in found.rows if row[place] in SHOWN_BATCH_SIZES]
    return _markdown(found.columns[1:], rows)


def training_table() -> str:
    """Return the Markdown table of the training benchmark on the CPU."""
    result = json.loads((REFERENCE_DIR / "training-cpu.json").read_text())
    rows = [
        (
            row["variant"],
            f"{row['median_step_ms']:.1f}",
            f"{row['ratio']:.2f} ({row['ratio_lowest']:.2f}–{row['ratio_highest']:.2f})",
            f"{row['share_of_bound']:.0%}",
        )
        for row in result["rows"]
    ]
    return _markdown(TRAINING_COLUMNS, rows)


def recipe_table() -> str:
    """Return the Markdown table of the recipes' accuracies."""
    rows = []
    for result in sorted(_stored("accuracy"), key=lambda result: result["mean_accuracy"]):
        training, seeds = result["training"], [row["seed"] for row in result["rows"]]
        spread = result["stdev_accuracy"]
        accuracy = f"{100 * result['mean_accuracy']:.2f}"
        accuracy += f" ± {100 * spread:.2f} %" if spread is not None else " %"
        seconds = f"{result['median_epochs_s']:.0f}"
        n_processes = result["device"]["n_processes"]
        name = training["recipe"] + (f", {n_processes} processes" if n_processes > 1 else "")
        rows.append((name, str(training["epochs"]), seconds, accuracy, str(len(seeds))))
    return _markdown(RECIPE_COLUMNS, rows)


def kills() -> str:
    """Return the sentence on the runs that were killed at random moments."""
    result = json.loads((REFERENCE_DIR / "training-kills.json").read_text())
    return (
        f"{result['n_kills']} kills at random moments in {result['n_runs']} runs, "
        f"{result['n_kills_with_an_epoch_kept']} of them after a complete epoch: "
        f"{result['n_different']} runs ended with other weights"
    )


def peers_table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the comparison of runtimes; of what was measured."""
    columns = {title: (key, show) for title, (key, show) in PEERS_COLUMNS.items()
               if any(key in row for row in rows)}  # fmt: skip
    lines = []
    for row in rows:
        cells = [show(row[key]) if key in row else "" for key, show in columns.values()]
        if "failed" in row:
            cells[0] = f"failed: {row['failed']}"
        lines.append((row["name"], *cells))
    return _markdown(("runtime and file", *columns), lines)


def _stored(kind: str) -> list[dict[str, Any]]:
    results = [json.loads(path.read_text()) for path in sorted(REFERENCE_DIR.glob("*.json"))]
    return [r for r in results if r["schema"].split("/")[1].removesuffix("-benchmark") == kind]


def _markdown(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    peers = [peers_table(result["rows"]) for result in _stored("peers")]
    print(table(), training_table(), recipe_table(), kills(), *peers, sep="\n\n")
