"""The recipes: what decides the trained weights, beside data, network and seed."""

from dataclasses import dataclass
from typing import Literal

RecipeName = Literal["tutorial", "fast", "best"]


@dataclass(frozen=True)
class Recipe:
    """One recipe.

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
