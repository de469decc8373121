"""Each layer against torch's, and each placement of a mask against its formula."""

from functools import partial
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.models import Placement
from rnp_jax.models.layers import BatchNorm, Conv, Dense, LayerNorm, adaptive_avg_pool, attend

F, EPS = 4, 1e-5


def run(layer: nn.Module, variables: dict, *inputs) -> jax.Array:
    y = layer.apply(variables, *inputs)
    assert isinstance(y, jax.Array)
    return y


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def norm_variables(mask: np.ndarray | None = None) -> dict:
    masks = {"neuron": jnp.ones(F)} | ({} if mask is None else {"filter": jnp.asarray(mask)})
    return {
        "params": {"scale": jnp.asarray(draw(F, seed=1)), "bias": jnp.asarray(draw(F, seed=2))},
        "batch_stats": {"mean": jnp.zeros(F), "var": jnp.ones(F)},
        "masks": masks,
    }


@partial(jax.jit, static_argnums=0)
def train_step(norm: BatchNorm, variables: dict, x: jax.Array, weights: jax.Array):
    def loss(params, x):
        y, moved = norm.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return (y * weights).sum(), (y, moved["batch_stats"])

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_batch_norm_trains_as_torch_does(precision):
    """Outputs, all gradients, and the running statistics of every step (unbiased variance), then evaluation mode."""
    variables = norm_variables(np.ones(F, np.float32))
    theirs = torch.nn.BatchNorm2d(F)
    theirs.load_state_dict(
        theirs.state_dict() | {"weight": torch.tensor(draw(F, seed=1)), "bias": torch.tensor(draw(F, seed=2))}
    )
    for step in range(3):
        x, weights = draw(3, 5, 4, F, seed=10 + step) * 3 + 7, draw(3, 5, 4, F, seed=20 + step)
        (params, images), (y, moved) = train_step(BatchNorm(precision=precision), variables, x, weights)
        image = torch.tensor(x).movedim(-1, 1).requires_grad_()
        theirs.zero_grad()
        output = theirs(image)
        output.backward(torch.tensor(weights).movedim(-1, 1))
        assert image.grad is not None
        for actual, expected in [
            (y, output.detach().movedim(1, -1)),
            (images, image.grad.movedim(1, -1)),
            (params["scale"], theirs.weight.grad),
            (params["bias"], theirs.bias.grad),
            (moved["mean"], theirs.running_mean),
            (moved["var"], theirs.running_var),
        ]:
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-5)
        variables = {**variables, "batch_stats": moved}
    x = draw(2, 5, 4, F, seed=30)
    y = run(BatchNorm(), variables, jnp.asarray(x), False)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(x).movedim(-1, 1)).movedim(1, -1)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_variance_survives_a_large_mean(precision):
    """E[x²] − E[x]² in float32 would lose it all: mean 10⁴, deviation 1."""
    x = draw(8, 4, 4, F) + 1e4
    norm, variables = BatchNorm(precision=precision), norm_variables(np.ones(F, np.float32))
    _, (_, moved) = train_step(norm, variables, x, np.zeros_like(x))
    expected = 0.9 + 0.1 * x.astype(np.float64).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(moved["var"], expected, rtol=1e-3)


@pytest.mark.parametrize("placement", get_args(Placement))
@pytest.mark.parametrize("train", [False, True])
def test_where_a_mask_acts_on_batch_norm(placement, train):
    masked = placement in ("bn_scale", "channel")
    mask = np.array([0, 0.3, 1, 0.7], np.float32)
    variables, x = norm_variables(mask if masked else None), draw(3, 4, 4, F)
    y: jax.Array
    moved: dict
    y, moved = BatchNorm(placement).apply(variables, jnp.asarray(x), train, mutable=["batch_stats"])  # pyright: ignore
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (np.zeros(F), np.ones(F))
    normalised = (x - mean) / np.sqrt(var + EPS)
    scale, bias = (np.asarray(leaf) for leaf in variables["params"].values())
    expected = {"bn_scale": mask * scale * normalised + bias, "channel": mask * (scale * normalised + bias)}
    np.testing.assert_allclose(y, expected.get(placement, scale * normalised + bias), rtol=1e-4, atol=1e-5)
    if train:
        np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    declared = jax.eval_shape(partial(BatchNorm(placement).init, train=False), jax.random.key(0), jnp.asarray(x))[
        "masks"
    ]
    assert {name: leaf.shape for name, leaf in declared.items()} == (
        {"neuron": (F,), "filter": (F,)} if masked else {"neuron": (F,)}
    )


