"""PyTorch's resampling: bicubic with aligned corners, which JAX lacks, and bilinear sampling on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CUBIC_A = -0.75
"""PyTorch's cubic convolution coefficient; ``jax.image`` has Keys' −0.5."""


def bicubic_matrix(size_in: int, size_out: int) -> Float[np.ndarray, "size_out size_in"]:
    """One axis of ``interpolate(mode='bicubic', align_corners=True)`` as a matrix: resized = A_h · image · A_wᵀ.

    Cubic convolution (Keys, 1981) with a = −0.75; taps beyond an edge read the edge. Float64, rows sum to 1.
    """
    position = np.arange(size_out) * (size_in - 1) / max(size_out - 1, 1)
    first = np.floor(position).astype(np.int64)
    matrix = np.zeros((size_out, size_in))
    for tap in range(-1, 3):
        weight = cubic_kernel(np.abs(position - (first + tap)))
        np.add.at(matrix, (np.arange(size_out), np.clip(first + tap, 0, size_in - 1)), weight)
    return matrix


def cubic_kernel(distance: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """κ(z) for distances z in [0, 2]."""
    a, z = CUBIC_A, distance
    near = (a + 2) * z**3 - (a + 3) * z**2 + 1
    far = a * (z**3 - 5 * z**2 + 8 * z - 4)
    return np.where(z <= 1, near, far)


@jax.jit
def grid_sample(
    images: Float[Array, "B H W C"], grid: Float[Array, "h w 2"] | Float[Array, "B h w 2"]
) -> Float[Array, "B h w C"]:
    """Bilinear ``grid_sample(align_corners=True, padding_mode='zeros')`` of channels-last images.

    The grid holds (x, y), −1 and 1 being the centres of the outermost pixels. It is one for all images, or one each.
    """
    return jax.vmap(_sample, in_axes=(0, None if grid.ndim == 3 else 0))(images, grid)


def _sample(image: Float[Array, "H W C"], grid: Float[Array, "h w 2"]) -> Float[Array, "h w C"]:
    height, width, _ = image.shape
    x = (grid[..., 0] + 1) / 2 * (width - 1)
    y = (grid[..., 1] + 1) / 2 * (height - 1)
    left, top = jnp.floor(x), jnp.floor(y)
    total = jnp.zeros((*grid.shape[:2], image.shape[2]), image.dtype)
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = jnp.where(inside, weight_x * weight_y, 0)
            total += image.at[row.astype(jnp.int32), column.astype(jnp.int32)].get(mode="clip") * weight[..., None]
    return total
