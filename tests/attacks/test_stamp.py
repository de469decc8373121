import jax
import numpy as np
import pytest

from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.stamp import Stamp
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
SHAPE = (8, 9, 3)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, *SHAPE), np.uint8)
PATTERN = RNG.integers(0, 256, SHAPE, np.uint8)


def released(images, pattern, mask=None):
    """I-BAU's ``patching`` in its own arithmetic, on images in [0, 1]; to 8 bits afterwards."""
    left = images / 255 if mask is None else images / 255 * (1 - mask)
    return np.round(255 * np.clip(left + pattern / 255, 0, 1)).astype(np.uint8)


def test_a_picture_is_added_and_clipped():
    found = Stamp().trigger({"pattern": PATTERN}, IMAGES, KEY)
    np.testing.assert_array_equal(found, np.minimum(IMAGES.astype(int) + PATTERN, 255))
    np.testing.assert_array_equal(found, released(IMAGES, PATTERN))


@pytest.mark.parametrize("weights", [np.float32([0, 1]), np.float32([0.3141, 0.7183])])
def test_a_picture_is_added_to_what_the_mask_leaves(weights):
    mask = RNG.choice(weights, SHAPE)
    found = Stamp(variant="paste").trigger({"pattern": PATTERN, "mask": mask}, IMAGES, KEY)
    np.testing.assert_array_equal(found, released(IMAGES, PATTERN, mask))


def test_the_white_square_is_that_of_badnets():
    """Rows and columns 27 to 30, as ``output[32 - 1 - 4:32 - 1, 32 - 1 - 4:32 - 1] = 1``."""
    params = BadNets(variant="square", size=4).init((32, 32, 3))
    expected = np.zeros((32, 32, 3), np.uint8)
    expected[27:31, 27:31] = 255
    np.testing.assert_array_equal(params["pattern"], expected)
    images = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    mask = np.broadcast_to(params["mask"], (32, 32, 3)).astype(np.float32)
    pasted = Stamp(variant="paste").trigger({"pattern": params["pattern"], "mask": mask}, images, KEY)
    square = BadNets(variant="square", size=4).trigger(params, images, KEY)
    np.testing.assert_array_equal(pasted, square)
    np.testing.assert_array_equal(Stamp().trigger({"pattern": params["pattern"]}, images, KEY), square)


def test_what_is_drawn_is_faint_or_of_few_pixels():
    added = Stamp().init(SHAPE)
    assert added.keys() == {"pattern"}
    assert 32 < added["pattern"].max() < 64
    pasted = Stamp(variant="paste", pixels=5).init(SHAPE)
    where = pasted["mask"].any(-1)
    assert where.sum() == 5
    np.testing.assert_array_equal(pasted["mask"], np.repeat(where[:, :, None], 3, 2))
    assert set(np.unique(pasted["pattern"])) == {0, 255}
    assert not pasted["pattern"][~where].any()
    for variant in ("add", "paste"):
        first, second = (Stamp(variant=variant, seed=seed).init(SHAPE)["pattern"] for seed in (0, 1))
        assert (first != second).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "mix"}, "variant is 'mix', expected one of add, paste"),
        ({"pixels": 0}, "pixels is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_constants_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Stamp(**options)


def test_more_pixels_than_the_image_has_are_refused():
    with pytest.raises(ConfigError, match="pixels is 73, expected at most 72, all of an image"):
        Stamp(variant="paste", pixels=73).init(SHAPE)
