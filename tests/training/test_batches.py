from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from convnet_edge.training.batches import TrainingImages, draw_choices
from convnet_edge.training.recipes import RECIPES

CROP = {"sides": (26, 26), "device": torch.device("cpu")}


def test_plain_batch_is_the_images_in_order_over_255(few):
    images = TrainingImages(few, RECIPES["tutorial"], **CROP)
    order = torch.tensor([3, 0, 41])
    batch = images.batch({"order": order})
    expected = few.images[[3, 0, 41]][:, None, :26, :26] / 255
    np.testing.assert_allclose(batch.x.numpy(), expected, rtol=1e-6)
    assert batch.labels.tolist() == few.labels[[3, 0, 41]].tolist()
    assert batch.keep is None


def test_moved_batch_is_the_padded_mirrored_normalised_image(few):
    recipe = RECIPES["best"]
    images = TrainingImages(few, recipe, **CROP)
    drawn = draw_choices(len(few), 128, recipe, torch.Generator().manual_seed(0))
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


def test_the_tutorial_draws_its_permutation_and_nothing_else():
    drawn_from, permuted = (torch.Generator().manual_seed(3) for _ in range(2))
    (order,) = draw_choices(100, 8, RECIPES["tutorial"], drawn_from).values()
    assert torch.equal(order, torch.randperm(100, generator=permuted))
    assert torch.equal(drawn_from.get_state(), permuted.get_state())


def test_choices_depend_on_the_generator_alone_and_use_every_image_once():
    recipe = RECIPES["best"]
    first, again, other = (
        draw_choices(100, 8, recipe, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert sorted(first["order"].tolist()) == list(range(100))
    assert not torch.equal(first["order"], other["order"])
    assert set(first["shifts"].unique().tolist()) == {0, 1, 2}


def test_share_draws_that_many_different_images():
    drawn = draw_choices(100, 8, replace(RECIPES["fast"], share=0.3), torch.Generator())
    assert len(set(drawn["order"].tolist())) == len(drawn["order"]) == 30
