"""The options of `predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..data.options import DataOptions
from ..runtime.options import UnprovedOptions, ceiling, model, option, provider, seed


@dataclass(frozen=True)
class PredictOptions(DataOptions, UnprovedOptions):
    """What to label; without pictures, the tutorial's grid of test images is drawn."""

    images: tuple[Path, ...] = option(
        (), "Pictures, and folders of them.", positional=True, metavar="IMAGE|DIR"
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
    format: Literal["text", "csv", "jsonl"] = option("text", "Of the answers on stdout.")

    @property
    def writes(self) -> bool:
        """Whether the grid is drawn."""
        return self.plot or not self.images
