import pytest
import torch
from torch import nn

from convnet_edge.networks import convnet as model
from convnet_edge.runtime.errors import InputError


def test_layers_are_the_seeds_in_order_and_by_name():
    net = model.Convnet()
    assert [type(layer) for layer in net.layer_stack] == [
        nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Conv2d, nn.ReLU, nn.MaxPool2d,
        nn.Flatten, nn.LazyLinear, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    built = model.build_convnet((1, 28, 28))
    assert list(built.state_dict()) == [
        f"layer_stack.{i}.{kind}" for i in (0, 3, 7, 9) for kind in ("weight", "bias")
    ]


def test_lazy_linear_has_no_count_before_the_dummy_batch():
    net = model.Convnet()
    with pytest.raises(ValueError, match="uninitialized parameter"):
        model.count_parameters(net)
    model.materialize(net, (1, 28, 28))
    assert model.count_parameters(net) == 225_034


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((1, 28, 28), 1), ((1, 28, 28), 3), ((1, 28, 28), 5), ((3, 32, 32), 3), ((2, 17, 40), 2)],
)
def test_parameter_formula_equals_the_count(shape, kernel):
    net = model.build_convnet(shape, kernel_size=kernel, n_classes=7)
    formula = model.parameter_formula(shape, kernel_size=kernel, n_classes=7)
    assert model.count_parameters(net) == formula
    assert net(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("width", [0.1, 0.5, 1.0, 2.0])
def test_width_scales_every_layer(width):
    net = model.build_convnet((1, 28, 28), width=width)
    assert model.count_parameters(net) == model.parameter_formula((1, 28, 28), width=width)
    assert net.layer_stack[3].out_channels == round(64 * width)
    assert net.layer_stack[9].in_features == round(128 * width)


def test_needed_multiplications_by_hand():
    assert model.needed_sides((1, 28, 28), 3) == (26, 26)
    assert model.needed_multiplications((1, 28, 28)) == (
        24 * 24 * 9 * 32, 10 * 10 * 9 * 32 * 64, 5 * 5 * 64 * 128, 128 * 10,
    )  # fmt: skip
    half = sum(model.needed_multiplications((1, 28, 28), width=0.5))
    assert sum(model.needed_multiplications((1, 28, 28))) / half == pytest.approx(3.7, abs=0.1)


@pytest.mark.parametrize("kernel", [10, 28, 100])
def test_kernel_that_leaves_nothing_is_an_input_error(kernel):
    with pytest.raises(InputError, match="leaves nothing"):
        model.build_convnet((1, 28, 28), kernel_size=kernel)


def test_largest_kernel_that_fits_is_accepted():
    assert model.feature_sides((1, 28, 28), 9) == (1, 1)
    model.build_convnet((1, 28, 28), kernel_size=9)


def test_compute_logits_leaves_weights_bit_equal(test_set):
    net = model.build_convnet((1, 28, 28))
    before = {name: t.clone() for name, t in net.state_dict().items()}
    exact = model.compute_logits(net, test_set.images[:700], torch.float64)
    rounded = model.compute_logits(net, test_set.images[:700], torch.float32)
    assert exact.dtype == "float64"
    assert 0 < abs(exact - rounded).max() < 1e-5
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_hidden_activity_is_what_the_layer_gives(test_set):
    net = model.build_convnet((1, 28, 28))
    active = model.hidden_activity(net, test_set.images[:9])
    x = torch.from_numpy(test_set.images[:9].copy())[:, None] / 255
    hidden = x
    for layer in list(net.layer_stack)[:-1]:
        hidden = layer(hidden)
    assert (active == (hidden > 0).numpy()).all()
    assert active.shape == (9, 128)
