"""The options of `export` and `verify`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

from ..data.options import SOURCES, DataOptions
from ..runtime.options import (
    UnprovedOptions,
    ceiling,
    classes,
    model,
    option,
    preprocessing,
    provider,
)
from ..sealing.default_model import CHECKPOINT, EXPORTED_DIR

SOURCE_CHANGED = (
    "the file that defines the network has changed since the training: what is proved is what it "
    "computes now"
)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(DataOptions):
    """Whose Python the network of a checkpoint is made by, and how long it may run in float64."""

    arch: str | Callable[..., Any] | None = option(
        None,
        "Where the network's Python is now. It is run; that of a module only if named here.",
        metavar="WHERE:WHAT",
        default_text="what the checkpoint says",
        takes_callable=True,
    )
    allow_changed_source: bool = option(
        False, "Go on although the file that defines the network has changed."
    )
    reference_s: float = option(
        60.0, "Seconds for the float64 reference; past them, of a sample of images.", above=0
    )


@dataclass(frozen=True)
class ExportOptions(NetworkOptions):
    """What to export."""

    checkpoint: Path = option(CHECKPOINT, "What `train` wrote.", positional=True)
    input: Literal["float32", "uint8"] = option(
        "float32", "float32: pixels in [0, 1]; uint8: grey values, as stored."
    )
    ceiling: float = ceiling()
    out: Path | None = option(
        None, "Model file.", suffixes=(".onnx",), default_text="exported/NAME.onnx"
    )

    @property
    def out_path(self) -> Path:
        """The model file to write."""
        return self.out or EXPORTED_DIR / f"{self.checkpoint.stem}.onnx"


@dataclass(frozen=True)
class VerifyOptions(NetworkOptions):
    """What to verify, and where."""

    model: Path | None = model(positional=True)
    provider: str = provider()
    ceiling: float = ceiling()
    against: Path | None = option(None, "A checkpoint or another model: compare all test images.")
    skew: bool = option(False, "Also: what the usual mistakes of preparing pictures would cost.")
    out: Path | None = option(
        None, "Report file.", suffixes=(".json",), default_text="NAME.verify.json beside it"
    )


@dataclass(frozen=True)
class AdoptOptions(DataOptions, UnprovedOptions):
    """Which .onnx from elsewhere to seal, and what its maker knows of it."""

    model: Path = option(None, "The .onnx file, which stays as it is.", positional=True)
    _: KW_ONLY
    data: str = option(None, f"Pictures with their classes: {SOURCES}", metavar="SOURCE")
    classes: Path = classes(default_text=None)
    preprocessing: Path = preprocessing(default_text=None)
    ceiling: float = ceiling()
    out: Path | None = option(
        None, "Model file.", suffixes=(".onnx",), default_text="exported/NAME.onnx"
    )

    @property
    def out_path(self) -> Path:
        """The model file to write."""
        return self.out or EXPORTED_DIR / f"{self.model.stem}.onnx"
