"""The settings of each stage: the one place where a default stands.

Frozen values without behaviour but for their own checks; no framework is imported here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

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
Target = Literal["pyz", "testdata", "web"]
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
    provider: str = "cpu"
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
    """What to measure, of which models.

    models: none for the default one; the first is what the others are compared with.
    threads: intra-op threads, None for the tuned ones, else all usable cores.
    batch_sizes: images a run, each from 1 to 4096. duration_s: timed seconds for each, > 0.
    min_runs: timed runs for each at least, from 11. out: the result (.json), or a folder for it;
    None for benchmarks/results.
    quick: two batch sizes, a second each, no throughput; strict: NOISY is a failure.
    allow_cpu_nodes: let the CPU run what the provider does not take. tf32: let CUDA use it.
    spin: let idle threads wait busily. io_binding: through buffers on the device.
    cuda_graph: replay one captured launch; implies io_binding.
    tune: search threads, callers and batch size first, and keep what was best.
    pace_hz: also run as often a second, > 0; sustain_s: for how long, > 0 (alone: back to back).
    profile: show the time of each node. loadgen: also run MLPerf LoadGen.
    """

    models: tuple[Path, ...] = ()
    provider: str = "cpu"
    threads: int | None = None
    batch_sizes: tuple[int, ...] = (1, 8, 64, 256)
    duration_s: float = 4.0
    min_runs: int = 130
    out: Path | None = None
    quick: bool = False
    strict: bool = False
    allow_cpu_nodes: bool = False
    tf32: bool = False
    spin: bool = True
    io_binding: bool = False
    cuda_graph: bool = False
    tune: bool = False
    pace_hz: float | None = None
    sustain_s: float | None = None
    profile: bool = False
    loadgen: bool = False

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            InputError: a value is outside its range, or options do not fit each other.
        """
        sizes = ", ".join(map(str, self.batch_sizes)) or "none"
        _require(
            bool(self.batch_sizes) and all(1 <= size <= 4096 for size in self.batch_sizes),
            f"batch sizes {sizes}",
            "numbers from 1 to 4096, as in 1,8,64",
            "--batch-sizes",
        )
        for option, value, highest in (
            ("--duration", self.duration_s, 3600),
            ("--sustain", self.sustain_s, 7 * 86400),
            ("--pace", self.pace_hz, 10_000),
        ):
            _require(
                value is None or 0 < value <= highest,
                f"{option} {value}",
                f"a number above 0 and at most {highest:,}",
                option,
            )
        _require(self.min_runs >= 11, f"--min-runs {self.min_runs}", "11 or more", "--min-runs")
        _require(
            self.out is None or self.out.suffix != ".json" or len(self.models) < 2,
            f"one file, {self.out}, for {len(self.models)} models",
            "a folder: each result takes its model's name",
            "--out",
        )
        for option, is_on in (("--tf32", self.tf32), ("--cuda-graph", self.cuda_graph)):
            _require(
                not is_on or self.provider == "cuda",
                f"{option} with --provider {self.provider}",
                "--provider cuda: it is a mode of NVIDIA's GPUs",
                option,
            )

    def as_json(self) -> dict[str, Any]:
        """Return what decides the measurement, as plain JSON values."""
        found = asdict(self)
        return {key: found[key] for key in found if key not in ("models", "out", "provider")}

    def result_path(self, model_path: Path) -> Path:
        """Return where the result of one model goes."""
        if self.out is not None and self.out.suffix == ".json":
            return self.out
        return (self.out or RESULTS_DIR) / f"{model_path.stem}-{self.provider}.json"


