import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.attacks.dfst import Dfst, sunrise
from rnp_jax.errors import ConfigError, DataError

KEY = jax.random.key(0)


def trigger(attack: Dfst, images: np.ndarray) -> np.ndarray:
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY)).astype(np.int32)


@pytest.mark.parametrize("variant", ["orig", "torch"])
def test_alpha_mixes_image_and_style(digits, variant):
    images = digits[0][:8]
    params = Dfst().init((32, 32, 3))
    style = 255 * np.asarray(sunrise(params, jnp.asarray(images / np.float32(255))))
    np.testing.assert_array_equal(trigger(Dfst(variant=variant, alpha=0.0), images), images)
    np.testing.assert_allclose(trigger(Dfst(variant=variant, alpha=1.0), images), style, rtol=0, atol=1)
    for alpha in (0.25, 0.6):
        mixed = trigger(Dfst(variant=variant, alpha=alpha), images)
        np.testing.assert_allclose(mixed, (1 - alpha) * images + alpha * style, rtol=0, atol=1)
        assert (mixed >= np.minimum(images, np.floor(style)) - 1).all()
        assert (mixed <= np.maximum(images, np.ceil(style)) + 1).all()


def test_the_style_by_hand():
    params = {"curve": np.float32([0.5, 2.0]), "glow": np.float32([[[0.0, 0.5]]])}
    pixel = jnp.asarray([[[[0.2, 0.6]]]], jnp.float32)  # lightness 0.4
    expected = [0.3**0.5, 1 - (1 - 0.5**2) * (1 - 0.5)]
    np.testing.assert_allclose(sunrise(params, pixel)[0, 0, 0], expected, rtol=1e-6)


def test_the_style_depends_on_the_image_and_warms_grey(digits):
    images = digits[0][:2]
    change = trigger(Dfst(), images) - images
    assert np.abs(change[0] - change[1]).max() > 20
    grey = trigger(Dfst(), np.full((1, 32, 32, 3), 100, np.uint8))
    assert (grey[..., 0] > grey[..., 1]).all()
    assert (grey[..., 1] > grey[..., 2]).all()


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(deadline=None, derandomize=True, max_examples=4)
def test_any_shape_and_seed_gives_a_picture(shape, seed, alpha):
    images = np.random.default_rng(seed).integers(0, 256, (2, *shape), np.uint8)
    attack = Dfst(seed=seed, alpha=alpha)
    params = attack.init(shape)
    assert params["glow"].shape == shape
    assert (params["glow"] >= 0).all()
    assert (params["glow"] < 1).all()
    style = np.asarray(sunrise(params, jnp.asarray(images / np.float32(255))))
    assert (style >= 0).all()
    assert (style <= 1).all()
    assert attack.trigger(params, images, KEY).dtype == jnp.uint8


def test_the_seed_moves_the_sun():
    first, again, other = (Dfst(seed=seed).init((16, 16, 3))["glow"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.argmax(first[..., 0]) != np.argmax(other[..., 0])


def test_images_of_another_shape_are_refused():
    with pytest.raises(DataError, match="but the trigger artefact is"):
        Dfst().trigger(Dfst().init((8, 8, 3)), np.zeros((1, 9, 8, 3), np.uint8), KEY)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("variant", "bb"),
        ("alpha", 1.5),
        ("window", 0),
        ("window", 4),
        ("compromised", 2.0),
        ("detox_from", -1),
        ("detox_steps", 0),
        ("learning_rate", -1.0),
        ("activation_weight", -1.0),
        ("other_weight", -1.0),
        ("similarity_weight", -1.0),
        ("seed", -1),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is '?{value}"):
        Dfst(**{option: value})
