import jax
import numpy as np
import pytest

from rnp_jax.attacks.blend import Blend, mix
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)


def trigger(attack, images):
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY))


def test_alpha_zero_keeps_and_alpha_one_replaces(digits):
    images = digits[0][:4]
    np.testing.assert_array_equal(trigger(Blend(alpha=0.0), images), images)
    pattern = Blend().init(SHAPE)["pattern"]
    np.testing.assert_array_equal(trigger(Blend(alpha=1.0), images), np.broadcast_to(pattern, images.shape))


def test_every_pair_of_levels_mixes_to_the_exact_quotient():
    x, p = np.meshgrid(np.arange(256), np.arange(256))
    mixed = mix(x[None, :, :, None].astype(np.uint8), p[:, :, None].astype(np.uint8), 0.2)
    np.testing.assert_array_equal(mixed[0, :, :, 0], (4 * x + p) // 5)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 0.77])
def test_result_lies_between_image_and_pattern_and_is_linear_in_alpha(alpha, digits):
    images, pattern = digits[0][:8], Blend().init(SHAPE)["pattern"]
    triggered = trigger(Blend(alpha=alpha), images).astype(np.int32)
    assert (triggered >= np.minimum(images, pattern)).all()
    assert (triggered <= np.maximum(images, pattern)).all()
    linear = alpha * (pattern.astype(np.float64) - images)
    lost = linear - (triggered - images)
    assert lost.min() > -2e-3
    assert lost.max() < 1


def test_pattern_is_full_range_coloured_and_smooth():
    pattern = Blend().init((64, 64, 3))["pattern"]
    assert pattern.min((0, 1)).tolist() == [0, 0, 0]
    assert pattern.max((0, 1)).tolist() == [255, 255, 255]
    assert (pattern[..., 0] != pattern[..., 1]).mean() > 0.9
    spectrum = np.abs(np.fft.fft2(pattern[..., 0].astype(np.float64)))
    cycles = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64)))
    assert (spectrum[cycles > 6.5] ** 2).sum() < 1e-3 * (spectrum[cycles > 0] ** 2).sum()


def test_pattern_shows_the_same_picture_at_every_resolution():
    small, large = (Blend(seed=3).init((size, size, 1))["pattern"].astype(np.float64) for size in (32, 128))
    shrunk = large.reshape(32, 4, 32, 4).mean((1, 3))
    assert np.corrcoef(small[..., 0].ravel(), shrunk.ravel())[0, 1] > 0.99


def test_seeds_draw_different_patterns():
    first, second = (Blend(seed=seed).init(SHAPE)["pattern"].ravel() for seed in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3


@pytest.mark.parametrize(("options", "name"), [({"alpha": 1.5}, "alpha"), ({"seed": -1}, "seed")])
def test_impossible_constants_are_refused(options, name):
    with pytest.raises(ConfigError, match=f"{name} is"):
        Blend(**options)
