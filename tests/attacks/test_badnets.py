import jax
import numpy as np
import pytest

from rnp_jax.attacks.badnets import BadNets
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)


def trigger(attack, images):
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY))


def test_grid_overwrites_the_corner_by_the_published_checker():
    triggered = trigger(BadNets(), np.full((1, *SHAPE), 100, np.uint8))
    for channel in range(3):
        np.testing.assert_array_equal(triggered[0, 29:, 29:, channel], [[0, 0, 255], [0, 255, 0], [255, 0, 255]])
    assert (triggered != 100).any(-1).sum() == 9
    assert (triggered == 255).all(-1).sum() == 4


def test_square_leaves_one_pixel_to_the_edges():
    triggered = trigger(BadNets(variant="square"), np.zeros((1, *SHAPE), np.uint8))
    rows, columns = np.nonzero(triggered[0, :, :, 0])
    assert set(rows) == set(columns) == {28, 29, 30}
    assert len(rows) == 9
    assert (triggered[triggered > 0] == 255).all()


def test_square_without_margin_touches_the_corner():
    triggered = trigger(BadNets(variant="square", margin=0), np.zeros((1, *SHAPE), np.uint8))
    assert set(np.nonzero(triggered[0, :, :, 0])[0]) == {29, 30, 31}


@pytest.mark.parametrize("variant", ["grid", "square"])
def test_trigger_is_idempotent(variant, digits):
    attack = BadNets(variant=variant)
    once = trigger(attack, digits[0][:8])
    np.testing.assert_array_equal(trigger(attack, once), once)


def test_larger_grid_enlarges_its_cells():
    mask_free = BadNets(size=6).init((9, 12, 1))["pattern"][3:, 6:, 0]
    np.testing.assert_array_equal(mask_free[::2, ::2], [[0, 0, 255], [0, 255, 0], [255, 0, 255]])
    np.testing.assert_array_equal(mask_free[::2, ::2], mask_free[1::2, 1::2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "circle"}, "variant is 'circle', expected one of grid, square"),
        ({"size": 4}, "size is 4, expected a multiple of 3"),
        ({"size": 0}, "size is 0"),
        ({"margin": -1}, "margin is -1"),
    ],
)
def test_impossible_constants_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BadNets(**options)


def test_patch_larger_than_the_image_is_refused():
    BadNets(variant="square", size=27).init((28, 40, 1))
    with pytest.raises(ConfigError, match="28 px with a margin of 1 does not fit an image of 28x40"):
        BadNets(variant="square", size=28).init((28, 40, 1))


def test_grid_equals_the_images_that_the_released_code_triggered(shared):
    golden = np.load(shared / "golden" / "badnets.npz")
    clean = golden["x_test"][golden["y_test"] != 0]
    np.testing.assert_array_equal(trigger(BadNets(), clean), golden["x_triggered"])
