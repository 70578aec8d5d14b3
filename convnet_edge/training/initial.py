"""Make what a run begins with: the pictures, the network, its first weights, what is recorded."""

from dataclasses import replace
from typing import Any

from torch import nn

from ..data import dataset
from ..networks import MAX_PARAMETERS, MAX_STORED, REFERENCE, build, weights
from ..networks.memory import copied
from ..networks.weights import Weights
from ..runtime.elsewhere.given import read_classes
from ..runtime.files import as_json
from ..runtime.options import require
from .options import TrainOptions
from .recipes import Recipe

Moments = tuple[list[float], list[float]]

ADOPTED = "adopted"  # in place of a recipe: weights that nothing was changed of
MUON = "Muon on the inner weights, AdamW on the rest"


def load_pictures(
    options: TrainOptions, known: Weights | None, progress: dataset.Progress
) -> dataset.Dataset:
    """Load the pictures, by default as those were made that the weights were trained on."""
    validated = options.recipe_name in ("scratch", "finetune")
    if known and (usual := known.usual):
        options = replace(
            options,
            image_size=options.image_size or usual.size,
            channels=options.channels or usual.channels,
            fit=options.fit or usual.fit,
            filter=options.filter or usual.filter,
            background=options.background or usual.background,
            crop_share=options.crop_share or usual.share,
        )
    names = read_classes(options.classes, None) if options.classes else ()
    return dataset.load(
        options,
        class_labels=names,
        validate=options.validate,
        validate_share=dataset.VALIDATED if validated else 0.0,
        progress=progress,
    )


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in model.parameters())


def build_network(
    named: build.Named,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    options: TrainOptions,
    known: Weights | None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the network, and the names of weights that were given and do not fit.

    Raises:
        InputError: it is too large to be kept, or gives no logits of each image's own; or weights
            that are to be adopted do not fit.
        CheckFailedError: nobody could export it.
    """
    arguments = dict(map(build.read_option, options.arch_option))
    model = build.build(named, image_shape=image_shape, n_classes=n_classes, options=arguments)
    n, limit, kept = count_parameters(model), MAX_STORED, "checkpoint"
    if options.epochs != 0:
        limit, kept = MAX_PARAMETERS, "run's state"
    require(
        n <= limit,
        f"{named.arch} has {n:,} parameters",
        f"at most {limit:,}, as a {kept} is kept in one file",
        "--arch",
    )
    build.require_own_logits(named.arch, model, image_shape)
    if named.arch != REFERENCE:  # what an export would refuse is refused before the training
        from ..networks.capture import capture  # torch.export takes 0.4 s

        capture(copied(model).eval(), image_shape)
        if options.epochs != 0 and any(one.requires_grad for one in model.parameters()):
            build.require_gradients(named.arch, model, image_shape)
    if known is None:
        return model, ()
    replaced = weights.fit(model, known.tensors, known.name)
    require(
        not replaced or options.epochs != 0,
        f"{known.name} is for other classes: of {', '.join(replaced)}",
        f"the {n_classes} classes of the pictures, as nothing is trained with --epochs 0",
        "--epochs 0",
        verb="leave out",
    )
    return model, replaced


def known_moments(options: TrainOptions, known: Weights | None, n_channels: int) -> Moments | None:
    """Return the means and deviations that the first weights belong to; None if they may be any."""
    if options.mean and options.std:
        found = f"--mean and --std of {len(options.mean)} and {len(options.std)} numbers"
        fits = len(options.mean) == len(options.std) == n_channels
        require(fits, found, f"one for each of {n_channels} channels", "--mean and --std")
        return list(options.mean), list(options.std)
    if known and (usual := known.usual):
        means, deviations = list(usual.mean), list(usual.deviation)
        if n_channels == 1:  # a grey pixel is each colour's
            return [sum(means) / len(means)], [sum(deviations) / len(deviations)]
        return means, deviations
    # weights that stay as they are take pixels in [0, 1] unless more is said
    return None if options.epochs != 0 else ([0.0] * n_channels, [1.0] * n_channels)


def describe(
    options: TrainOptions,
    *,
    arch: str,
    known: Weights | None,
    recipe: Recipe,
    found: dataset.Dataset,
    normalization: Moments | None,
) -> dict[str, Any]:
    """Return what decides the trained weights beside the network: the same in a resumed run."""
    given = {"weights": known.name, "weights_sha256": known.sha256} if known else {}
    about = {
        "data": found.source,
        "arch": arch,
        **given,
        "n_images": len(found.train),
        "n_validation_images": len(found.validation),
        "train_sha256": found.train.sha256,
        "validation_sha256": found.validation.sha256 if len(found.validation) else None,
        "pixel_mean_and_deviation": normalization and list(normalization),
        "seed": options.seed,
        "precision": options.asked_precision,
    }
    if not recipe.epochs:
        return {"recipe": ADOPTED, "epochs": 0, **about}
    fine = {"head_share": recipe.head_share, "body_rate": recipe.body_rate}
    return {
        "recipe": options.recipe_name,
        **about,
        "optimizer": MUON if recipe.muon_learning_rate else "Adam",
        **{name: value for name, value in as_json(recipe).items() if name not in fine},
        **(fine if recipe.head_share else {}),
        "early_stopping": False,
        "class_weights": options.class_weights,
    }
