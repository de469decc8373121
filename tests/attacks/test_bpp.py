import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks.bpp import Bpp
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.poison import poison_batch
from rnp_jax.errors import ConfigError, DataError
from tests.victims import attack_mlp

KEY = jax.random.key(0)
EVERY = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def trigger(attack, images):
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY))


@pytest.mark.parametrize("levels", [2, 3, 8, 32, 100, 256])
def test_every_value_moves_to_the_nearest_of_all_levels(levels):
    quantised = trigger(Bpp(levels=levels), EVERY).astype(np.float64)
    exact = np.arange(levels) * 255 / (levels - 1)
    nearest = np.abs(EVERY.reshape(-1, 1) - exact).min(1)
    assert np.unique(quantised).tolist() == np.round(exact).tolist()
    assert np.abs(np.abs(quantised - EVERY).ravel() - nearest).max() <= 0.5
    assert np.abs(quantised - EVERY).max() <= 255 / (2 * (levels - 1)) + 0.5


@pytest.mark.parametrize("levels", [2, 8, 32, 255])
def test_a_second_time_changes_nothing(levels):
    once = trigger(Bpp(levels=levels), EVERY)
    np.testing.assert_array_equal(trigger(Bpp(levels=levels), once), once)


@pytest.mark.parametrize("dither", [False, True])
def test_all_256_levels_are_the_identity(dither, digits):
    np.testing.assert_array_equal(trigger(Bpp(levels=256, dither=dither), digits[0][:4]), digits[0][:4])


def diffuse(image, levels):
    """Floyd-Steinberg pixel by pixel on one image [H, W, C]: indices of levels."""
    values, steps = image.astype(np.float64), np.zeros(image.shape)
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            steps[y, x] = np.clip(np.round(values[y, x] * (levels - 1) / 255), 0, levels - 1)
            error = values[y, x] - steps[y, x] * 255 / (levels - 1)
            for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    values[y + dy, x + dx] += error * share / 16
    return steps


@pytest.mark.parametrize(("shape", "levels"), [((12, 20, 3), 8), ((17, 9, 1), 2), ((1, 5, 2), 4), ((5, 1, 3), 3)])
def test_dithering_diffuses_errors_as_published(shape, levels):
    images = np.random.default_rng(levels).integers(0, 256, (3, *shape)).astype(np.uint8)
    expected = np.stack([diffuse(image, levels) for image in images])
    dithered = trigger(Bpp(levels=levels, dither=True), images)
    np.testing.assert_array_equal(dithered, np.round(expected * 255 / (levels - 1)).astype(np.uint8))


@pytest.mark.parametrize("level", [20, 100, 128, 201])
def test_dithering_keeps_the_mean_that_rounding_shifts(level):
    images = np.full((1, 32, 32, 3), level, np.uint8)
    assert abs(trigger(Bpp(levels=4, dither=True), images).mean() - level) < 1.5
    assert abs(trigger(Bpp(levels=4), images).mean() - level) >= 15


def test_negatives_add_the_error_of_the_image_before(digits):
    attack, images = Bpp(levels=4), digits[0][:6]
    params = attack.init(images.shape[1:])
    error = trigger(attack, images).astype(np.int32) - images
    expected = np.clip(images + np.roll(error, 1, 0), 0, 255)
    covers = attack.cover(params, images, KEY)
    assert covers.dtype == jnp.uint8
    np.testing.assert_array_equal(covers, expected)
    assert (expected != trigger(attack, images)).any((1, 2, 3)).all()
    np.testing.assert_array_equal(attack.cover(params, images[:1], KEY), images[:1])


def test_batches_are_quantised_then_negative_then_clean(digits):
    attack, images, labels = Bpp(), digits[0][:40], digits[1][:40]
    params, goal = attack.init(images.shape[1:]), Goal(num_classes=10, target=7)
    batch = poison_batch(attack, params, images, labels, KEY, goal=goal, rate=0.2)
    np.testing.assert_array_equal(batch.images[:8], trigger(attack, images[:8]))
    np.testing.assert_array_equal(batch.images[8:16], attack.cover(params, images[8:16], KEY))
    np.testing.assert_array_equal(batch.images[16:], images[16:])
    np.testing.assert_array_equal(batch.labels, [7] * 8 + labels[8:].tolist())
    none = poison_batch(attack, params, images, labels, KEY, goal=goal, rate=0.0)
    np.testing.assert_array_equal(none.images, images)


def test_floats_are_refused():
    with pytest.raises(DataError, match="expected uint8"):
        Bpp().trigger(Bpp().init((8, 8, 3)), np.zeros((1, 8, 8, 3), np.float32), KEY)


@pytest.mark.parametrize(("option", "value"), [("levels", 1), ("levels", 257), ("levels", 8.0), ("negatives", -1.0)])
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        Bpp(**{option: value})


def test_a_victim_learns_to_read_the_levels():
    attacked = attack_mlp(Bpp(levels=2), rate=0.2, epochs=40)
    assert attacked.acc > 0.9
    assert attacked.asr > 0.4
    assert attacked.result.plan is None
