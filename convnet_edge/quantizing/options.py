"""The options of `quantize`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..data.options import DataOptions
from ..runtime.options import UnprovedOptions, ceiling, model, option
from ..sealing.default_model import CHECKPOINT, EXPORTED_DIR, shipped_model

Layout = Literal["portable", "ort-cpu"]
LAYOUT_SUFFIXES: dict[Layout, str] = {"portable": ".int8.onnx", "ort-cpu": ".int8-ort.onnx"}
RANGES_PART = 6  # of few training images, the part that gives ranges


@dataclass(frozen=True)
class QuantizeOptions(DataOptions, UnprovedOptions):
    """How to make integers of a float model."""

    model: Path | None = model(positional=True)
    layout: Layout = option(
        "portable",
        "portable: any runtime and network. ort-cpu: the tutorial's network in onnxruntime's CPU "
        "provider, faster.",
    )
    max_drop: float = option(
        0.5, "Points of accuracy that may be lost at most (95 % bound).", above=0, high=100
    )
    all_rungs: bool = option(False, "Try every way of making integers, for the table.")
    ceiling: float = ceiling()
    out: Path | None = option(
        None,
        "Model file.",
        suffixes=(".onnx",),
        default_text="NAME.int8.onnx or NAME.int8-ort.onnx beside the model; for the shipped one "
        "exported/convnet.int8.onnx",
    )

    @property
    def n_judges(self) -> int:
        """How many images judge at least: each half of fewer could not hold the gate."""
        from ..runtime.measure import stats

        return 2 * stats.fewest_for_drop(self.max_drop / 100)

    @property
    def n_training_images(self) -> int:
        """How many training images are enough, where no others judge: some give ranges."""
        return -(-self.n_judges * RANGES_PART // (RANGES_PART - 1))

    def out_path(self, source_path: Path) -> Path:
        """Return the model file to write for the float model at `source_path`."""
        is_shipped = source_path.name == shipped_model().name  # its integers lie beside it
        beside = EXPORTED_DIR / CHECKPOINT.name if is_shipped else source_path
        return self.out or beside.with_name(f"{beside.stem}{LAYOUT_SUFFIXES[self.layout]}")
