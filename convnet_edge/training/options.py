"""The options of `train`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..data.options import PreparationOptions
from ..networks import REFERENCE
from ..runtime.options import classes, option, require, seed
from .recipes import RECIPES, SCRATCH_OTHERS, SHIFT, Augment, Recipe, RecipeName

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["auto", "float32", "bf16"]
ClassWeights = Literal["none", "balanced"]

REFERENCE_DATA = ("fashion-mnist", "sample")
UNFINISHED = ".resume.safetensors"  # how the name of an unfinished run's state ends


@dataclass(frozen=True)
class TrainOptions(PreparationOptions):
    """How to train, and which network; the defaults are the tutorial's.

    Raises:
        InputError: options that do not fit each other.
    """

    arch: str | Callable[..., Any] = option(
        REFERENCE,
        "convnet (the tutorial's), torchvision:NAME, timm:NAME, FILE.py:NAME or MODULE:NAME, a "
        "class or function. Its Python is run, here and by `export`.",
        metavar="WHERE:WHAT",
        panel="Network",
        takes_callable=True,
    )
    arch_option: tuple[str, ...] = option(
        (),
        "What it is made with, beside its classes, channels and image size; may be repeated. "
        "convnet: kernel_size=5, width=0.5.",
        metavar="NAME=VALUE",
        panel="Network",
        repeated=True,
    )
    weights: str | None = option(
        None,
        "pretrained: the library's own, downloaded. FILE: .safetensors, or .pt or .pth with a "
        "state dict. A last layer of other classes is made anew.",
        metavar="pretrained|FILE",
        panel="Network",
        default_text="random",
    )
    classes: Path | None = classes("those of the pictures, sorted", panel="Network")
    mean: tuple[float, ...] | None = option(
        None,
        "By channel, of pixels in [0, 1]: what the weights were trained with.",
        panel="Network",
        default_text="the library's with --weights, else what the recipe takes",
    )
    std: tuple[float, ...] | None = option(
        None, "With --mean.", panel="Network", above=0, default_text="as for --mean"
    )
    recipe: RecipeName | None = option(
        None,
        "tutorial: as it is written there, 10 epochs. fast: its accuracy in 2 epochs. best: the "
        "highest accuracy on Fashion-MNIST, 30 epochs. scratch: for any pictures and network, "
        "epochs by their number. finetune: for weights that are trained already.",
        default_text="finetune with --weights; scratch for own pictures or networks; else tutorial",
    )
    epochs: int | None = option(
        None,
        "Passes over the images; 0 takes --weights as they are.",
        low=0,
        high=10_000,
        default_text="the recipe's",
    )
    learning_rate: float | None = option(None, "Adam's.", above=0, default_text="the recipe's")
    batch_size: int | None = option(
        None,
        "Images a step, over all processes; batch normalisation takes each process's alone.",
        low=1,
        high=4096,
        default_text="the recipe's",
    )
    augment: Augment | None = option(
        None,
        "What happens to images at random in training: moved, mirrored, partly covered. flip only "
        "where a mirror image is of the same class: b and d are not.",
        default_text="the recipe's; scratch's is shift",
    )
    class_weights: ClassWeights = option(
        "none", "balanced: all classes weigh the same, however many images each has."
    )
    validate: int | None = option(
        None,
        "Training images to hold out and score after each epoch.",
        low=0,
        high=59_999,
        default_text="a tenth for scratch and finetune, else 0",
    )
    seed: int = seed(
        "Repeats a CPU run bit for bit (same thread count, same --precision but auto)."
    )
    device: Device = option("auto", "auto: cuda, else mps, else cpu.", panel="Advanced")
    precision: Precision | None = option(
        None,
        "bf16: convolutions and linear layers in bfloat16. auto: whichever takes a step in less "
        "time here, tried before the first one.",
        panel="Advanced",
        default_text="auto of scratch and finetune, else float32",
    )
    resume: bool = option(False, "Go on from the last complete epoch.")
    allow_changed_source: bool = option(
        False, "Resume although the file of --arch has changed.", panel="Advanced"
    )
    tensorboard: bool = option(
        False, "Write every epoch into NAME.tensorboard as well; needs tensorboard."
    )
    out: Path = option(
        Path("checkpoints/convnet.safetensors"),
        "The checkpoint to write. An earlier run of that name is kept as NAME.1, NAME.2, …",
        suffixes=(".safetensors",),
    )

    def __post_init__(self) -> None:
        """Check what only makes sense together."""
        super().__post_init__()
        require(
            self.epochs != 0 or self.weights is not None or not isinstance(self.arch, str),
            "--epochs 0 without weights",
            "weights that are trained already",
            "--weights",
            verb="name them with",
        )
        require(
            (self.mean is None) == (self.std is None),
            f"--{'std' if self.mean is None else 'mean'} alone",
            "both --mean and --std, or neither",
            "--mean and --std",
        )

    @property
    def resume_path(self) -> Path:
        """Where the state of the unfinished run is kept."""
        return self.out.with_name(f"{self.out.stem}{UNFINISHED}")

    @property
    def recipe_name(self) -> RecipeName:
        """The recipe that was named, or the one for these data."""
        if self.recipe or self.weights:
            return self.recipe or "finetune"
        is_reference = self.data in REFERENCE_DATA and self.arch == REFERENCE
        return "tutorial" if is_reference else "scratch"

    @property
    def asked_precision(self) -> Precision:
        """The precision that was named, or the recipe's."""
        timed = self.recipe_name in ("scratch", "finetune")
        return self.precision or ("auto" if timed else "float32")

    @property
    def plan(self) -> Recipe:
        """The recipe with what was given in its place; epochs BY_NUMBER: of the images."""
        is_other = self.recipe_name == "scratch" and self.arch != REFERENCE
        recipe = SCRATCH_OTHERS if is_other else RECIPES[self.recipe_name]
        names = ("epochs", "learning_rate", "batch_size", "augment")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.augment and "shift" in self.augment and not recipe.shift:
            given["shift"] = SHIFT  # of a recipe that moves nothing by itself
        return replace(recipe, **given)
