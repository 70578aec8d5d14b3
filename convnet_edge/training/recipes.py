"""The recipes: what decides the trained weights, beside data, network and seed."""

from dataclasses import dataclass, replace
from typing import Literal

RecipeName = Literal["tutorial", "fast", "best", "scratch", "finetune"]
Augment = Literal["none", "shift", "shift,flip", "shift,erase", "shift,flip,erase"]
Edge = Literal["black", "reflect"]

SHIFT = 1 / 28  # of the shorter side: one pixel of Fashion-MNIST
# epochs by the number of images, where a recipe leaves them open: 126 of 1,000, 40 of 10,000; and
# a part of them
BY_NUMBER, QUARTER_BY_NUMBER = -1, -4
EPOCHS_FACTOR, FEWEST_EPOCHS, MOST_EPOCHS = 4000, 12, 200


@dataclass(frozen=True)
class Recipe:
    """One recipe; none stops early: it takes all its epochs, and keeps the weights of the last.

    epochs: passes over the training images; -n: an n-th of what their number asks for.
    batch_size: images a step.
    share: of the training images that an epoch passes over, drawn anew for each; 1: all of them.
    learning_rate: Adam's. muon_learning_rate: Muon's, on the inner weights; 0: Adam on all.
    weight_decay: decoupled (AdamW), as a share of the learning rate.
    decay: learning rates fall linearly to 0; else they stay. warm_up: share of all steps in which
    they rise linearly first.
    normalize: train on (pixel - mean) / deviation of the training images, folded into conv1 after.
    augment: what happens to images at random. shift: moved by up to `shift` of the shorter side
    along both axes, what comes in filled by `edge`. flip: half of them mirrored. erase: a rectangle
    set to the mean, or to black without `normalize`, in a quarter of them.
    dropout: share of the hidden features that a step leaves out.
    label_smoothing: share of each target that is spread over all classes.
    average: weights kept are an average in which a step's weigh 1 - average; 0: the last ones.
    head_share: of the epochs, in which the head learns alone. body_rate: the learning rate below
    the head, as a share of its own.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    share: float = 1.0
    muon_learning_rate: float = 0.0
    weight_decay: float = 0.0
    decay: bool = False
    normalize: bool = False
    augment: Augment = "none"
    shift: float = 0.0
    edge: Edge = "black"
    dropout: float = 0.0
    warm_up: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.0
    head_share: float = 0.0
    body_rate: float = 1.0

    def rate_at(self, step: int, n_steps: int) -> float:
        """Return the share of the learning rates that step 0 to n_steps - 1 takes."""
        falling = 1 - step / n_steps
        return min(falling, (step + 1) / (self.warm_up * n_steps)) if self.warm_up else falling

    def for_images(self, n: int) -> "Recipe":
        """Return the recipe for `n` training images, with the epochs that it leaves open."""
        by_number = min(max(round(EPOCHS_FACTOR / n**0.5), FEWEST_EPOCHS), MOST_EPOCHS)
        return replace(self, epochs=by_number // -self.epochs if self.epochs < 0 else self.epochs)


BEST = Recipe(
    epochs=30,
    batch_size=128,
    learning_rate=3e-3,
    muon_learning_rate=0.02,
    weight_decay=0.01,
    decay=True,
    normalize=True,
    augment="shift,flip",
    shift=SHIFT,
    dropout=0.3,
    label_smoothing=0.1,
    average=0.998,
)
SCRATCH = replace(
    BEST,
    epochs=BY_NUMBER,
    batch_size=64,
    augment="shift",
    shift=1 / 14,
    edge="reflect",
    average=0.0,
)
# of networks whose step is not written out: benchmarks/LOG.md has what was tried
SCRATCH_OTHERS = replace(
    SCRATCH, learning_rate=2e-3, muon_learning_rate=0.0, weight_decay=0.05, warm_up=0.1
)
RECIPES: dict[RecipeName, Recipe] = {
    "tutorial": Recipe(epochs=10, batch_size=64, learning_rate=1e-3),
    "fast": Recipe(
        epochs=2,
        batch_size=128,
        learning_rate=4e-3,
        share=0.75,
        muon_learning_rate=0.04,
        decay=True,
        normalize=True,
    ),
    "best": BEST,
    "scratch": SCRATCH,
    "finetune": replace(
        SCRATCH,
        epochs=QUARTER_BY_NUMBER,
        learning_rate=3e-3,
        muon_learning_rate=0.0,
        dropout=0.0,
        head_share=0.2,
        body_rate=0.1,
    ),
}
