"""The written-out step against autograd on the tutorial's own layers."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from convnet_edge.networks import convnet_gradients
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.networks.convnet_gradients import loss_and_gradients
from convnet_edge.networks.gradients import Batch
from convnet_edge.training.distributed import Processes


def example(n, architecture=Architecture(), dtype=torch.float64):  # noqa: B008 - frozen
    """Return a network, its parameters, whole images and their batch as the step sees it."""
    torch.manual_seed(3)
    model = Convnet(architecture).to(dtype).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(n, *architecture.image_shape, generator=generator, dtype=dtype)
    x[:, :, : x.shape[2] // 2] = 0  # as in the data: equal neighbours, so ties in the pooling
    labels = torch.randint(architecture.n_classes, (n,), generator=generator)
    height, width = architecture.needed_sides
    targets = torch.eye(architecture.n_classes, dtype=dtype)[labels]
    parameters = [p.detach() for p in model.parameters()]
    return model, parameters, x, Batch(x[:, :, :height, :width], labels, targets)


def by_autograd(model, x, labels, label_smoothing=0.0, keep=None):
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
def test_loss_and_gradients_on_the_crop_are_autograds_on_the_image(architecture, n):
    model, parameters, x, batch = example(n, architecture)
    loss, logits, gradients = by_autograd(model, x, batch.labels)
    ours = loss_and_gradients(parameters, batch, n_total=n)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-12, atol=0)
    assert ours.n_hits.sum() == (logits.argmax(1) == batch.labels).sum()
    torch.testing.assert_close(ours.gradients, gradients, rtol=1e-9, atol=1e-13)


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


def test_smoothing_and_dropout_are_autograds():
    model, parameters, x, batch = example(20)
    keep = (torch.rand(20, 128, generator=torch.Generator().manual_seed(1)) > 0.3) / 0.7
    loss, _, gradients = by_autograd(model, x, batch.labels, 0.2, keep.double())
    smooth = Batch(batch.x, batch.labels, 0.8 * batch.targets + 0.02, keep)
    ours = loss_and_gradients(parameters, smooth, n_total=20)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-7, atol=0)  # keep is float32
    torch.testing.assert_close(ours.gradients, gradients, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "size"), [(64, 2), (32, 3), (3, 4)])
def test_shares_of_a_batch_add_up_to_the_batch(n, size):
    _, parameters, _, batch = example(n, dtype=torch.float32)
    whole = loss_and_gradients(parameters, batch, n_total=n)
    bounds = [Processes(rank, size).share(0, n) for rank in range(size)]
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
def test_bf16_is_near_float32_and_gives_gradients_like_the_parameters():
    _, parameters, _, batch = example(32, dtype=torch.float32)
    exact = loss_and_gradients(parameters, batch, n_total=32)
    rounded = loss_and_gradients(parameters, batch, n_total=32, dtype=torch.bfloat16)
    assert 0 < abs(rounded.loss - exact.loss) < 0.02
    for mine, theirs, p in zip(rounded.gradients, exact.gradients, parameters, strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        assert mine.stride() == theirs.stride() == p.stride()
        assert (mine - theirs).norm() < 0.25 * theirs.norm()
