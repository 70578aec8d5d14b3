"""Autograd's step, for any network, against the convnet's written-out one."""

import pytest
import torch
from torch import nn

from convnet_edge.networks import convnet_gradients
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.networks.gradients import Batch, by_autograd, step_of


def example(channels, dtype=torch.float64):
    """Return a convnet, its parameters, and a batch of the pixels that reach its logits."""
    torch.manual_seed(3)
    architecture = Architecture((channels, 22, 26), n_classes=5, width=0.2)
    model = Convnet(architecture).to(dtype).to(memory_format=torch.channels_last)
    labels = torch.randint(4, (9,))  # none of the last class
    targets = 0.9 * torch.eye(5, dtype=dtype)[labels] + 0.02
    x = torch.rand(9, channels, *architecture.needed_sides, dtype=dtype)
    weights = torch.rand(9, dtype=dtype) + 0.5
    return model, [p.detach() for p in model.parameters()], Batch(x, labels, targets, None, weights)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_autograds_step_is_the_written_out_one(channels, weighted):
    model, parameters, batch = example(channels)
    if not weighted:
        batch = Batch(batch.x, batch.labels, batch.targets)
    ours = by_autograd(model, parameters, batch, n_total=11)
    theirs = step_of(model)(parameters, batch, n_total=11)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-12, atol=0)
    assert torch.equal(ours.n_hits, theirs.n_hits)
    torch.testing.assert_close(ours.gradients, theirs.gradients, rtol=1e-9, atol=1e-13)
    assert all(g.stride() == p.stride() for g, p in zip(ours.gradients, parameters, strict=True))


def test_weights_of_images_are_those_of_cross_entropy():
    model, parameters, batch = example(1)
    weights = torch.rand(5, dtype=torch.float64)
    targets = torch.eye(5, dtype=torch.float64)[batch.labels]
    plain = Batch(batch.x, batch.labels, targets, None, weights[batch.labels])
    loss = nn.functional.cross_entropy(model(batch.x), batch.labels, weights, reduction="sum") / 9
    expected = torch.autograd.grad(loss, list(model.parameters()))
    found = step_of(model)(parameters, plain, n_total=9)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gradients, expected, rtol=1e-9, atol=1e-13)


def test_hits_are_counted_by_class_and_every_class_has_a_count():
    model, parameters, batch = example(1)
    right = model(batch.x).argmax(1) == batch.labels
    found = step_of(model)(parameters, batch, n_total=9).n_hits
    assert found.tolist() == [int((right & (batch.labels == c)).sum()) for c in range(5)]


def test_network_without_a_step_of_its_own_gets_autograds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 5), nn.Linear(5, 5))
    model[2].bias = None
    unused = nn.Parameter(torch.ones(2))
    model.register_parameter("unused", unused)
    x, labels = torch.rand(9, 3, 2, 2), torch.randint(5, (9,))
    batch = Batch(x, labels, torch.eye(5)[labels])
    found = step_of(model)([p.detach() for p in model.parameters()], batch, n_total=9)
    nn.functional.cross_entropy(model(x), labels).backward()
    for gradient, parameter in zip(found.gradients, model.parameters(), strict=True):
        expected = torch.zeros(2) if parameter is unused else parameter.grad
        torch.testing.assert_close(gradient, expected)


def test_bf16_by_autocast_is_near_float32_and_keeps_float32_gradients():
    model, parameters, batch = example(3, torch.float32)
    exact, rounded = (
        by_autograd(model, parameters, batch, n_total=9, dtype=dtype)
        for dtype in (None, torch.bfloat16)
    )
    assert 0 < abs(rounded.loss - exact.loss) < 0.02
    for mine, theirs in zip(rounded.gradients, exact.gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.25 * theirs.norm()


def test_convnet_brings_its_own_step():
    assert step_of(Convnet(Architecture())) is convnet_gradients.loss_and_gradients
