"""A step's loss and gradients: the convnet's written-out ones, and autograd's for any network."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from convnet_edge.networks import convnet_gradients
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.networks.convnet_gradients import loss_and_gradients
from convnet_edge.networks.gradients import Batch, by_autograd, step_of
from convnet_edge.training.launch import Launch

COLOUR = Architecture((3, 22, 26), n_classes=5, width=0.2)


def example(n, architecture=Architecture(), dtype=torch.float64):  # noqa: B008 - frozen
    """Return a network, its parameters, whole images and their batch as the step sees it.

    No image is of the last class.
    """
    torch.manual_seed(3)
    model = Convnet(architecture).to(dtype).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(n, *architecture.image_shape, generator=generator, dtype=dtype)
    x[:, :, : x.shape[2] // 2] = 0  # as in the data: equal neighbours, so ties in the pooling
    labels = torch.randint(architecture.n_classes - 1, (n,), generator=generator)
    height, width = architecture.needed_sides
    targets = torch.eye(architecture.n_classes, dtype=dtype)[labels]
    parameters = [p.detach() for p in model.parameters()]
    return model, parameters, x, Batch(x[:, :, :height, :width], labels, targets)


def by_hand(model, x, labels, label_smoothing=0.0, keep=None):
    """Return loss, logits and gradients as the tutorial's loop computes them."""
    hidden = model.layer_stack[:9](x)
    logits = model.layer_stack[9](hidden if keep is None else hidden * keep)
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    loss.backward()
    return loss.detach(), logits, [p.grad for p in model.parameters()]


@pytest.fixture(params=["convolution", "product"])
def conv2_by(request, monkeypatch):
    """Compute conv2 both ways, whatever this processor would take."""
    product = request.param == "product"
    monkeypatch.setattr(convnet_gradients, "_products_are_faster", lambda _: product)


@pytest.mark.usefixtures("conv2_by")
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize(
    "architecture",
    [
        *(Architecture(kernel_size=size) for size in (1, 2, 3, 5)),
        Architecture((3, 32, 32), n_classes=7),
        Architecture((2, 17, 40), 4, n_classes=3),
        *(Architecture(width=width) for width in (0.5, 0.02)),
        Architecture((1, 29, 31), width=0.1),
        Architecture((1, 10, 10)),
    ],
)
def test_loss_and_gradients_on_the_crop_are_those_on_the_image(architecture, n):
    model, parameters, x, batch = example(n, architecture)
    loss, logits, expected = by_hand(model, x, batch.labels)
    ours = loss_and_gradients(parameters, batch, n_total=n)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-12, atol=0)
    assert ours.n_hits.sum() == (logits.argmax(1) == batch.labels).sum()
    torch.testing.assert_close(ours.gradients, expected, rtol=1e-9, atol=1e-13)


def test_no_smaller_crop_would_do():
    model, _, x, _ = example(8)
    x += 0.5
    logits = model(x)
    for axis in (2, 3):
        dropped, needed = x.clone(), x.clone()
        dropped.narrow(axis, 26, 2).fill_(9)
        needed.narrow(axis, 25, 1).fill_(9)
        assert torch.equal(model(dropped), logits)
        assert not torch.equal(model(needed), logits)


def test_smoothing_and_dropout_are_the_tutorials_with_them():
    model, parameters, x, batch = example(20)
    keep = (torch.rand(20, 128, generator=torch.Generator().manual_seed(1)) > 0.3) / 0.7
    loss, _, expected = by_hand(model, x, batch.labels, 0.2, keep.double())
    smooth = replace(batch, targets=0.8 * batch.targets + 0.02, keep=keep)
    ours = loss_and_gradients(parameters, smooth, n_total=20)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-7, atol=0)  # keep is float32
    torch.testing.assert_close(ours.gradients, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "size"), [(64, 2), (32, 3), (3, 4)])
def test_shares_of_a_batch_add_up_to_the_batch(n, size):
    _, parameters, _, batch = example(n, dtype=torch.float32)
    whole = loss_and_gradients(parameters, batch, n_total=n)
    bounds = [Launch(rank, size).share(0, n) for rank in range(size)]
    assert (bounds[0][0], bounds[-1][1]) == (0, n)  # 3 images of 4 processes: one has none
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    parts = [
        loss_and_gradients(
            parameters, Batch(batch.x[a:b], batch.labels[a:b], batch.targets[a:b]), n_total=n
        )
        for a, b in bounds
    ]
    assert torch.equal(sum(part.n_hits for part in parts), whole.n_hits)
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    for i, gradient in enumerate(whole.gradients):
        total = sum(part.gradients[i] for part in parts)
        assert (total - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.usefixtures("conv2_by")
@pytest.mark.parametrize("written_out", [True, False])
def test_bf16_is_near_float32_and_gives_gradients_like_the_parameters(written_out):
    model, parameters, _, batch = example(32, dtype=torch.float32)
    step = loss_and_gradients if written_out else partial(by_autograd, model)
    exact = step(parameters, batch, n_total=32)
    rounded = step(parameters, batch, n_total=32, dtype=torch.bfloat16)
    assert 0 < abs(rounded.loss - exact.loss) < 0.02
    for mine, theirs, p in zip(rounded.gradients, exact.gradients, parameters, strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        assert mine.stride() == theirs.stride() == p.stride()
        assert (mine - theirs).norm() < 0.25 * theirs.norm()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_autograds_step_is_the_written_out_one(channels, weighted):
    architecture = replace(COLOUR, image_shape=(channels, 22, 26))
    model, parameters, _, batch = example(9, architecture)
    weights = torch.rand(9, dtype=torch.float64) + 0.5 if weighted else None
    batch = replace(batch, targets=0.9 * batch.targets + 0.02, weights=weights)
    ours = by_autograd(model, parameters, batch, n_total=11)
    theirs = step_of(model)(parameters, batch, n_total=11)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-12, atol=0)
    assert torch.equal(ours.n_hits, theirs.n_hits)
    torch.testing.assert_close(ours.gradients, theirs.gradients, rtol=1e-9, atol=1e-13)
    assert all(g.stride() == p.stride() for g, p in zip(ours.gradients, parameters, strict=True))


def test_weights_of_images_are_those_of_cross_entropy():
    model, parameters, _, batch = example(9, COLOUR)
    weights = torch.rand(5, dtype=torch.float64)
    weighted = replace(batch, weights=weights[batch.labels])
    loss = F.cross_entropy(model(batch.x), batch.labels, weights, reduction="sum") / 9
    expected = torch.autograd.grad(loss, list(model.parameters()))
    found = step_of(model)(parameters, weighted, n_total=9)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gradients, expected, rtol=1e-9, atol=1e-13)


def test_hits_are_counted_by_class_and_every_class_has_a_count():
    model, parameters, _, batch = example(9, COLOUR)
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
    F.cross_entropy(model(x), labels).backward()
    for gradient, parameter in zip(found.gradients, model.parameters(), strict=True):
        expected = torch.zeros(2) if parameter is unused else parameter.grad
        torch.testing.assert_close(gradient, expected)


def test_convnet_brings_its_own_step():
    assert step_of(Convnet(Architecture())) is loss_and_gradients
