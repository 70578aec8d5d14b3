"""Print the README's numbers from the stored results: `python benchmarks/readme_table.py`.

A test compares them with what stands in the README, so neither can change alone.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnet_edge.reporting.read import read_results
from convnet_edge.reporting.report import measurements

REFERENCE_DIR = Path(__file__).resolve().parent / "results" / "reference"
SHOWN_BATCH_SIZES = ("1", "64")
TRAINING_COLUMNS = ("a step of 64 images", "ms", "times the tutorial's loop", "of the bound")
PEERS_COLUMNS = ("runtime and file", "input", "kB", "accuracy", "1 image, ms", "times as fast",
                 "64 each, images/s", "times as many", "cold start, s", "memory, MB")  # fmt: skip
RECIPE_COLUMNS = ("recipe", "epochs", "seconds (median)", "test accuracy, mean ± s.d.", "seeds")


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
    """Return the Markdown table of the comparison of runtimes."""
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append((row["name"], f"failed: {row['failed']}", *("",) * 8))
            continue
        lines.append(
            (
                row["name"],
                row["input"],
                f"{row['model_bytes'] / 1e3:.0f}",
                f"{100 * row['accuracy']:.2f} %",
                f"{statistics.median(row['latency_ms']):.3f}",
                _ratio(row["latency_ratio"]),
                f"{statistics.median(row['images_per_s']):,.0f}",
                _ratio(row["throughput_ratio"]),
                f"{statistics.median(row['cold_start_s']):.2f}",
                f"{row['peak_memory_bytes'] / 1e6:.0f}",
            )
        )
    return _markdown(PEERS_COLUMNS, lines)


def _stored(kind: str) -> list[dict[str, Any]]:
    results = [json.loads(path.read_text()) for path in sorted(REFERENCE_DIR.glob("*.json"))]
    return [r for r in results if r["schema"].split("/")[1].removesuffix("-benchmark") == kind]


def _markdown(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['lowest']:.2f}–{spread['highest']:.2f})"


if __name__ == "__main__":
    (peers,) = _stored("peers")
    print(
        table(), training_table(), recipe_table(), kills(), peers_table(peers["rows"]), sep="\n\n"
    )
