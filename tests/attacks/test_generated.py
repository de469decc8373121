import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks.generated import network_params, network_variables, normalise, scaling_params, to_levels
from rnp_jax.errors import DataError
from rnp_jax.models.generators import Generator


def test_a_generator_survives_as_flat_arrays():
    variables = Generator("bottleneck", 2, 1).constant(3)
    params = network_params(variables, "mask")
    assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in params.values())
    assert params["mask/params/down0/conv/kernel"].shape == (3, 3, 3, 2)
    back = network_variables({**params, "mean": np.zeros(3)}, "mask")
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(variables)))


def test_images_are_normalised_by_channel():
    scaling = scaling_params((0.1, 0.2), (0.5, 0.25), (4, 6, 2))
    assert {name: (array.shape, array.dtype) for name, array in scaling.items()} == {
        "mean": ((4, 6, 2), np.float32),
        "std": ((4, 6, 2), np.float32),
    }
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 2), np.uint8)
    expected = (images / 255 - [0.1, 0.2]) / [0.5, 0.25]
    np.testing.assert_allclose(normalise(scaling, jnp.asarray(images)), expected, atol=1e-6)
    with pytest.raises(DataError, match=r"\[6, 4, 2\], but the trigger artefact is \[4, 6, 2\]"):
        normalise(scaling, jnp.zeros((1, 6, 4, 2), jnp.uint8))


def test_levels_are_whole_and_inside_and_the_gradient_sees_no_rounding():
    values = jnp.asarray([-3.0, 0.4, 0.6, 100.3, 254.7, 300.0]).reshape(1, 1, 6, 1)
    levels, gradient = jax.value_and_grad(lambda x: to_levels(x).sum())(values)
    np.testing.assert_array_equal(to_levels(values).ravel(), [0, 0, 1, 100, 255, 255])
    assert levels == 611
    np.testing.assert_array_equal(gradient.ravel(), [0, 1, 1, 1, 1, 0])
