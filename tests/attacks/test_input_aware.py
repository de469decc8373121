import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks.generated import network_variables, scaling_params
from rnp_jax.attacks.input_aware import InputAware, blend, to_mask, to_pattern
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
SMALL = InputAware(width=2)


def trained(attack, shape, seed=0, mask_bias=0.0):
    """An artefact of random weights, as if learned."""
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(0.1, 0.4, array.shape).astype(np.float32) for name, array in attack.init(shape).items()}
    params = {name: np.abs(array) + 0.3 if name.endswith(("var", "std")) else array for name, array in params.items()}
    params["mask/params/up5/bn/bias"] += np.float32(mask_bias)
    return {**params, **scaling_params((0.4,) * shape[-1], (0.25,) * shape[-1], shape)}


def images(shape, count=4):
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


@pytest.mark.parametrize("shape", [(16, 16, 3), (9, 12, 1)])
def test_the_trigger_is_the_published_blend_rounded(shape):
    x, params = images(shape), trained(SMALL, shape)
    generator, mask = SMALL.networks(shape[-1])
    normalised = jnp.asarray((x / np.float32(255) - np.float32(0.4)) / np.float32(0.25))
    trees = [network_variables(params, name) for name in ("generator", "mask")]
    pattern = np.asarray(generator(trees[0], normalised)[0], np.float64) / 2 + 0.5
    place = np.tanh(20 * (np.asarray(mask(trees[1], normalised)[0], np.float64) / 2 + 0.5) - 10) / 2 + 0.5
    expected = x + (255 * pattern - x) * place
    found = np.asarray(SMALL.trigger(params, x, KEY))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.51)
    assert np.ptp(pattern, 0).max() > 1e-3  # each image has a pattern of its own
    np.testing.assert_array_equal(found, SMALL.trigger(params, x, jax.random.key(9)))


def test_a_mask_of_zero_leaves_images_and_one_of_one_is_the_pattern():
    x = images((8, 8, 3))
    off, on = (np.asarray(SMALL.trigger(trained(SMALL, (8, 8, 3), mask_bias=b), x, KEY)) for b in (-50, 50))
    np.testing.assert_array_equal(off, x)
    assert (np.abs(on.astype(int) - x) > 20).mean() > 0.5
    pattern = jnp.full((4, 8, 8, 3), 0.5)
    np.testing.assert_array_equal(blend(x, pattern, jnp.ones((4, 8, 8, 1))), np.full(x.shape, 128))
    np.testing.assert_array_equal(blend(x, pattern, jnp.zeros((4, 8, 8, 1))), x)


def test_blending_commutes_with_normalising():
    rng = np.random.default_rng(0)
    x, pattern, mask = rng.random((2, 4, 4, 3)), rng.random((2, 4, 4, 3)), rng.random((2, 4, 4, 1))

    def normalised(values):
        return (values - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]

    inside = normalised(x) + (normalised(pattern) - normalised(x)) * mask
    levels = np.round(255 * x).astype(np.uint8)
    outside = np.asarray(blend(levels, jnp.asarray(pattern, jnp.float32), jnp.asarray(mask, jnp.float32))) / 255
    np.testing.assert_allclose(normalised(outside), inside, atol=1.01 / 255 / 0.2)  # two roundings


def test_outputs_mean_a_pattern_and_a_nearly_binary_mask():
    output = jnp.asarray([-1.0, 0.0, 1.0]).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(to_pattern(output).ravel(), [0, 0.5, 1])
    np.testing.assert_allclose(to_mask(output).ravel(), [0, 0.5, 1], atol=1e-6)
    assert float(to_mask(jnp.full((1, 1, 1, 1), 0.2))[0, 0, 0, 0]) > 0.98


def test_the_artefact_has_both_networks_and_the_normalisation():
    params = InputAware(width=4).init((10, 12, 3))
    assert {name.split("/")[0] for name in params} == {"generator", "mask", "mean", "std"}
    assert params["generator/params/up5/conv/kernel"].shape == (3, 3, 4, 3)
    assert params["mask/params/up5/conv/kernel"].shape == (3, 3, 4, 1)
    assert params["std"].shape == (10, 12, 3)
    assert sum(array.size for array in InputAware().init((32, 32, 3)).values()) > 1_000_000  # as published


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("mask_epochs", 0),
        ("mask_density", 1.5),
        ("norm_weight", -1),
        ("diversity_weight", -1),
        ("cross_ratio", -1),
        ("learning_rate", -1),
        ("accumulate", 1),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        InputAware(**{option: value})
