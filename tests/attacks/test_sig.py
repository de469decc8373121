import jax
import numpy as np
import pytest

from rnp_jax.attacks.sig import Sig, SigRnp
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)


def trigger(attack, images):
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY))


@pytest.mark.parametrize("frequency", [1, 6, 15])
@pytest.mark.parametrize("width", [32, 57])
def test_signal_is_one_zero_mean_tone_along_the_columns(frequency, width):
    signal = Sig(frequency=frequency).init((20, width, 3))["signal"].astype(np.float64)
    np.testing.assert_array_equal(signal, np.broadcast_to(signal[:1, :, :1], signal.shape))
    assert abs(signal[0, :, 0].sum()) < 1e-3
    spectrum = np.abs(np.fft.rfft(signal[0, :, 0]))
    assert spectrum[frequency] == pytest.approx(40 * width / 2, rel=1e-6)
    assert np.delete(spectrum, frequency).max() < 1e-3


def test_signal_is_added_and_truncated(digits):
    images = digits[0][:8]
    columns = np.round(40 * np.sin(2 * np.pi * 6 * np.arange(32) / 32), 9)
    expected = np.clip(images + columns[:, None], 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(trigger(Sig(), images), expected)


def test_delta_zero_changes_nothing(digits):
    np.testing.assert_array_equal(trigger(Sig(delta=0.0), digits[0][:4]), digits[0][:4])


def test_released_mask_wraps_its_negative_half():
    mask = SigRnp().init(SHAPE)["pattern"]
    # trunc(20 sin 0.8c) of c = 0 … 7 is 0, 14, 19, 13, −1, −15, −19, −12
    assert mask[0, :8, 0].tolist() == [0, 14, 19, 13, 255, 241, 237, 244]
    np.testing.assert_array_equal(mask, np.broadcast_to(mask[:1, :, :1], SHAPE))
    assert set(mask.ravel().tolist()) <= {*range(20), *range(236, 256)}


def test_released_variant_blends_the_mask(digits):
    images, mask = digits[0][:8].astype(np.int32), SigRnp().init(SHAPE)["pattern"].astype(np.int32)
    np.testing.assert_array_equal(trigger(SigRnp(), digits[0][:8]), (4 * images + mask) // 5)


def test_both_are_clean_label_attacks():
    assert Sig.clean_label
    assert SigRnp.clean_label


def test_frequency_beyond_the_width_is_refused():
    with pytest.raises(ConfigError, match="frequency is 17, expected at most 16 cycles over a width of 32 px"):
        Sig(frequency=17).init(SHAPE)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (Sig, {"delta": 256}, "delta"),
        (Sig, {"frequency": 0}, "frequency"),
        (SigRnp, {"alpha": -0.1}, "alpha"),
        (SigRnp, {"amplitude": 128}, "amplitude"),
        (SigRnp, {"angular_frequency": 4}, "angular_frequency"),
    ],
)
def test_impossible_constants_are_refused(kind, options, name):
    with pytest.raises(ConfigError, match=f"{name} is"):
        kind(**options)