@dataclass(frozen=True)
class CompareConfig:
    """What to compare: two model files, measured here in turn, or two stored results.

    max_slowdown: of NEW's median time against BASE's that passes, as a share, >= 0.
    batch_size: images a run. n_pairs: fresh processes of each model, from 6.
    min_accuracy: of NEW on the test images, in [0, 1]; max_p99_ms: of NEW; None for no such gate.
    """

    base: Path
    new: Path
    provider: str = "cpu"
    threads: int | None = None
    batch_size: int = 1
    n_pairs: int = 11
    max_slowdown: float = 0.05
    min_accuracy: float | None = None
    max_p99_ms: float | None = None

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            InputError: a value is outside its range, or a model is to be compared with a result.
        """
        kinds = {path.suffix == ".json" for path in (self.base, self.new)}
        _require(
            len(kinds) == 1,
            f"{self.base} and {self.new}",
            "two model files (.onnx), or two results of `convnet-edge bench` (.json)",
            "one of them",
        )
        for option, value, low, high in (
            ("--max-slowdown", self.max_slowdown, 0, 100),
            ("--min-accuracy", self.min_accuracy, 0, 1),
            ("--max-p99-ms", self.max_p99_ms, 0, 1e9),
            ("--pairs", self.n_pairs, 6, 1000),
            ("--batch-size", self.batch_size, 1, 4096),
        ):
            _require(
                value is None or low <= value <= high,
                f"{option} {value:g}" if value is not None else option,
                f"from {low:g} to {high:g}",
                option,
            )

    @property
    def stored(self) -> bool:
        """Whether two results are compared rather than two models."""
        return self.new.suffix == ".json"


@dataclass(frozen=True)
class ReportConfig:
    """What to report.

    results: result files, and folders of them; none for benchmarks/results. out: the page; the
    Markdown and the pictures take its name.
    """

    results: tuple[Path, ...] = ()
    out: Path = Path("runs/report.html")

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            InputError: `out` does not end in .html.
        """
        _require(self.out.suffix == ".html", f"--out {self.out}", "a name in .html", "--out")


@dataclass(frozen=True)
class BundleConfig:
    """What to hand over, and how.

    models: none for the default one. target: pyz, one file that a device runs; testdata, a folder
    in the layout of ONNX's own tests, for one model; web, a folder with a page that runs in any
    browser. with_test_set: also the 10,000 test images (4.4 MB), which a page always has. ort_web:
    onnxruntime-web as npm unpacked it, for the page. out: None for NAME.pyz, NAME-testdata or
    NAME-web of the first model, here.
    """

    models: tuple[Path, ...] = ()
    target: Target = "pyz"
    with_test_set: bool = False
    ort_web: Path = Path("node_modules/onnxruntime-web")
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check the name, and that the options fit each other.

        Raises:
            InputError: `out` does not end in .pyz, or more than testdata holds is asked for.
        """
        choices = get_args(Target)
        _require(
            self.target in choices, f"--target {self.target}", " or ".join(choices), "--target"
        )
        alone = len(self.models) < 2 and not self.with_test_set
        _require(
            self.target != "testdata" or alone,
            f"{len(self.models)} models{' and the test set' * self.with_test_set} as testdata",
            "one model: its golden images are the data",
            "--target",
        )
        _require(
            self.target != "pyz" or self.out is None or self.out.suffix == ".pyz",
            f"--out {self.out}",
            "a name that ends in .pyz",
            "--out",
        )


@dataclass(frozen=True)
class ServeConfig:
    """What page to show, and where. folder: None for the one here. port: 0 for any free one."""

    folder: Path | None = None
    port: int = 8000

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            InputError: no such port.
        """
        _require(0 <= self.port <= 65535, f"--port {self.port}", "0 to 65535", "--port")


@dataclass(frozen=True)
class PredictConfig:
    """How to predict. invert: overrule the look at the border; None lets it decide."""

    model: Path | None = None
    provider: str = "cpu"
    invert: bool | None = None


@dataclass(frozen=True)
class GridConfig:
    """The seed's 5 x 3 grid of test images. seed: which images. out: the picture."""

    model: Path | None = None
    provider: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/predictions.png")
