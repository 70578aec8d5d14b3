"""The options of `compare` and `report`."""

from dataclasses import dataclass
from pathlib import Path

from ..data.options import DataOptions
from ..runtime.options import SHARE, Options, UnprovedOptions, ceiling, option, provider, threads


@dataclass(frozen=True)
class CompareOptions(DataOptions, UnprovedOptions):
    """Two model files to measure here in turn, and what NEW must hold against BASE."""

    base: Path = option(None, "A model file.", positional=True)
    new: Path = option(None, "Another.", positional=True)
    max_slowdown: float = option(
        0.05,
        "How much longer NEW's median may be than BASE's, as in 10%; 10 alone is refused.",
        low=0,
        high=5,
        metavar="SHARE",
        units=SHARE,
        default_text="5%",
    )
    min_accuracy: float | None = option(
        None,
        "That NEW's must reach, measured: 92%.",
        low=0,
        high=1,
        metavar="SHARE",
        units=SHARE,
    )
    max_drop: float | None = option(
        None,
        "Points of accuracy that NEW may lose against BASE on the same pictures (95 % bound).",
        above=0,
        high=100,
    )
    max_p99_ms: float | None = option(None, "That NEW may take, in milliseconds.", low=0, high=1e9)
    provider: str = provider()
    threads: int | None = threads()
    ceiling: float = ceiling()
    batch_size: int = option(1, "Images a run.", low=1, high=4096)
    n_pairs: int = option(
        11, "Fresh processes of each model, in turn.", low=6, high=1000, flag="--pairs"
    )


@dataclass(frozen=True)
class ReportOptions(Options):
    """What to report; Markdown and pictures take the page's name."""

    results: tuple[Path, ...] = option(
        (),
        "What `bench` wrote, on any machine.",
        positional=True,
        metavar="RESULT|DIR",
        default_text="benchmarks/results",
    )
    out: Path = option(
        Path("runs/report.html"), "The page; table and pictures go beside it.", suffixes=(".html",)
    )
