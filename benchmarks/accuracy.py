"""Train a recipe with several seeds: `python benchmarks/accuracy.py fast --seeds 0 1 2 3 4`.

Each seed is one `convnet-edge train` in a process of its own, on all training images, scored once
on the test images. Writes results/reference/accuracy-RECIPE.json; with
`--processes N`, of N processes that share each batch, accuracy-RECIPE-N-processes.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from convnet_edge.runtime.files import write_json
from convnet_edge.training.recipes import RECIPES

REFERENCE_DIR = Path(__file__).resolve().parent / "results" / "reference"


def main() -> None:
    """Train, print mean and standard deviation, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1, help="on this machine, by torchrun")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/accuracy"))
    options, passed_on = parser.parse_known_args()
    rows = []
    for seed in options.seeds:
        out = options.runs_dir / f"{options.recipe}-{seed}.safetensors"
        command = [*_launcher(options.processes), "train", "--recipe", options.recipe,
                   "--seed", str(seed), "--out", str(out), "--resume", *passed_on]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        record = json.loads(out.with_suffix(".train.json").read_text())
        rows.append(
            {
                "seed": seed,
                "accuracy": record["test"]["accuracy"],
                "n_correct": record["test"]["n_correct"],
                "epochs_s": record["time_s"]["epochs"],
            }
        )
        print(f"seed {seed}: {rows[-1]['accuracy']:.2%} in {rows[-1]['epochs_s']:.1f} s")
    shares = [row["accuracy"] for row in rows]
    several = f"-{options.processes}-processes" if options.processes > 1 else ""
    spread = statistics.stdev(shares) if len(shares) > 1 else None
    print(f"mean {statistics.mean(shares):.2%}" + (f" ± {spread:.2%}" if spread else ""))
    write_json(
        REFERENCE_DIR / f"accuracy-{options.recipe}{several}.json",
        {
            "schema": "convnet-edge/accuracy-benchmark/1",
            "command": f"python benchmarks/accuracy.py {options.recipe} --seeds "
            + " ".join(map(str, options.seeds))
            + (f" --processes {options.processes}" if several else ""),
            "training": {k: v for k, v in record["training"].items() if k != "seed"},
            "mean_accuracy": statistics.mean(shares),
            "stdev_accuracy": spread,
            "median_epochs_s": statistics.median(row["epochs_s"] for row in rows),
            "rows": rows,
            "device": record["device"],
            "machine": record["machine"],
            "versions": record["versions"],
        },
    )


def _launcher(n_processes: int) -> list[str]:
    """Return the command that starts the program, in several processes if asked."""
    if n_processes == 1:
        return [sys.executable, "-m", "convnet_edge"]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes),
            "-m", "convnet_edge"]  # fmt: skip


if __name__ == "__main__":
    main()
