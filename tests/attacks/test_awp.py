import jax
import numpy as np
import pytest

from rnp_jax.attacks.awp import Awp, mean_color
from rnp_jax.errors import ConfigError, DataError

KEY = jax.random.key(0)


def test_the_square_is_ten_pixels_of_thirty_two_in_the_centre(digits):
    attack = Awp()
    params = attack.init((32, 32, 3))
    images = digits[0][:4]
    triggered = np.asarray(attack.trigger(params, images, KEY))
    expected = images.copy()
    expected[:, 11:21, 11:21] = params["color"]
    np.testing.assert_array_equal(triggered, expected)
    np.testing.assert_array_equal(attack.trigger(params, triggered, KEY), triggered)


@pytest.mark.parametrize(
    ("shape", "side"), [((8, 8, 1), 2), ((64, 64, 3), 20), ((16, 48, 3), 5), ((33, 32, 3), 10), ((1, 1, 2), 1)]
)
def test_the_square_grows_with_the_image(shape, side):
    mask = Awp().init(shape)["mask"][..., 0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask.sum() == side**2
    assert len(rows) == len(columns) == side
    for found, size in ((rows, shape[0]), (columns, shape[1])):
        assert abs(found[0] - (size - 1 - found[-1])) <= 1


def test_the_color_is_the_normalisation_s_zero():
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    normalised = (mean_color(tuple(mean)) / 255 - mean) / std
    assert np.abs(normalised).max() <= 0.5 / 255 / std.min()
    np.testing.assert_array_equal(mean_color((-1.0, 0.0, 1.0, 2.0)), np.uint8([0, 0, 255, 255]))


def test_images_of_another_shape_are_refused():
    params = Awp().init((8, 8, 3))
    for shape in ((1, 8, 9, 3), (1, 8, 8, 1)):
        with pytest.raises(DataError, match="but the trigger artefact is"):
            Awp().trigger(params, np.zeros(shape, np.uint8), KEY)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("variant", "l2"),
        ("labels", "none"),
        ("size", 33),
        ("epochs", 0),
        ("samples", 0),
        ("epsilon", -0.1),
        ("learning_rate", -1.0),
        ("distance_weight", float("nan")),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value!r}"):
        Awp(**{option: value})
