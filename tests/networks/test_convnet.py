import numpy as np
import pytest
import torch
from torch import nn

from convnet_edge.networks.convnet import (
    Architecture,
    Convnet,
    compute_logits,
    fold_normalization,
    hidden_activity,
    reference_logits,
)
from convnet_edge.networks.operations import count
from convnet_edge.runtime.errors import InputError


def test_layers_are_the_tutorials_in_order_and_by_name():
    net = Convnet(Architecture())
    assert [type(layer) for layer in net.layer_stack] == [
        nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Conv2d, nn.ReLU, nn.MaxPool2d,
        nn.Flatten, nn.Linear, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    assert list(net.state_dict()) == [
        f"layer_stack.{i}.{kind}" for i in (0, 3, 7, 9) for kind in ("weight", "bias")
    ]


@pytest.mark.parametrize(
    "architecture",
    [
        *(Architecture(kernel_size=size) for size in (1, 3, 5)),
        Architecture((3, 32, 32), n_classes=7),
        Architecture((2, 17, 40), 2, n_classes=7),
        *(Architecture(width=width) for width in (0.1, 0.5, 2.0)),
    ],
)
def test_parameter_formula_equals_the_count(architecture):
    net = Convnet(architecture)
    assert sum(p.numel() for p in net.parameters()) == architecture.n_parameters
    assert net(torch.zeros(2, *architecture.image_shape)).shape == (2, architecture.n_classes)
    assert net.layer_stack[3].out_channels == round(64 * architecture.width)
    assert net.layer_stack[9].in_features == round(128 * architecture.width)


def test_multiplications_by_hand():
    whole, half = Architecture(), Architecture(width=0.5)
    assert whole.n_parameters == 225_034
    assert whole.needed_sides == (26, 26)
    by_hand = 24 * 24 * 9 * 32, 10 * 10 * 9 * 32 * 64, 5 * 5 * 64 * 128, 128 * 10
    found, fewer = (count(Convnet(one), (1, *one.needed_sides)) for one in (whole, half))
    assert found.n_multiplications == sum(by_hand)
    assert found.n_training == 2 * (3 * sum(by_hand) - by_hand[0])
    ratio = found.n_multiplications / fewer.n_multiplications
    assert ratio == pytest.approx(3.7, abs=0.1)


def test_largest_kernel_that_fits_is_accepted_and_a_larger_one_refused():
    assert Convnet(Architecture(kernel_size=9)).architecture.feature_sides == (1, 1)
    for image_shape in ((1, 27, 28), (1, 28, 27)):
        with pytest.raises(InputError, match="leaves nothing"):
            Architecture(image_shape, kernel_size=9)
    for kernel_size in (0, 10, 3.0, True, "3"):
        with pytest.raises(InputError, match="kernel_size="):
            Architecture(kernel_size=kernel_size)
    for width in (0, -1.0, 5, float("nan"), "1"):
        with pytest.raises(InputError, match="width="):
            Architecture(width=width)


@pytest.mark.parametrize(
    ("kernel_size", "mean", "deviation"),
    [
        *((kernel_size, [0.286], [0.353]) for kernel_size in (1, 3, 5)),
        (3, [0.1, 0.5, 0.9], [0.3, 0.02, 1.0]),
    ],
)
def test_folded_normalization_is_exact(kernel_size, mean, deviation):
    torch.manual_seed(0)
    model = Convnet(Architecture((len(mean), 28, 28), kernel_size)).double()
    x = torch.rand(20, len(mean), 28, 28, dtype=torch.float64)
    means, deviations = (torch.tensor(v).double()[:, None, None] for v in (mean, deviation))
    expected = model((x - means) / deviations)
    fold_normalization(model, means.flatten().tolist(), deviations.flatten().tolist())
    torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=1e-11)


def test_logits_of_rgb_pixels_are_those_of_their_planes_one_by_one():
    net = Convnet(Architecture((3, 40, 52), n_classes=4))
    images = np.random.default_rng(0).integers(0, 256, (53, 40, 52, 3), dtype=np.uint8)
    images.flags.writeable = False  # as of a file that is mapped
    found = compute_logits(net, images, torch.float64)
    for image, logits in zip(images, found, strict=True):
        planes = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))[None].double()
        expected = net.double()(planes)[0].detach().numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-12)


def test_reference_logits_are_float64s_and_float32s_and_leave_weights_bit_equal(test_set):
    net = Convnet(Architecture())
    before = {name: t.clone() for name, t in net.state_dict().items()}
    exact, rounded = reference_logits(net, test_set.images[:300])
    assert exact.dtype == "float64"
    assert rounded.dtype == "float32"
    assert 0 < abs(exact - rounded).max() < 1e-5
    assert np.array_equal(rounded, compute_logits(net, test_set.images[:300], torch.float32))
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_hidden_activity_is_what_the_layer_gives(test_set):
    net = Convnet(Architecture())
    active = hidden_activity(net, test_set.images[:9])
    hidden = torch.from_numpy(test_set.images[:9].copy())[:, None] / 255
    for layer in list(net.layer_stack)[:-1]:
        hidden = layer(hidden)
    assert (active == (hidden > 0).numpy()).all()
    assert active.shape == (9, 128)
