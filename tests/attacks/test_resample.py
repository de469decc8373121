import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rnp_jax.attacks.resample import bicubic_matrix, grid_sample

sizes = st.integers(1, 40)


@given(size_in=sizes, height=sizes, width=sizes, seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_bicubic_agrees_with_torch(size_in, height, width, seed):
    field = np.random.default_rng(seed).uniform(-1, 1, (2, size_in, size_in))
    ours = bicubic_matrix(size_in, height) @ field @ bicubic_matrix(size_in, width).T
    theirs = functional.interpolate(torch.from_numpy(field)[None], (height, width), mode="bicubic", align_corners=True)[
        0
    ]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size_in", [4, 8, 32])
def test_bicubic_agrees_with_torch_in_float32(size_in):
    field = np.random.default_rng(0).uniform(-1, 1, (2, size_in, size_in)).astype(np.float32)
    ours = bicubic_matrix(size_in, 32) @ field @ bicubic_matrix(size_in, 32).T
    theirs = functional.interpolate(torch.from_numpy(field)[None], 32, mode="bicubic", align_corners=True)[0]
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=3e-6)


@given(size_in=sizes, size_out=sizes)
@settings(deadline=None, derandomize=True, max_examples=30)
def test_bicubic_keeps_constants_and_corners(size_in, size_out):
    matrix = bicubic_matrix(size_in, size_out)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(matrix[0], np.eye(size_in)[0])
    if size_out > 1:
        np.testing.assert_array_equal(matrix[-1], np.eye(size_in)[-1])


def test_bicubic_to_the_same_size_is_the_identity():
    np.testing.assert_array_equal(bicubic_matrix(32, 32), np.eye(32))


@pytest.mark.parametrize("shared_grid", [True, False])
@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (7, 12, 1), (1, 5, 2)])
def test_grid_sample_agrees_with_torch_inside_and_outside(height, width, channels, shared_grid):
    rng = np.random.default_rng(0)
    images = rng.random((4, height, width, channels), np.float32)
    grid = rng.uniform(-1.4, 1.4, (4, 9, 6, 2)).astype(np.float32)
    grid[:, 0, :4] = [[-1, -1], [1, 1], [-1, 1], [1, -1]]
    torch_grid = torch.from_numpy(grid[:1]).expand(4, -1, -1, -1) if shared_grid else torch.from_numpy(grid)
    theirs = functional.grid_sample(torch.from_numpy(images).permute(0, 3, 1, 2), torch_grid, align_corners=True)
    ours = jax.jit(grid_sample)(images, grid[0] if shared_grid else grid)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), rtol=0, atol=3e-6)


def test_grid_sample_is_differentiable_in_the_grid():
    ramp = jnp.broadcast_to(jnp.arange(5.0)[None, None, :, None], (1, 5, 5, 1))
    slope = jax.grad(lambda g: grid_sample(ramp, g).sum())(jnp.full((1, 1, 2), 0.3))
    np.testing.assert_allclose(slope[0, 0], [2.0, 0.0], atol=1e-6)
