"""Print the README's table from the stored results: `python benchmarks/readme_table.py`.

A test compares it with what stands in the README, so neither can change alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REFERENCE_DIR = Path(__file__).resolve().parent / "results" / "reference"
COLUMNS = ("machine, provider, threads", "batch", "p50 ms", "p99 ms", "images/s", "accuracy")


def table() -> str:
    """Return the Markdown table of every stored result, one row a batch size."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    for path in sorted(REFERENCE_DIR.glob("*.json")):
        lines += [" | ".join(row) for row in _rows(json.loads(path.read_text()))]
    return "\n".join(f"| {line} |" for line in lines)


def _rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    provider, score = result["provider"], result["accuracy"]
    place = f"{result['machine']['cpu']}, {provider['obtained']}, {provider['threads']}"
    low, high = (100 * score["interval"][end] for end in ("low", "high"))
    accuracy = f"{100 * score['accuracy']:.2f} % ({low:.2f}–{high:.2f})"
    return [
        (
            place,
            str(row["batch_size"]),
            _percentile(row, 0.5),
            _percentile(row, 0.99),
            f"{row['images_per_s']:,.0f}",
            accuracy,
        )
        for row in result["latency"]
    ]


def _percentile(row: dict[str, Any], p: float) -> str:
    found = next(entry for entry in row["percentiles_ms"] if entry["p"] == p)
    if found["value"] is None:
        return f"n/a (needs {found['floor']:,})"
    return f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


if __name__ == "__main__":
    print(table())
