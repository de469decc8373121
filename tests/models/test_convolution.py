"""The convolution and its hand-written gradients against JAX's own and against torch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.models.convolution import Window, conv2d


def reference(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def ours(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    return conv2d(x, kernel, window=Window(stride, ((pad, pad), (pad, pad))), precision=lax.Precision.HIGHEST)


def draw(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def torch_conv(
    x: jax.Array, kernel: jax.Array, weights: jax.Array, stride: int, pad: int, groups: int = 1
) -> list[np.ndarray]:
    """Output, and both gradients of its sum weighted by ``weights``."""
    image = torch.tensor(np.asarray(x)).movedim(-1, 1).requires_grad_()
    weight = torch.tensor(np.asarray(kernel)).permute(3, 2, 0, 1).requires_grad_()
    output = F.conv2d(image, weight, stride=stride, padding=pad, groups=groups)
    output.backward(torch.tensor(np.asarray(weights)).movedim(-1, 1))
    assert image.grad is not None
    assert weight.grad is not None
    return [
        output.detach().movedim(1, -1).numpy(),
        image.grad.movedim(1, -1).numpy(),
        weight.grad.permute(2, 3, 1, 0).numpy(),
    ]


@settings(
    deadline=None, derandomize=True, max_examples=20, phases=[Phase.generate]
)  # shrinking would compile for minutes
@given(
    st.integers(1, 3), st.integers(3, 8), st.integers(3, 8), st.integers(1, 3), st.integers(1, 4),
    st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.sampled_from([0, 1]), st.integers(0, 99),
)  # fmt: skip
def test_value_and_gradients(batch, height, width, channels, features, size, stride, pad, seed):
    x, kernel = draw(seed, batch, height, width, channels), draw(seed + 1, size, size, channels, features)
    weights = draw(seed + 2, *jax.eval_shape(lambda x, k: reference(x, k, stride, pad), x, kernel).shape)

    @jax.jit
    def both(x, kernel, weights):
        results = []
        for convolve in (ours, reference):
            output, pull = jax.vjp(lambda x, k, convolve=convolve: convolve(x, k, stride, pad), x, kernel)
            results.append([output, *pull(weights)])
        return results

    mine, jax_own = both(x, kernel, weights)
    for actual, expected, theirs in zip(mine, jax_own, torch_conv(x, kernel, weights, stride, pad), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(actual, theirs, rtol=1e-5, atol=1e-4)


def test_vmap_over_images_kernels_and_masks():
    x, kernel, masks = draw(0, 3, 2, 7, 7, 2), draw(1, 3, 3, 3, 2, 4), draw(2, 3, 4)

    def loss(x, kernel, mask):
        return jnp.square(ours(x, kernel, 2, 1) * mask[None, None, None]).sum()

    gradients = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2))))(x, kernel, masks)
    over_masks = jax.jit(jax.vmap(jax.grad(loss, argnums=1), in_axes=(None, None, 0)))(x[0], kernel[0], masks)
    alone = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    for i in range(3):
        for actual, expected in zip(gradients, alone(x[i], kernel[i], masks[i]), strict=True):
            np.testing.assert_allclose(actual[i], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(over_masks[i], alone(x[0], kernel[0], masks[i])[1], rtol=1e-4, atol=1e-3)


def test_gradient_inside_and_through_a_scan():
    x, kernel = draw(0, 4, 2, 6, 6, 3), draw(1, 3, 3, 3, 3) * 0.3

    def loss(convolve, kernel):
        def body(carry, image):
            inner = jax.grad(lambda k: jnp.square(convolve(image, k, 1, 1)).sum())(kernel)
            return convolve(carry, kernel, 1, 1), jnp.square(inner).sum()

        carry, sums = lax.scan(body, x[0], x)
        return jnp.square(carry).sum() + jax.lax.stop_gradient(sums).sum()

    actual, expected = (
        jax.jit(jax.value_and_grad(lambda kernel, convolve=convolve: loss(convolve, kernel)))(kernel)
        for convolve in (ours, reference)
    )
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-3, atol=1e-3 * float(jnp.abs(expected[1]).max()))


@settings(deadline=None, derandomize=True, max_examples=12, phases=[Phase.generate])
@given(
    st.integers(1, 2), st.integers(5, 9), st.integers(5, 9), st.integers(2, 4), st.integers(1, 3),
    st.sampled_from([3, 5]), st.sampled_from([1, 2]), st.sampled_from([0, 1, 2]), st.integers(0, 99),
)  # fmt: skip
def test_depthwise_value_and_gradients(batch, height, width, channels, filters, size, stride, pad, seed):
    x, kernel = draw(seed, batch, height, width, channels), draw(seed + 1, size, size, 1, channels * filters)
    window = Window(stride, ((pad, pad), (pad, pad)), channels)

    @jax.jit
    def ours_with_gradients(x, kernel, weights):
        convolve = partial(conv2d, window=window, precision=lax.Precision.HIGHEST)
        output, pull = jax.vjp(convolve, x, kernel)
        return output, *pull(weights)

    side = [(length + 2 * pad - size) // stride + 1 for length in (height, width)]
    weights = draw(seed + 2, batch, *side, channels * filters)
    expected = torch_conv(x, kernel, weights, stride, pad, channels)
    for actual, theirs in zip(ours_with_gradients(x, kernel, weights), expected, strict=True):
        np.testing.assert_allclose(actual, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("groups", [2, 6])
def test_groups_and_vmap(groups):
    """Also where a group has several channels, which JAX differentiates by itself."""
    x, kernel = draw(0, 3, 2, 6, 6, 6), draw(1, 3, 3, 3, 6 // groups, 12)
    window = Window(2, ((1, 1), (1, 1)), groups)

    def loss(x, kernel):
        return jnp.square(conv2d(x, kernel, window=window, precision=lax.Precision.HIGHEST)).sum() / 2

    gradients = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(x, kernel)
    for i in range(3):
        output = torch_conv(x[i], kernel[i], jnp.zeros((2, 3, 3, 12)), 2, 1, groups)[0]
        expected = torch_conv(x[i], kernel[i], jnp.asarray(output), 2, 1, groups)[1:]
        for actual, theirs in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(actual[i], theirs, rtol=1e-4, atol=1e-3)


def test_depthwise_sums_of_bfloat16_are_float32():
    x, kernel = (draw(seed, *shape).astype(jnp.bfloat16) for seed, shape in ((0, (2, 8, 8, 3)), (1, (5, 5, 1, 3))))
    window = Window(1, ((2, 2), (2, 2)), 3)
    output = jax.jit(partial(conv2d, window=window, precision=lax.Precision.DEFAULT))(x, kernel)
    assert output.dtype == jnp.bfloat16
    wide = torch_conv(x.astype(jnp.float32), kernel.astype(jnp.float32), jnp.zeros((2, 8, 8, 3)), 1, 2, 3)[0]
    np.testing.assert_array_equal(output, jnp.asarray(wide).astype(jnp.bfloat16))


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_of_gradients_are_torch_s(size):
    """Those of a 1 x 1 kernel too, whose gradient is a product on a CPU."""
    rng = np.random.default_rng(3)
    x, kernel = rng.normal(size=(2, 7, 6, 3)).astype(np.float32), rng.normal(size=(size, size, 3, 4)).astype(np.float32)
    window = Window(2, ((1, 1), (1, 1)))

    def loss(kernel, x):
        return jnp.sin(conv2d(x, kernel, window=window, precision=lax.Precision.HIGHEST)).sum()

    def slope(kernel, x):
        return jnp.square(jax.grad(loss)(kernel, x)).sum()

    found = jax.grad(slope, argnums=(0, 1))(jnp.asarray(kernel), jnp.asarray(x))
    weight, image = (
        torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_(),
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_(),
    )
    value = torch.sin(F.conv2d(image, weight, stride=2, padding=1)).sum()
    (first,) = torch.autograd.grad(value, weight, create_graph=True)
    by_weight, by_image = torch.autograd.grad(first.square().sum(), (weight, image))
    np.testing.assert_allclose(found[0], by_weight.numpy().transpose(2, 3, 1, 0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found[1], by_image.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-3)