@pytest.mark.parametrize("placement", get_args(Placement))
def test_where_a_mask_acts_on_a_convolution(placement):
    layer = Conv(F, 3, stride=2, pad=1, use_bias=True, placement=placement)
    x, mask = jnp.asarray(draw(2, 7, 6, 3)), np.array([0, 0.3, 1, 0.7], np.float32)
    kernel, bias = draw(3, 3, 3, F, seed=1), draw(F, seed=2)
    masked = placement == "conv_output"
    masks = {"neuron": jnp.ones(F)} | ({"filter": jnp.asarray(mask)} if masked else {})
    y = run(layer, {"params": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}, "masks": masks}, x)
    expected = torch.nn.functional.conv2d(
        torch.tensor(np.asarray(x)).movedim(-1, 1), torch.tensor(kernel).permute(3, 2, 0, 1), torch.tensor(bias), 2, 1
    ).movedim(1, -1)
    np.testing.assert_allclose(y, expected * (torch.tensor(mask) if masked else 1), rtol=1e-4, atol=1e-5)
    declared = jax.eval_shape(layer.init, jax.random.key(0), x)["masks"]
    assert set(declared) == {"neuron", "filter"} if masked else {"neuron"}


@pytest.mark.parametrize("masked", [False, True])
def test_where_a_mask_acts_on_a_linear_layer(masked):
    layer = Dense(F, masked=masked)
    x, mask = draw(3, 5), np.array([0, 0.3, 1, 0.7], np.float32)
    kernel, bias = draw(5, F, seed=1), draw(F, seed=2)
    masks = {"neuron": jnp.ones(F)} | ({"filter": jnp.asarray(mask)} if masked else {})
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    y = run(layer, {"params": params, "masks": masks}, jnp.asarray(x))
    np.testing.assert_allclose(y, (x @ kernel + bias) * (mask if masked else 1), rtol=1e-5, atol=1e-5)
    assert set(jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(x))["masks"]) == set(masks)


def test_fresh_convolution_kernels_are_he_normal_of_fan_out():
    params = Conv(64, 3).init(jax.random.key(0), jnp.zeros((1, 3, 3, 32)))["params"]
    kernel = np.asarray(params["kernel"])
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert abs(kernel.mean()) < 1e-3


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 14, 17])
@pytest.mark.parametrize("side", [1, 7])
def test_adaptive_average_pooling_is_torch_s(size, side):
    images = np.random.default_rng(0).standard_normal((2, size, size + 1, 3)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(images).movedim(-1, 1), side)
    found = jax.jit(adaptive_avg_pool, static_argnums=1)(images, side)
    np.testing.assert_allclose(found, expected.movedim(1, -1), rtol=0, atol=1e-6)


def test_one_pixel_is_replicated_exactly():
    pixel = jnp.asarray(np.random.default_rng(0).standard_normal((1, 1, 1, 5)).astype(np.float32))
    np.testing.assert_array_equal(adaptive_avg_pool(pixel, 7), jnp.broadcast_to(pixel, (1, 7, 7, 5)))


@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 7), (2, 3, 4, 7)])
def test_layer_norm_is_torch_s_and_has_no_filter_mask(shape):
    layer, x = LayerNorm(1e-6), 1000 + draw(*shape)  # far from 0, where E[x²] − E[x]² would lose all digits
    scale, bias = draw(7, seed=1), draw(7, seed=2)
    variables = {"params": {"scale": scale, "bias": bias}, "masks": {"neuron": np.ones(7, np.float32)}}
    expected = torch.nn.functional.layer_norm(
        torch.from_numpy(x), (7,), torch.from_numpy(scale), torch.from_numpy(bias), 1e-6
    )
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=0, atol=1e-3)
    assert set(layer.init(jax.random.key(0), x)["masks"]) == {"neuron"}


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_attention_is_torch_s(heads):
    query, key, value = (2 * draw(3, 5, 6, seed=seed) for seed in range(3))
    q, k, v = (torch.from_numpy(x).unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    np.testing.assert_allclose(attend(query, key, value, heads, "float32"), expected, rtol=0, atol=1e-5)
