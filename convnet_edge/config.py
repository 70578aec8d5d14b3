"""The settings of each stage: the one place where a default stands.

Frozen values without behaviour but for their own checks; no framework is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
RecipeName = Literal["seed", "fast", "best"]
Amp = Literal["off", "bf16"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Provider = Literal["cpu", "cuda"]
InputType = Literal["float32", "uint8"]
Exporter = Literal["dynamo", "torchscript"]
Layout = Literal["portable", "ort-cpu"]


def _require(holds: bool, found: str, expected: str, option: str) -> None:
    if not holds:
        raise InputError(found, expected=expected, next_step=f"change {option}")


@dataclass(frozen=True)
class Recipe:
    """What decides the trained weights, beside data, network and seed.

    epochs: passes over the training images. batch_size: images a step.
    share: of the training images that an epoch passes over, drawn anew for each; 1: all of them.
    learning_rate: Adam's. muon_learning_rate: Muon's, on conv2 and the first linear layer; 0: Adam.
    weight_decay: decoupled (AdamW), as a share of the learning rate.
    decay: learning rates fall linearly to 0; else they stay.
    normalize: train on (pixel - mean) / deviation of the training images, folded into conv1 after.
    flip_and_shift: each image mirrored at random, and moved by -1, 0 or 1 pixel along both axes.
    dropout: share of the hidden features that a step leaves out.
    label_smoothing: share of each target that is spread over all classes.
    average: weights kept are an average in which a step's weigh 1 - average; 0: the last ones.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    share: float = 1.0
    muon_learning_rate: float = 0.0
    weight_decay: float = 0.0
    decay: bool = False
    normalize: bool = False
    flip_and_shift: bool = False
    dropout: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.0


