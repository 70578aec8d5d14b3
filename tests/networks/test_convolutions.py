"""Convolutions by other calls than oneDNN's: their sums are the same."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from convnet_edge.networks import convolutions
from convnet_edge.networks.convolutions import ProductsOverFewPlaces
from convnet_edge.networks.gradients import Batch, by_autograd


def gradients(layer, x):
    layer.zero_grad()
    x.grad = None
    outputs = layer(x)
    outputs.float().square().sum().backward()
    return [outputs, x.grad, *(p.grad for p in layer.parameters())]


@pytest.fixture
def products(monkeypatch):
    """Count the weights' gradients that were found as products."""
    found = []

    def count(*arguments):
        found.append(1)
        return by_product(*arguments)

    monkeypatch.setattr(convolutions, "FEWEST_PRODUCTS", 0)
    by_product = convolutions.weight_gradient
    monkeypatch.setattr(convolutions, "weight_gradient", count)
    return found


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "bias": False},
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)},
        {"kernel_size": 1},
    ],
)
def test_gradients_over_few_places_are_autograds_own(arguments, memory_format, products):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, **arguments).double().to(memory_format=memory_format)
    x = torch.randn(5, 4, 7, 8).double().to(memory_format=memory_format).requires_grad_()
    expected = gradients(layer, x)
    with ProductsOverFewPlaces():
        found = gradients(layer, x)
    torch.testing.assert_close(found, expected)
    assert len(products) == 1


def test_in_bfloat16_the_gradients_are_near_and_in_the_parameters_dtype(products):
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 8, 3, padding=1)
    x = torch.randn(5, 16, 6, 6, requires_grad=True)
    expected = gradients(layer, x)
    with torch.autocast("cpu", torch.bfloat16), ProductsOverFewPlaces():
        outputs, *found = gradients(layer, x)
    assert outputs.dtype == torch.bfloat16
    for mine, exact in zip(found, expected[1:], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - exact).abs().max() < 0.02 * exact.abs().max()
    assert len(products) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 2, "padding": 1},
        {"dilation": 2},
        {"padding": "same"},
        {"padding": 3, "stride": 1},  # over 12 x 12 places
    ],
)
def test_other_convolutions_are_left_alone(arguments, products, monkeypatch):
    monkeypatch.setattr(convolutions, "MOST_PLACES", 2 * 8 * 8)
    layer = nn.Conv2d(4, 6, 3, **arguments)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    expected = gradients(layer, x)
    with ProductsOverFewPlaces():
        torch.testing.assert_close(gradients(layer, x), expected, rtol=0, atol=0)
        F.conv2d(x[0], layer.weight, groups=layer.groups)  # an image without a batch
    assert not products


def test_small_convolutions_are_left_alone(products, monkeypatch):
    layer = nn.Conv2d(4, 6, 3, padding=1)
    monkeypatch.setattr(convolutions, "FEWEST_PRODUCTS", 2 * 8 * 8 * layer.weight.numel() + 1)
    with ProductsOverFewPlaces():
        gradients(layer, torch.randn(2, 4, 8, 8, requires_grad=True))
    assert not products


def test_a_step_in_bfloat16_takes_products_and_one_in_float32_does_not(products):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    parameters = [p.detach() for p in model.parameters()]
    labels = torch.arange(4)
    batch = Batch(torch.rand(4, 3, 8, 8), labels, torch.eye(4))
    for dtype, n in ((None, 0), (torch.bfloat16, 1)):
        by_autograd(model, parameters, batch, n_total=4, dtype=dtype)
        assert len(products) == n


def test_frozen_convolution_has_no_gradient_to_find(products):
    layer = nn.Conv2d(4, 6, 3).requires_grad_(requires_grad=False)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with ProductsOverFewPlaces():
        F.conv2d(input=layer(x), weight=torch.ones(1, 6, 1, 1, requires_grad=True)).sum().backward()
    assert x.grad is not None
    assert len(products) == 1


def test_depthwise_layers_pad_what_is_narrower_than_their_window_and_compute_the_same():
    torch.manual_seed(0)
    deep = [nn.Conv2d(4, 4, 5, padding=2, groups=4) for _ in range(2)]
    model = nn.Sequential(deep[0], nn.MaxPool2d(3), deep[1], nn.Conv2d(4, 4, 5, padding=2))
    x = torch.randn(3, 4, 10, 9, requires_grad=True)

    def found():
        model.zero_grad()
        model(x).square().sum().backward()
        return [model(x), *(p.grad for p in model.parameters())]

    expected = found()
    convolutions.pad_first(model, torch.zeros(2, 4, 10, 9))
    assert [layer.padding_mode for layer in model if isinstance(layer, nn.Conv2d)] == [
        "zeros", "constant", "zeros",
    ]  # fmt: skip
    torch.testing.assert_close(found(), expected)
