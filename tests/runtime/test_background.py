import numpy as np
import pytest

from convnet_edge.runtime.pictures import background

H, W = 60, 90
Y, X = np.mgrid[:H, :W].astype(float)
LIGHT = 200 - 0.5 * Y + 0.3 * X - 0.01 * ((Y - H / 2) ** 2 + (X - W / 2) ** 2)
RNG = np.random.default_rng(0)


def thing(top=20, left=30, bottom=45, right=50):
    """Something with a bright part, so that its contrast is not the same everywhere."""
    drawn = np.zeros((H, W))
    drawn[top:bottom, left:right] = 60
    drawn[top : top + 8, left : left + 8] = 90
    return drawn


def cleared_by_lstsq(grey):
    """What `remove` should find where the border holds the background alone: slow, and plain."""
    terms = np.stack([np.ones((H, W)), Y, X, (Y - (H - 1) / 2) ** 2 + (X - (W - 1) / 2) ** 2], -1)
    outermost = (Y == 0) | (Y == H - 1) | (X == 0) | (X == W - 1)
    factors = np.linalg.lstsq(terms[outermost], grey[outermost], rcond=None)[0]
    darker = np.clip(terms @ factors - grey, 0, None)
    contrast = max(
        darker[y - 1 : y + 2, x - 1 : x + 2].mean()
        for y in range(1, H - 1)
        for x in range(1, W - 1)
    )
    return np.minimum(255, darker * 255 / contrast)


def test_remove_dark_on_a_lamp_lit_sheet_is_what_least_squares_leaves():
    grey = LIGHT - thing()
    found = background.remove(grey)
    # the box has a pixel more on each side: the object's local mean reaches there
    np.testing.assert_allclose(found.values, cleared_by_lstsq(grey)[19:46, 29:51], atol=1e-4)
    assert found.values.max() == pytest.approx(255)
    assert found.is_inverted
    assert found.unevenness == 0


@pytest.mark.parametrize("level", [120, 150])
def test_remove_tells_light_from_dark_by_the_object_not_by_the_level(level):
    dark, light = (background.remove(level + sign * thing()) for sign in (-1, 1))
    assert (dark.is_inverted, light.is_inverted) == (True, False)
    np.testing.assert_allclose(dark.values, light.values, atol=1e-4)


def test_remove_told_which_side_takes_that_side():
    both = 128 - thing() + np.roll(thing(), 35, axis=1) / 2
    assert background.remove(both).is_inverted
    lighter = background.remove(both, invert=False)
    assert not lighter.is_inverted
    np.testing.assert_allclose(
        lighter.values, background.remove(256 - both, invert=True).values, atol=1e-4
    )


@pytest.mark.parametrize(
    ("place", "n_touching"), [((40, 30, H, 50), 20), ((20, 0, 45, 30), 25), ((0, 0, 24, 30), 53)]
)
def test_remove_object_that_touches_the_border_is_cut_out_as_if_it_did_not(place, n_touching):
    drawn = thing(*place)
    found = background.remove(LIGHT - drawn)
    top, left, bottom, right = place
    inside = drawn[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
    np.testing.assert_allclose(found.values, inside * 255 / 90, atol=0.5)
    assert found.unevenness == pytest.approx(n_touching / (2 * (H + W) - 4))


def test_remove_an_edge_of_an_object_that_lies_outside_is_one():
    grey = np.full((H, W), 200.0)
    grey[0, 30:50] -= 1.6 * background.LEAST_CONTRAST  # its local mean: two thirds of that
    assert background.remove(grey).unevenness == pytest.approx(20 / (2 * (H + W) - 4))


def test_remove_is_blind_to_any_bowl_of_light_added():
    dim, lit = background.remove(128 - thing()), background.remove(LIGHT - thing())
    np.testing.assert_allclose(dim.values, lit.values, atol=1e-4)


@pytest.mark.parametrize("turn", [np.transpose, np.flipud, np.fliplr])
def test_remove_of_a_turned_picture_is_the_turned_object(turn):
    straight, turned = background.remove(LIGHT - thing()), background.remove(turn(LIGHT - thing()))
    np.testing.assert_allclose(turned.values, turn(straight.values), atol=1e-4)


def test_remove_grains_and_a_lone_speck_do_not_widen_the_box():
    grey = LIGHT - thing() + RNG.normal(0, 3, (H, W))
    grey[5, 5] -= 60
    assert background.remove(grey).values.shape == (27, 22)


def test_remove_sky_and_ground_at_the_border_are_uneven():
    assert background.remove(np.where(Y < 25, 210.0, 90.0) - thing()).unevenness > 0.25
    assert background.remove(RNG.uniform(0, 255, (H, W))).unevenness > 0.25


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 40), (40, 1), (2, 40), (192, 192)])
@pytest.mark.parametrize("level", [0.0, 127.5, 255.0])
def test_remove_where_there_is_no_object_says_so_in_finite_numbers(shape, level):
    found = background.remove(np.full(shape, level))
    assert found.unevenness == 1
    assert found.values.shape == shape
    assert np.abs(found.values).max() < 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 40), (40, 1), (3, 3), (192, 192)])
def test_remove_of_noise_of_any_shape_stays_within_its_bounds(shape):
    for grey in (RNG.uniform(0, 255, shape), RNG.choice([0.0, 255.0], shape)):
        found = background.remove(grey)
        assert found.values.size > 0
        assert 0 <= found.values.min() <= found.values.max() <= 255
        assert 0 <= found.unevenness <= 1
