from dataclasses import replace

import pytest
import torch

from convnet_edge.networks.convnet import Architecture, build_convnet
from convnet_edge.training.muon import Muon, Updater, orthogonalize
from convnet_edge.training.recipes import RECIPES
from convnet_edge.training.resume import copy_state


def network():
    torch.manual_seed(0)
    return build_convnet(Architecture()).to(memory_format=torch.channels_last)


def some_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator) * 0.01)
        for p in model.parameters()
    ]


@pytest.mark.parametrize("shape", [(128, 1600), (64, 288), (300, 40), (1, 5)])
def test_orthogonalize_keeps_singular_vectors_and_brings_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrix)
    values = torch.linalg.svdvals(result)
    assert 0.6 < values.min() <= values.max() < 1.25
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.t() @ result @ v.t()
    assert (inner - torch.diag(torch.diagonal(inner))).abs().max() < 2e-2


def test_orthogonalize_equals_newton_schulz_on_the_matrix_itself():
    matrix = torch.randn(20, 50, dtype=torch.float64)
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.t()
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrix), x, rtol=1e-8, atol=1e-10)


def test_orthogonalize_of_nearly_singular_matrices_stays_finite():
    matrix = torch.randn(128, 1600) * torch.logspace(0, -8, 128)[:, None]
    assert torch.linalg.svdvals(orthogonalize(matrix)).max() < 1.25
    assert torch.equal(orthogonalize(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_muon_updates_by_the_orthogonal_matrix_and_decays():
    parameter, gradient = torch.ones(4, 8), torch.randn(4, 8)
    Muon([parameter], 0.1, 0.5).step([gradient])
    torch.testing.assert_close(parameter, 0.95 * torch.ones(4, 8) - 0.1 * orthogonalize(gradient))


@pytest.mark.parametrize(
    ("recipe", "theirs_of"),
    [
        (RECIPES["tutorial"], lambda p: torch.optim.Adam(p, lr=1e-3)),
        (
            replace(RECIPES["tutorial"], weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
        ),
    ],
)
def test_adam_is_pytorchs_plain_one(recipe, theirs_of):
    ours, theirs = network(), network().to(memory_format=torch.contiguous_format)
    updater = Updater(ours, recipe)
    adam = theirs_of(theirs.parameters())
    for seed in range(5):
        gradients = some_gradients(ours, seed)
        updater.step(gradients)
        for p, g in zip(theirs.parameters(), gradients, strict=True):
            p.grad = g.contiguous()
        adam.step()
    for mine, plain in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-8)


def test_muon_changes_conv2_in_place():
    model = network()
    before = model.layer_stack[3].weight.detach().clone()
    Updater(model, RECIPES["fast"]).step(some_gradients(model, 0))
    change = (model.layer_stack[3].weight.detach() - before).permute(0, 2, 3, 1).reshape(64, -1)
    values = torch.linalg.svdvals(change / RECIPES["fast"].muon_learning_rate)
    assert 0.6 < values.min() <= values.max() < 1.25


@pytest.mark.parametrize("recipe", ["tutorial", "best"])
def test_restored_state_goes_on_bit_for_bit(recipe):
    """Guards the trap: state in another memory format makes fused Adam compute wrongly."""
    whole, first, second = network(), network(), network()
    straight, before, after = (Updater(m, RECIPES[recipe]) for m in (whole, first, second))
    for seed in range(3):
        straight.step(some_gradients(whole, seed))
        before.step(some_gradients(first, seed))
    kept = {name: t.detach().clone().contiguous() for name, t in before.state().items()}
    weights = {name: t.clone().contiguous() for name, t in first.state_dict().items()}
    second.load_state_dict(weights)
    copy_state(kept, after.state())
    for seed in range(3, 8):
        straight.step(some_gradients(whole, seed))
        after.step(some_gradients(second, seed))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_share_scales_every_learning_rate():
    frozen, moved = network(), network()
    still = Updater(frozen, RECIPES["best"])
    still.set_share(0.0)
    still.step(some_gradients(frozen, 0))
    for a, b in zip(frozen.parameters(), moved.parameters(), strict=True):
        assert torch.equal(a, b)
    still.set_share(1.0)
    still.step(some_gradients(frozen, 0))
    assert not torch.equal(next(frozen.parameters()), next(moved.parameters()))


def test_state_that_is_missing_or_of_another_shape_or_type_is_an_error():
    state = Updater(network(), RECIPES["fast"]).state()
    with pytest.raises(KeyError, match="muon"):
        copy_state({name: t for name, t in state.items() if "muon" not in name}, state)
    for wrong in (torch.zeros(1), torch.zeros(32, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"adam\.1\.exp_avg is"):
            copy_state(state | {"adam.1.exp_avg": wrong}, state)
