from dataclasses import replace

import pytest
import torch
from torch import nn

from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.training.muon import MAX_SIDE, Updater, orthogonalize
from convnet_edge.training.recipes import RECIPES


def network():
    torch.manual_seed(0)
    return Convnet(Architecture()).to(memory_format=torch.channels_last)


def some_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator) * 0.01)
        for p in model.parameters()
    ]


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (1, 5)])
def test_orthogonalize_equals_newton_schulz_on_the_matrix_itself(shape):
    matrix = torch.randn(shape, dtype=torch.float64)
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.t()
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrix), x, rtol=1e-7, atol=1e-10)


def test_orthogonalize_of_nearly_singular_matrices_stays_finite():
    matrix = torch.randn(128, 1600) * torch.logspace(0, -8, 128)[:, None]
    assert torch.linalg.svdvals(orthogonalize(matrix)).max() < 1.25
    assert torch.equal(orthogonalize(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_muon_updates_both_large_weights_by_the_orthogonal_matrix_and_decays():
    model, recipe = network(), replace(RECIPES["fast"], weight_decay=0.5)
    before, gradients = [p.detach().clone() for p in model.parameters()], some_gradients(model, 0)
    Updater(model, recipe).step(gradients)
    for place, (rows, axes) in {2: (64, (0, 2, 3, 1)), 4: (128, (0, 1))}.items():
        after, old, gradient = (
            t.detach().permute(axes).reshape(rows, -1)
            for t in (list(model.parameters())[place], before[place], gradients[place])
        )
        expected = (1 - 0.04 * 0.5) * old - 0.04 * orthogonalize(gradient)
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weight_decay", "theirs"), [(0.0, torch.optim.Adam), (0.1, torch.optim.AdamW)]
)
def test_adam_is_pytorchs_plain_one(weight_decay, theirs):
    ours, plain_ones = network(), network().to(memory_format=torch.contiguous_format)
    updater = Updater(ours, replace(RECIPES["tutorial"], weight_decay=weight_decay))
    adam = theirs(plain_ones.parameters(), lr=1e-3, weight_decay=weight_decay)
    for seed in range(5):
        gradients = some_gradients(ours, seed)
        updater.step(gradients)
        for p, g in zip(plain_ones.parameters(), gradients, strict=True):
            p.grad = g.contiguous()
        adam.step()
    both = (list(network.parameters()) for network in (ours, plain_ones))
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-8)


def test_share_scales_every_learning_rate():
    model, before = network(), list(network().parameters())
    updater = Updater(model, RECIPES["best"])
    for share in (0.0, 1.0):
        updater.set_share(share)
        updater.step(some_gradients(model, 0))
        moved = [not torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True)]
        assert moved == [share > 0] * len(before)


def test_matrix_whose_product_would_take_too_long_is_adams():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 9), nn.Linear(9, MAX_SIDE), nn.Linear(MAX_SIDE, MAX_SIDE + 1)]
    model = nn.Sequential(
        *layers, nn.Linear(MAX_SIDE + 1, MAX_SIDE + 1), nn.Linear(MAX_SIDE + 1, 3)
    )
    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    recipe = replace(RECIPES["scratch"], learning_rate=1e-9)
    Updater(model, recipe).step([torch.randn_like(p) for p in model.parameters()])
    moved = [(model.get_parameter(n) - before[n]).abs().max() > 1e-6 for n in names]
    assert moved == [False, True, True, False, False]
