"""The settings of each stage: the one place where a default stands.

Frozen values without behaviour but for their own checks; no framework is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .runtime.errors import InputError

DEFAULT_NAME = "convnet"
SHIPPED_NAME = "fashion-mnist"
CHECKPOINTS_DIR = Path("checkpoints")
EXPORTED_DIR = Path("exported")
RESULTS_DIR = Path("benchmarks/results")
QUICKSTART_DIR = Path("runs/quickstart")

DataSet = Literal["fashion-mnist", "sample"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Provider = Literal["cpu", "cuda"]


def _require(holds: bool, found: str, expected: str, option: str) -> None:
    if not holds:
        raise InputError(found, expected=expected, next_step=f"change {option}")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the seed recipe (Adam, cross-entropy, pixels in [0, 1]).

    data: training images, the test images are always the embedded ones.
    data_dir: folder that is searched first and downloaded into.
    epochs: passes over the training images, >= 1.
    learning_rate: Adam's, > 0.
    batch_size: images a step, >= 1.
    kernel_size: of both convolutions, in pixels, >= 1.
    seed: of initial weights and permutations, >= 0; repeats a CPU run bit for bit.
    device: auto takes cuda, else mps, else cpu.
    resume: go on from the unfinished run's last complete epoch.
    out: the checkpoint; its siblings take its name.
    """

    data: DataSet = "fashion-mnist"
    data_dir: Path = Path("data")
    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 64
    kernel_size: int = 3
    seed: int = 0
    device: Device = "auto"
    resume: bool = False
    out: Path = CHECKPOINTS_DIR / f"{DEFAULT_NAME}.safetensors"

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            InputError: a value is outside its range.
        """
        for option, value, kind in (
            ("--data", self.data, DataSet),
            ("--device", self.device, Device),
        ):
            choices = get_args(kind)
            _require(value in choices, f"{option} {value}", " or ".join(choices), option)
        for name, low in (("epochs", 1), ("batch_size", 1), ("kernel_size", 1), ("seed", 0)):
            value = getattr(self, name)
            option = "--" + name.replace("_", "-")
            _require(value >= low, f"{option} {value}", f"{low} or more", option)
        _require(
            0 < self.learning_rate < float("inf"),
            f"--learning-rate {self.learning_rate}",
            "a positive number",
            "--learning-rate",
        )
        _require(
            self.out.suffix == ".safetensors",
            f"--out {self.out}",
            "a name that ends in .safetensors",
            "--out",
        )


@dataclass(frozen=True)
class ExportConfig:
    """What to export. out: the model file, None for exported/NAME.onnx of the checkpoint's NAME."""

    checkpoint: Path = CHECKPOINTS_DIR / f"{DEFAULT_NAME}.safetensors"
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            InputError: `out` does not end in .onnx.
        """
        _require(
            self.out is None or self.out.suffix == ".onnx",
            f"--out {self.out}",
            "a name that ends in .onnx",
            "--out",
        )

    @property
    def out_path(self) -> Path:
        """The model file to write."""
        return self.out or EXPORTED_DIR / f"{self.checkpoint.stem}.onnx"


@dataclass(frozen=True)
class VerifyConfig:
    """What to verify. against: a checkpoint for full parity. out: report, None for its default."""

    model: Path | None = None
    provider: Provider = "cpu"
    against: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class BenchConfig:
    """What to measure.

    threads: intra-op threads, None for all usable cores. batch_sizes: images a run, each >= 1.
    duration_s: timed seconds for each batch size, > 0. out: the result, None for its default.
    """

    model: Path | None = None
    provider: Provider = "cpu"
    threads: int | None = None
    batch_sizes: tuple[int, ...] = (1, 8, 64, 256)
    duration_s: float = 5.0
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            InputError: a value is outside its range.
        """
        sizes = ", ".join(map(str, self.batch_sizes)) or "none"
        _require(
            bool(self.batch_sizes) and all(1 <= size <= 4096 for size in self.batch_sizes),
            f"batch sizes {sizes}",
            "numbers from 1 to 4096, as in 1,8,64",
            "--batch-sizes",
        )
        _require(
            0 < self.duration_s <= 3600,
            f"--duration {self.duration_s:g}",
            "seconds, above 0 and at most 3600",
            "--duration",
        )


@dataclass(frozen=True)
class PredictConfig:
    """How to predict. invert: overrule the look at the border; None lets it decide."""

    model: Path | None = None
    provider: Provider = "cpu"
    invert: bool | None = None


@dataclass(frozen=True)
class GridConfig:
    """The seed's 5 x 3 grid of test images. seed: which images. out: the picture."""

    model: Path | None = None
    provider: Provider = "cpu"
    seed: int = 0
    out: Path = Path("runs/predictions.png")
