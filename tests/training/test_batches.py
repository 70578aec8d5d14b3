from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.training import batches
from convnet_edge.training.batches import TrainingImages, pixel_moments
from convnet_edge.training.recipes import RECIPES

CPU = torch.device("cpu")
ROOM = {"sides": (26, 26), "n_classes": 10, "balanced": False, "device": CPU}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(n, recipe, generator, sides=(28, 28)):
    """Return what is drawn for an epoch of n images of those sides."""
    black = ImageSet(np.zeros((n, *sides), np.uint8), np.zeros(n, np.int64), "0", "0", "")
    return TrainingImages(black, recipe, **ROOM).draw(generator, n_hidden=8)


@pytest.fixture
def rgb(few):
    """Images of 30 x 24 pixels, three colours, one of them the same everywhere."""
    images = np.random.default_rng(0).integers(0, 256, (40, 30, 24, 3), dtype=np.uint8)
    images[..., 1] = 77
    images.flags.writeable = False
    return replace(few, images=images, labels=np.arange(40) % 3)


def test_plain_batch_is_the_images_in_order_over_255(few):
    images = TrainingImages(few, RECIPES["tutorial"], **ROOM)
    order = torch.tensor([3, 0, 41])
    batch = images.batch({"order": order})
    expected = few.images[[3, 0, 41]][:, None, :26, :26] / 255
    np.testing.assert_allclose(batch.x.numpy(), expected, rtol=1e-6)
    assert batch.labels.tolist() == few.labels[[3, 0, 41]].tolist()
    assert batch.keep is None
    assert batch.weights is None


def test_moved_batch_is_the_padded_mirrored_normalised_image(few):
    recipe = RECIPES["best"]
    images = TrainingImages(few, recipe, **ROOM)
    drawn = images.draw(generator(), n_hidden=128)
    batch = images.batch(drawn)
    mean, deviation = (few.images / 255).mean(), (few.images / 255).std()
    for i, index in enumerate(drawn["order"].tolist()):
        image = few.images[index][:, ::-1] if drawn["mirrored"][i] else few.images[index]
        row, column = drawn["shifts"][i].tolist()
        padded = np.pad(image, 1)[row : row + 26, column : column + 26]
        np.testing.assert_allclose(
            batch.x[i, 0].numpy(), (padded / 255 - mean) / deviation, rtol=1e-4, atol=1e-5
        )
    share = batch.keep.count_nonzero() / batch.keep.numel()
    assert abs(share - (1 - recipe.dropout)) < 0.03
    assert batch.keep.mean() == pytest.approx(1, abs=0.03)
    log_p = torch.randn(len(few), 10).log_softmax(1)
    smoothed = cross_entropy(log_p, batch.labels, label_smoothing=recipe.label_smoothing)
    torch.testing.assert_close(-(batch.targets * log_p).sum() / len(few), smoothed)


@pytest.mark.parametrize(("edge", "mode"), [("reflect", "reflect"), ("black", "constant")])
@pytest.mark.parametrize("augment", ["shift,erase", "shift,flip,erase"])
def test_colour_batch_is_moved_covered_and_normalised_by_channel(rgb, edge, mode, augment):
    recipe = replace(RECIPES["scratch"], edge=edge, augment=augment)
    images = TrainingImages(rgb, recipe, **ROOM | {"sides": (28, 22)})
    drawn = images.draw(generator(), n_hidden=8)
    x = images.batch(drawn).x.numpy()
    mean, deviation = (
        a.reshape(3) for a in (rgb.images.mean((0, 1, 2)), rgb.images.std((0, 1, 2)))
    )
    deviation[1] = 255
    for i, index in enumerate(drawn["order"].tolist()):
        image = rgb.images[index]
        if "flip" in augment and drawn["mirrored"][i]:
            image = image[:, ::-1]
        (row, column), (top, end, left, right) = (
            drawn[k][i].tolist() for k in ("shifts", "erased")
        )
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode)
        expected = (padded[row : row + 28, column : column + 22] - mean) / deviation
        expected[top:end, left:right] = 0
        np.testing.assert_allclose(x[i].transpose(1, 2, 0), expected, rtol=1e-4, atol=1e-4)


def test_rectangles_lie_inside_and_cover_the_share_that_the_recipe_asks_for():
    recipe = replace(RECIPES["scratch"], augment="shift,erase")
    drawn = draw(4000, recipe, generator(), sides=(40, 16))["erased"]
    rows, columns = drawn[:, 1] - drawn[:, 0], drawn[:, 3] - drawn[:, 2]
    covered = rows > 0
    assert torch.equal(covered, columns > 0)
    assert covered.double().mean() == pytest.approx(0.25, abs=0.03)
    assert (rows[covered].min(), rows.max()) == (5, 20)
    assert (columns[covered].min(), columns.max()) == (2, 8)
    assert drawn.min() == 0
    assert (drawn[:, 1].max(), drawn[:, 3].max()) == (40, 16)


def test_no_augmentation_draws_the_order_and_the_dropout_alone():
    drawn = draw(9, replace(RECIPES["best"], augment="none"), generator())
    assert set(drawn) == {"order", "keep"}
    shifted = draw(9, RECIPES["scratch"], generator())
    assert set(shifted) == {"order", "keep", "shifts"}


def test_balanced_classes_weigh_the_same_and_images_one_on_average(rgb):
    labels = np.array([0] * 30 + [3] * 10)
    images = TrainingImages(
        replace(rgb, labels=labels), RECIPES["tutorial"], **ROOM | {"balanced": True}
    )
    weights = images.batch({"order": torch.arange(40)}).weights.numpy()
    assert weights.mean() == pytest.approx(1)
    assert weights[:30].sum() == pytest.approx(weights[30:].sum())


def test_moments_counted_in_parts_are_those_of_the_whole(rgb, monkeypatch):
    monkeypatch.setattr(batches, "CHUNK_BYTES", 7 * 30 * 24 * 3)
    means, deviations = pixel_moments(rgb.images)
    np.testing.assert_allclose(means, rgb.images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(deviations[::2], (rgb.images / 255).std((0, 1, 2))[::2], rtol=1e-12)
    assert deviations[1] == 1


def test_the_tutorial_draws_its_permutation_and_nothing_else():
    drawn_from, permuted = generator(3), generator(3)
    (order,) = draw(100, RECIPES["tutorial"], drawn_from).values()
    assert torch.equal(order, torch.randperm(100, generator=permuted))
    assert torch.equal(drawn_from.get_state(), permuted.get_state())


def test_choices_depend_on_the_generator_alone_and_use_every_image_once():
    recipe = RECIPES["best"]
    first, again, other = (draw(100, recipe, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert sorted(first["order"].tolist()) == list(range(100))
    assert not torch.equal(first["order"], other["order"])
    assert set(first["shifts"].unique().tolist()) == {0, 1, 2}


def test_share_draws_that_many_different_images():
    drawn = draw(100, replace(RECIPES["fast"], share=0.3), torch.Generator())
    assert len(set(drawn["order"].tolist())) == len(drawn["order"]) == 30