RECIPES: dict[RecipeName, Recipe] = {
    "seed": Recipe(epochs=10, batch_size=64, learning_rate=1e-3),
    "fast": Recipe(
        epochs=2,
        batch_size=128,
        learning_rate=4e-3,
        share=0.75,
        muon_learning_rate=0.04,
        decay=True,
        normalize=True,
    ),
    "best": Recipe(
        epochs=30,
        batch_size=128,
        learning_rate=3e-3,
        muon_learning_rate=0.02,
        weight_decay=0.01,
        decay=True,
        normalize=True,
        flip_and_shift=True,
        dropout=0.3,
        label_smoothing=0.1,
        average=0.998,
    ),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the seed recipe (Adam, cross-entropy, pixels in [0, 1]).

    data: training images, the test images are always the embedded ones.
    data_dir: folder that is searched first and downloaded into.
    recipe: where epochs, learning rate and batch size come from unless given.
    epochs: passes over the training images, >= 1; None for the recipe's.
    learning_rate: Adam's, > 0; None for the recipe's.
    batch_size: images a step, over all processes, >= 1; None for the recipe's.
    kernel_size: of both convolutions, in pixels, >= 1.
    width: of every layer, in the seed's; above 0, at most 4.
    validate: training images held out of training and scored after each epoch, >= 0.
    seed: of initial weights and permutations, >= 0; repeats a CPU run bit for bit.
    device: auto takes cuda, else mps, else cpu.
    amp: bf16 computes convolutions and linear layers in bfloat16.
    tf32: let CUDA compute products in TF32 (10 bits of mantissa).
    resume: go on from the unfinished run's last complete epoch.
    out: the checkpoint; its siblings take its name.
    """

    data: DataSet = "fashion-mnist"
    data_dir: Path = Path("data")
    recipe: RecipeName = "seed"
    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    kernel_size: int = 3
    width: float = 1.0
    validate: int = 0
    seed: int = 0
    device: Device = "auto"
    amp: Amp = "off"
    tf32: bool = False
    resume: bool = False
    out: Path = CHECKPOINTS_DIR / f"{DEFAULT_NAME}.safetensors"

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            InputError: a value is outside its range.
        """
        for option, value, kind in (
            ("--data", self.data, DataSet),
            ("--recipe", self.recipe, RecipeName),
            ("--device", self.device, Device),
            ("--amp", self.amp, Amp),
        ):
            choices = get_args(kind)
            _require(value in choices, f"{option} {value}", " or ".join(choices), option)
        lowest = {"epochs": 1, "batch_size": 1, "kernel_size": 1, "seed": 0, "validate": 0}
        for name, low in lowest.items():
            value = getattr(self, name)
            option = "--" + name.replace("_", "-")
            _require(value is None or value >= low, f"{option} {value}", f"{low} or more", option)
        rate = self.learning_rate
        _require(
            rate is None or 0 < rate < float("inf"),
            f"--learning-rate {rate}",
            "a positive number",
            "--learning-rate",
        )
        _require(0 < self.width <= 4, f"--width {self.width}", "above 0, at most 4", "--width")
        _require(
            self.out.suffix == ".safetensors",
            f"--out {self.out}",
            "a name that ends in .safetensors",
            "--out",
        )

    @property
    def plan(self) -> Recipe:
        """The recipe with what was given in its place."""
        given = {
            name: value
            for name in ("epochs", "learning_rate", "batch_size")
            if (value := getattr(self, name)) is not None
        }
        return replace(RECIPES[self.recipe], **given)


@dataclass(frozen=True)
class ExportConfig:
    """What to export.

    input: what the graph takes, float32 in [0, 1] or uint8 grey values. exporter: torch's default
    one, or the older one. out: the model file, None for exported/NAME.onnx of the checkpoint's
    NAME.
    """

    checkpoint: Path = CHECKPOINTS_DIR / f"{DEFAULT_NAME}.safetensors"
    input: InputType = "float32"
    exporter: Exporter = "dynamo"
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check names and choices.

        Raises:
            InputError: `out` does not end in .onnx, or a choice is none.
        """
        for option, value, kind in (
            ("--input", self.input, InputType),
            ("--exporter", self.exporter, Exporter),
        ):
            choices = get_args(kind)
            _require(value in choices, f"{option} {value}", " or ".join(choices), option)
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


LAYOUT_SUFFIXES: dict[Layout, str] = {"portable": ".int8.onnx", "ort-cpu": ".int8-ort.onnx"}


@dataclass(frozen=True)
class QuantizeConfig:
    """How to make integers of a float model.

    model: a float32 export. data, data_dir: training images, for ranges and gate. layout: portable
    for any runtime, ort-cpu for onnxruntime's CPU provider. max_drop: of accuracy, in points (a
    hundredth), that the gate lets pass, > 0. out: None for exported/NAME.int8.onnx or
    NAME.int8-ort.onnx.
    """

    model: Path | None = None
    data: DataSet = "fashion-mnist"
    data_dir: Path = Path("data")
    layout: Layout = "portable"
    max_drop: float = 0.5
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            InputError: a value is outside its range.
        """
        for option, value, kind in (
            ("--data", self.data, DataSet),
            ("--layout", self.layout, Layout),
        ):
            choices = get_args(kind)
            _require(value in choices, f"{option} {value}", " or ".join(choices), option)
        _require(
            0 < self.max_drop <= 100,
            f"--max-drop {self.max_drop:g}",
            "points of accuracy, above 0 and at most 100",
            "--max-drop",
        )
        _require(
            self.out is None or self.out.suffix == ".onnx",
            f"--out {self.out}",
            "a name that ends in .onnx",
            "--out",
        )


@dataclass(frozen=True)
class VerifyConfig:
    """What to verify.

    against: a checkpoint for full parity, or another model file to compare with. tf32: let CUDA
    multiply in TF32, and judge by labels. out: report, None for its default.
    """

    model: Path | None = None
    provider: Provider = "cpu"
    against: Path | None = None
    tf32: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check that the options fit each other.

        Raises:
            InputError: TF32 without CUDA.
        """
        _require(
            not self.tf32 or self.provider == "cuda",
            f"--tf32 with --provider {self.provider}",
            "--provider cuda: TF32 is a mode of NVIDIA's GPUs",
            "--tf32",
        )


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
