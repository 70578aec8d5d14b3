"""The options of `train`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..data.options import PreparationOptions
from ..runtime.options import option, seed
from .recipes import RECIPES, SHIFT, Augment, Recipe, RecipeName

Device = Literal["auto", "cuda", "mps", "cpu"]
Precision = Literal["float32", "bf16"]
ClassWeights = Literal["none", "balanced"]

REFERENCE_DATA = ("fashion-mnist", "sample")


@dataclass(frozen=True)
class TrainOptions(PreparationOptions):
    """How to train; the defaults are the tutorial's recipe."""

    recipe: RecipeName | None = option(
        None,
        "tutorial: as it is written there, 10 epochs. fast: its accuracy in 2 epochs. best: the "
        "highest accuracy on Fashion-MNIST, 30 epochs. scratch: for any pictures, epochs by their "
        "number.",
        default_text="tutorial for Fashion-MNIST, scratch for own pictures",
    )
    epochs: int | None = option(
        None, "Passes over the images.", low=1, high=10_000, default_text="the recipe's"
    )
    learning_rate: float | None = option(None, "Adam's.", above=0, default_text="the recipe's")
    batch_size: int | None = option(
        None, "Images a step, over all processes.", low=1, high=4096, default_text="the recipe's"
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
    kernel_size: int = option(
        3, "Of both convolutions, in pixels.", low=1, high=9, panel="Advanced"
    )
    width: float = option(
        1.0,
        "Of every layer; 0.5 is 16-32-64, a quarter of the work.",
        above=0,
        high=4,
        panel="Advanced",
    )
    validate: int = option(
        0, "Training images to hold out and score after each epoch.", low=0, high=59_999
    )
    seed: int = seed("Repeats a CPU run bit for bit (same thread count).")
    device: Device = option("auto", "auto: cuda, else mps, else cpu.", panel="Advanced")
    precision: Precision = option(
        "float32", "bf16: convolutions and linear layers in bfloat16.", panel="Advanced"
    )
    resume: bool = option(False, "Go on from the last complete epoch.")
    tensorboard: bool = option(
        False, "Write every epoch into NAME.tensorboard as well; needs tensorboard."
    )
    out: Path = option(
        Path("checkpoints/convnet.safetensors"),
        "The checkpoint to write. An earlier run of that name is kept as NAME.1, NAME.2, …",
        suffixes=(".safetensors",),
    )

    @property
    def resume_path(self) -> Path:
        """Where the state of the unfinished run is kept."""
        return self.out.with_name(f"{self.out.stem}.resume.safetensors")

    @property
    def recipe_name(self) -> RecipeName:
        """The recipe that was named, or the one for these data."""
        return self.recipe or ("tutorial" if self.data in REFERENCE_DATA else "scratch")

    @property
    def plan(self) -> Recipe:
        """The recipe with what was given in its place; epochs 0: by the number of images."""
        recipe = RECIPES[self.recipe_name]
        names = ("epochs", "learning_rate", "batch_size", "augment")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.augment and "shift" in self.augment and not recipe.shift:
            given["shift"] = SHIFT  # of a recipe that moves nothing by itself
        return replace(recipe, **given)
