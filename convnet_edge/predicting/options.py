"""The options of `predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..data.options import DataOptions
from ..runtime.options import UnprovedOptions, ceiling, model, option, provider, require, seed

MANY = "Many pictures"
TOP = 3
FILES = (".csv", ".parquet", ".jsonl", ".json")  # that hold answers elsewhere
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip


@dataclass(frozen=True)
class PredictOptions(DataOptions, UnprovedOptions):
    """What to label; without pictures, the tutorial's grid of test images is drawn."""

    images: tuple[Path, ...] = option(
        (),
        "Pictures, folders of them, lists (.txt, a path a line), tables (.csv, .parquet with a "
        "column path), tar files.",
        positional=True,
        metavar="SOURCE",
    )
    model: Path | None = model()
    provider: str = provider()
    ceiling: float = ceiling()
    plot: bool = option(False, "Draw the 5 × 3 grid of test images.")
    seed: int = seed("Which test images the grid shows.")
    plot_out: Path = option(Path("runs/predictions.png"), "The grid's picture.", suffixes=(".png",))
    invert: bool | None = option(
        None, "Dark on light, or light on dark?", default_text="the border decides"
    )
    format: Literal["text", "csv", "jsonl"] = option(
        "text", "Of the answers on stdout; csv: of the parts in --out, too."
    )
    top: int | None = option(
        None,
        "So many of the likeliest classes with each answer.",
        low=1,
        high=len(ORDINALS),
        default_text="3; with --out the likeliest alone",
    )
    out: Path | None = option(
        None,
        "Write the answers there, in parts: Parquet, or CSV without pyarrow. A second start goes "
        "on where the first ended.",
        metavar="DIR",
        panel=MANY,
    )
    engine: Literal["local", "ray"] = option(
        "local",
        "local: this machine's cores. ray: a Ray cluster, of RAY_ADDRESS or `ray start`; every "
        "node has to reach the pictures.",
        panel=MANY,
    )
    workers: int | None = option(
        None, "Processes.", low=1, high=1024, panel=MANY, default_text="one a core"
    )
    digest: bool = option(False, "Add each file's SHA-256.", panel=MANY)
    retry_errors: bool = option(False, "Try again what could not be read.", panel=MANY)
    strict: bool = option(False, "Exit with 1 if any picture could not be read.", panel=MANY)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("engine", "workers", "digest", "retry_errors", "strict"):
            given = getattr(self, name) not in (None, False, "local")
            found = f"--{name.replace('_', '-')} without --out"
            require(self.out is not None or not given, found, "both", "--out", verb="add")
        is_file = self.out is not None and self.out.suffix in FILES and not self.out.is_dir()
        found = f"--out {self.out}: one file for all answers"
        require(not is_file, found, "a folder, of parts in --format", "--out")
        together = self.out is not None and not self.images
        require(not together, "--out without pictures", "SOURCE to name some", "SOURCE", verb="add")

    @property
    def n_top(self) -> int:
        """How many classes are named with each answer; 0 for the likeliest alone."""
        return self.top or (TOP if self.out is None else 0)

    @property
    def writes(self) -> bool:
        """Whether the grid is drawn."""
        return self.plot or not self.images
