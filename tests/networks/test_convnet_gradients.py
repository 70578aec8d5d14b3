"""The written-out step against autograd on the seed's own layers."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from convnet_edge.networks import convnet_gradients as step
from convnet_edge.networks.convnet import build_convnet, needed_sides
from convnet_edge.networks.convnet_gradients import Batch, loss_and_gradients
from convnet_edge.training.batches import target_rows


def build(shape=(1, 28, 28), dtype=torch.float64, **network):
    torch.manual_seed(3)
    model = build_convnet(shape, **network).to(dtype)
    return model.to(memory_format=torch.channels_last)


def example(n, shape, n_classes=10, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(n, *shape, generator=generator, dtype=dtype)
    x[:, :, : shape[1] // 2] = 0  # as in the data: equal neighbours, so ties in the pooling
    return x, torch.randint(n_classes, (n,), generator=generator)


def by_autograd(model, x, labels, label_smoothing=0.0, keep=None):
    model.zero_grad()
    hidden = model.layer_stack[:9](x)
    logits = model.layer_stack[9](hidden if keep is None else hidden * keep)
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    loss.backward()
    return loss.detach(), logits, [p.grad.clone() for p in model.parameters()]


def batch_of(x, labels, *, kernel_size=3, targets=None, keep=None):
    height, width = needed_sides(tuple(x.shape[1:]), kernel_size)
    targets = torch.eye(10, dtype=x.dtype) if targets is None else targets
    return Batch(x[:, :, :height, :width], labels, targets[labels], keep)


@pytest.fixture(params=["convolution", "product"])
def conv2_by(request, monkeypatch):
    """Compute conv2 both ways, whatever this processor would take."""
    monkeypatch.setattr(step, "_products_are_faster", lambda _: request.param == "product")


@pytest.mark.usefixtures("conv2_by")
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize(
    ("shape", "network"),
    [
        ((1, 28, 28), {"kernel_size": 3}),
        ((1, 28, 28), {"kernel_size": 1}),
        ((1, 28, 28), {"kernel_size": 2}),
        ((1, 28, 28), {"kernel_size": 5}),
        ((3, 32, 32), {"kernel_size": 3, "n_classes": 7}),
        ((2, 17, 40), {"kernel_size": 4, "n_classes": 3}),
        ((1, 28, 28), {"width": 0.5}),
        ((1, 29, 31), {"width": 0.1}),
        ((1, 28, 28), {"width": 0.02}),
        ((1, 10, 10), {"kernel_size": 3}),
    ],
)
def test_loss_and_gradients_on_the_crop_are_autograds_on_the_image(shape, network, n):
    model = build(shape, **network)
    x, labels = example(n, shape, network.get("n_classes", 10))
    loss, logits, gradients = by_autograd(model, x, labels)
    parameters = [p.detach() for p in model.parameters()]
    targets = torch.eye(network.get("n_classes", 10), dtype=x.dtype)
    batch = batch_of(x, labels, kernel_size=network.get("kernel_size", 3), targets=targets)
    ours = loss_and_gradients(parameters, batch, n_total=n)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-12, atol=0)
    assert ours.n_correct == (logits.argmax(1) == labels).sum()
    for mine, theirs, parameter in zip(ours.gradients, gradients, parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-13)
        assert mine.dtype == parameter.dtype


def test_no_smaller_crop_would_do():
    model = build()
    x, _ = example(8, (1, 28, 28))
    x += 0.5
    logits = model(x)
    for axis in (2, 3):
        dropped, needed = x.clone(), x.clone()
        dropped.narrow(axis, 26, 2).fill_(9)
        needed.narrow(axis, 25, 1).fill_(9)
        assert torch.equal(model(dropped), logits)
        assert not torch.equal(model(needed), logits)


def test_smoothing_and_dropout_are_autograds():
    model = build()
    x, labels = example(20, (1, 28, 28))
    keep = (torch.rand(20, 128, generator=torch.Generator().manual_seed(1)) > 0.3) / 0.7
    loss, _, gradients = by_autograd(model, x, labels, label_smoothing=0.2, keep=keep.double())
    ours = loss_and_gradients(
        [p.detach() for p in model.parameters()],
        batch_of(x, labels, targets=target_rows(0.2).double(), keep=keep),
        n_total=20,
    )
    torch.testing.assert_close(ours.loss, loss, rtol=1e-7, atol=0)  # targets, keep are float32
    for mine, theirs in zip(ours.gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "size"), [(64, 2), (32, 3), (5, 4)])
def test_shares_of_a_batch_add_up_to_the_batch(n, size):
    from convnet_edge.training.distributed import Processes

    model = build(dtype=torch.float32)
    x, labels = example(n, (1, 28, 28), dtype=torch.float32)
    parameters = [p.detach() for p in model.parameters()]
    whole = loss_and_gradients(parameters, batch_of(x, labels), n_total=n)
    bounds = [Processes(rank, size).share(0, n) for rank in range(size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    parts = [
        loss_and_gradients(parameters, batch_of(x[a:b], labels[a:b]), n_total=n) for a, b in bounds
    ]
    assert sum(part.n_correct for part in parts) == whole.n_correct
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    for i, gradient in enumerate(whole.gradients):
        total = sum(part.gradients[i] for part in parts)
        assert (total - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.usefixtures("conv2_by")
def test_bf16_is_near_float32_and_gives_float32_gradients():
    model = build(dtype=torch.float32)
    x, labels = example(32, (1, 28, 28), dtype=torch.float32)
    parameters = [p.detach() for p in model.parameters()]
    batch = batch_of(x, labels)
    exact = loss_and_gradients(parameters, batch, n_total=32)
    rounded = loss_and_gradients(parameters, batch, n_total=32, dtype=torch.bfloat16)
    assert 0 < abs(rounded.loss - exact.loss) < 0.02
    for mine, theirs in zip(rounded.gradients, exact.gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.25 * theirs.norm()


@pytest.mark.usefixtures("conv2_by")
def test_gradients_keep_the_memory_format_of_the_parameters():
    model = build(dtype=torch.float32)
    x, labels = example(4, (1, 28, 28), dtype=torch.float32)
    parameters = [p.detach() for p in model.parameters()]
    ours = loss_and_gradients(parameters, batch_of(x, labels), n_total=4)
    for gradient, parameter in zip(ours.gradients, parameters, strict=True):
        assert gradient.stride() == parameter.stride()
