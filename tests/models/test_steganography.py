import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from rnp_jax.models.steganography import Steganography

PAIR = Steganography((9, 14, 2), bits=3, width=4)


def inputs(shape=(9, 14, 2), bits=3):
    rng = np.random.default_rng(0)
    return rng.random((2, *shape), np.float32), rng.integers(0, 2, (2, bits)).astype(np.float32)


def random_like(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), tree)


def convolve(x, layer, stride=1):
    kernel = torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1)
    size = kernel.shape[-1]
    low, high = (size - 1) // 2, size // 2
    return functional.conv2d(functional.pad(x, (low, high, low, high)), kernel, torch.from_numpy(layer["bias"]), stride)


def test_the_encoder_is_stegastamp_s_u_net_by_torch():
    params, (images, secrets) = random_like(PAIR.zeros()), inputs()
    spread = np.einsum("bs,shwc->bhwc", secrets - 0.5, params["secret_kernel"]) + params["secret_bias"]
    planes = np.concatenate([np.maximum(spread, 0), images - 0.5], -1).astype(np.float32)
    x = torch.from_numpy(planes).permute(0, 3, 1, 2)
    levels = [convolve(x, params["down0"]).relu()]
    for i in range(1, 5):
        levels.append(convolve(levels[-1], params[f"down{i}"], 2).relu())
    y = levels[4]
    for i in (3, 2, 1, 0):
        size = levels[i].shape[2:]
        doubled = functional.interpolate(y, scale_factor=2)[:, :, : size[0], : size[1]]
        joined = [levels[i], convolve(doubled, params[f"up{i}"]).relu(), *([x] if i == 0 else [])]
        y = convolve(torch.cat(joined, 1), params[f"merge{i}"]).relu()
    expected = convolve(y, params["residual"]).permute(0, 2, 3, 1).numpy()
    found = PAIR.hide(params, jnp.asarray(images), jnp.asarray(secrets))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


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
