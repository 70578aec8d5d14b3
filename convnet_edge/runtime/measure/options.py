"""The options of `bench`, on the host and in a bundle."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import (
    ADVANCED,
    RATE,
    TIME,
    Options,
    ceiling,
    models,
    option,
    provider,
    require,
    threads,
)

if TYPE_CHECKING:
    from ..session import Settings

DEVICE_BATCH_SIZES = (1, 8)  # unless asked for others
RESULTS_DIR = Path("benchmarks/results")
SECONDS: dict[str, Any] = {"above": 0, "metavar": "TIME", "units": TIME}


@dataclass(frozen=True)
class BenchOptions(Options):
    """What to measure, of which models; the first is what the others are compared with."""

    models: tuple[Path, ...] = models()
    provider: str = provider()
    threads: int | None = threads()
    batch_sizes: tuple[int, ...] = option(
        (1, 8, 64, 256), "Images a run, comma-separated.", low=1, high=4096
    )
    duration_s: float = option(
        4.0, "Timed seconds for each batch size, at least.", high=3600, flag="--duration", **SECONDS
    )
    min_runs: int = option(
        130, "Timed runs for each batch size, at least.", low=11, high=1_000_000_000, panel=ADVANCED
    )
    quick: bool = option(
        False, "Under 10 s: batches of 1 and 64 whatever else is said, no throughput."
    )
    strict: bool = option(False, "Exit 1 if the verdict is NOISY, too.")
    allow_cpu_nodes: bool = option(
        False, "Let the CPU run what the provider does not take.", panel=ADVANCED
    )
    spin: bool = option(True, "Let idle threads wait busily for work.", panel=ADVANCED)
    ceiling: float = ceiling()
    io_binding: bool = option(
        False, "Run through buffers on the device; times copies apart.", panel=ADVANCED
    )
    cuda_graph: bool = option(
        False, "Replay one captured launch (with --io-binding).", panel=ADVANCED
    )
    pace_hz: float | None = option(
        None,
        "Also run as a camera would, as in 10hz (30 s).",
        above=0,
        high=10_000,
        flag="--pace",
        metavar="RATE",
        units=RATE,
    )
    sustain_s: float | None = option(
        None,
        "For how long, as in 10m; alone: back to back.",
        high=7 * 86400,
        flag="--sustain",
        **SECONDS,
    )
    profile: bool = option(False, "Show the time of each node.", panel=ADVANCED)
    out: Path | None = option(
        None,
        "Result file (.json), or a folder.",
        default_text="benchmarks/results/NAME-PROVIDER[-THREADSt].json",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.out is None or self.out.suffix != ".json" or len(self.models) < 2,
            f"one file, {self.out}, for {len(self.models)} models",
            "a folder: each result takes its model's name",
            "--out",
        )
        paths = dict.fromkeys(self.models)
        kept = [self.result_path(path) for path in paths]
        require(
            len({*kept}) == len(kept),
            f"results of {', '.join(map(str, paths))} would take the same name",
            "files of different names",
            "copies of them",
            verb="name",
        )
        require(
            self.out is None or self.out.suffix in ("", ".json") or self.out.is_dir(),
            f"--out {self.out}",
            "a folder, or a name that ends in .json",
            "--out",
        )
        require(
            not self.cuda_graph or self.provider == "cuda",
            f"--cuda-graph with --provider {self.provider}",
            "--provider cuda: it is a mode of NVIDIA's GPUs",
            "--cuda-graph",
        )

    @property
    def session_settings(self) -> "Settings":
        """How the sessions of the models run."""
        from ..session import Settings

        names = ("provider", "threads", "allow_cpu_nodes", "spin", "ceiling")
        return Settings(**{name: getattr(self, name) for name in names})

    def result_path(self, model_path: Path) -> Path:
        """Return where the result of one model goes."""
        if self.out is not None and self.out.suffix == ".json":
            return self.out
        return (self.out or RESULTS_DIR) / f"{self.run_name(model_path)}.json"

    def run_name(self, model_path: Path) -> str:
        """Return `NAME-PROVIDER`, and behind it the threads that were asked for, as in `-1t`."""
        asked = "" if self.threads is None else f"-{self.threads}t"
        return f"{model_path.stem}-{self.provider}{asked}"
