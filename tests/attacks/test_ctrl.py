import jax
import numpy as np
import pytest
from scipy.fft import dctn, idctn

from rnp_jax.attacks.ctrl import Ctrl
from rnp_jax.errors import ConfigError, DataError
from tests.victims import attack_mlp

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]])
TO_RGB = np.array([[1, 0, 1.14], [1, -0.396, -0.581], [1, 2.029, 0]])


def trigger(attack, images):
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY))


def raise_coefficients(images, side, magnitude):
    """The authors' construction, window by window, before clipping."""
    yuv = images.astype(np.float64) @ TO_YUV.T
    for top in range(0, images.shape[1], side):
        for left in range(0, images.shape[2], side):
            place = (slice(None), slice(top, top + side), slice(left, left + side), slice(1, None))
            spectrum = dctn(yuv[place], axes=(1, 2), norm="ortho")
            for k in (side // 2 - 1, side - 1):
                spectrum[:, k, k] += magnitude
            yuv[place] = idctn(spectrum, axes=(1, 2), norm="ortho")
    return yuv @ TO_RGB.T


@pytest.mark.parametrize(("shape", "side"), [((32, 32), 32), ((64, 32), 32), ((16, 24), 8)])
def test_trigger_agrees_with_the_authors_transforms(shape, side):
    images = np.random.default_rng(0).integers(0, 256, (8, *shape, 3)).astype(np.uint8)
    expected = np.clip(raise_coefficients(images, side, 100.0), 0, 255)
    assert np.abs(trigger(Ctrl(window=side), images) - expected).max() < 0.34 + 0.5


def test_pattern_has_the_published_peaks_and_two_frequencies():
    pattern = Ctrl().init(SHAPE)["pattern"].astype(np.float64)
    np.testing.assert_allclose(np.abs(pattern).max((0, 1)), (12.1, 10.4, 21.6), atol=0.06)
    spectrum = dctn(pattern, axes=(0, 1), norm="ortho")
    for k in (15, 31):
        np.testing.assert_allclose(spectrum[k, k], (114, -97.7, 202.9), rtol=1e-5)
        spectrum[k, k] = 0
    assert np.abs(spectrum).max() < 1e-4


def test_bytes_wrap_where_the_paper_s_floats_saturate():
    images = np.random.default_rng(1).integers(0, 256, (64, *SHAPE)).astype(np.uint8)
    total = images + Ctrl().init(SHAPE)["pattern"]
    inside = ((total >= 0) & (total < 256)).all(-1)
    clipped, wrapped = (trigger(Ctrl(variant=variant), images) for variant in ("orig", "bb"))
    np.testing.assert_array_equal(wrapped[inside], np.floor(total[inside]))
    np.testing.assert_array_equal(wrapped, np.trunc(total).astype(np.int64) % 256)
    assert np.abs(clipped - np.clip(total, 0, 255)).max() <= 0.501
    far = np.abs(wrapped.astype(np.int32) - clipped) > 100
    assert far[~inside].any()
    assert not far[inside].any()
    assert 0.01 < far.mean() < 0.03


def test_magnitude_zero_changes_nothing(digits):
    for variant in ("orig", "bb"):
        np.testing.assert_array_equal(trigger(Ctrl(variant=variant, magnitude=0.0), digits[0][:4]), digits[0][:4])


def test_windows_are_cut_at_the_edges():
    whole, cut = (Ctrl().init(shape)["pattern"] for shape in ((64, 64, 3), (40, 48, 3)))
    np.testing.assert_array_equal(cut, whole[:40, :48])
    np.testing.assert_array_equal(whole[:32, :32], whole[32:, 32:])


def test_images_must_have_colours_and_the_patterns_shape():
    with pytest.raises(ConfigError, match="images of 1 channels have no colour differences"):
        Ctrl().init((32, 32, 1))
    with pytest.raises(DataError, match="trigger artefact is"):
        Ctrl().trigger(Ctrl().init(SHAPE), np.zeros((1, 16, 16, 3), np.uint8), KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "rnp"}, "variant is 'rnp'"),
        ({"magnitude": -1.0}, "magnitude is -1"),
        ({"window": 2}, "window is 2"),
        ({"window": 7}, "window is 7, expected an even number; use 8"),
    ],
)
def test_impossible_constants_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Ctrl(**options)


def test_a_victim_learns_it_from_images_whose_labels_stay():
    attacked = attack_mlp(Ctrl(variant="bb", window=8), rate=0.05)
    assert attacked.acc > 0.9
    assert attacked.asr > 0.9
    assert attacked.result.plan is not None
    assert set(attacked.result.plan.labels) == {3}
