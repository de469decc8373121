import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.models.steganography import Steganography
from tests.oracle import steganography as oracle

PAIR = Steganography((9, 14, 2), bits=3, width=4)


def inputs(shape=(9, 14, 2), bits=3):
    rng = np.random.default_rng(0)
    return rng.random((2, *shape), np.float32), rng.integers(0, 2, (2, bits)).astype(np.float32)


def random_like(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), tree)


def torch_inputs(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def test_the_encoder_is_stegastamp_s_u_net_by_torch():
    params, (images, secrets) = random_like(PAIR.zeros()), inputs()
    expected = oracle.hide(oracle.to_torch(params), *torch_inputs(images, secrets)).detach()
    found = PAIR.hide(params, jnp.asarray(images), jnp.asarray(secrets))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_decoder_is_that_of_torch():
    params, (images, _) = random_like(PAIR.init(jax.random.key(0))["decoder"]), inputs()
    expected = oracle.read(oracle.to_torch(params), *torch_inputs(images)).detach()
    np.testing.assert_allclose(PAIR.read(params, jnp.asarray(images)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(9, 14, 2), (33, 16, 2)])
def test_the_critic_is_stegastamp_s_by_torch_on_any_size(shape):
    params, (images, _) = random_like(PAIR.init_critic(jax.random.key(0), 0.01)), inputs(shape)
    channels = [layer["kernel"].shape for layer in params.values()]
    assert channels == [(3, 3, 2, 8), (3, 3, 8, 16), (3, 3, 16, 32), (3, 3, 32, 64), (3, 3, 64, 1)]
    expected = oracle.judge(oracle.to_torch(params), *torch_inputs(images)).detach()
    found = PAIR.judge(params, jnp.asarray(images))
    assert found.shape == (2,)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_a_fresh_critic_is_within_its_bound_and_is_decided_by_its_key():
    first, again, other = (PAIR.init_critic(jax.random.key(seed), 0.01) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    for layer, another in zip(first.values(), other.values(), strict=True):
        assert np.abs(layer["kernel"]).max() == np.float32(0.01)
        assert (layer["kernel"] != another["kernel"]).any()
        assert not layer["bias"].any()


def test_zeros_have_the_shapes_of_fresh_parameters_and_hide_nothing():
    fresh, zeros = PAIR.init(jax.random.key(0)), PAIR.zeros()
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree) for tree in (fresh["encoder"], zeros)]
    assert shapes[0] == shapes[1]
    images, secrets = inputs()
    assert not np.asarray(PAIR.hide(zeros, jnp.asarray(images), jnp.asarray(secrets))).any()
    assert PAIR.read(fresh["decoder"], jnp.asarray(images)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(1, 1, 2), (40, 17, 2)])
def test_an_encoder_works_on_any_size(shape):
    images, secrets = inputs(shape)
    params = random_like(PAIR.zeros())
    assert PAIR.hide(params, jnp.asarray(images), jnp.asarray(secrets)).shape == images.shape


def test_a_large_image_s_secret_map_stays_small():
    kernel = Steganography((224, 100, 3), bits=5, width=2).zeros()["secret_kernel"]
    assert kernel.shape == (5, 32, 32, 3)
