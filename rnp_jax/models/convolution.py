"""2-D convolution whose gradients are themselves canonical (NHWC, HWIO) convolutions.

JAX writes the gradients of a convolution with permuted dimension numbers. XLA's CPU compiler only brings those into its
fast form outside loops (jax issue 12868), so inside ``scan`` and ``while_loop`` they run more than ten times slower.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "h w C F"],
    *,
    stride: int,
    pads: Pads,
    precision: lax.Precision,
) -> Float[Array, "B Ho Wo F"]:
    """Cross-correlation as torch's ``conv2d`` computes it, with explicit padding."""
    if jax.default_backend() == "cpu":
        return _canonical_conv2d(x, kernel, stride, pads, precision)
    return _conv(x, kernel, stride, pads, precision)


def _conv(x, kernel, stride: int, pads: Pads, precision: lax.Precision, lhs_dilation: int = 1, rhs_dilation: int = 1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        lhs_dilation=(lhs_dilation, lhs_dilation),
        rhs_dilation=(rhs_dilation, rhs_dilation),
        dimension_numbers=_DIMENSIONS,
        precision=precision,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _canonical_conv2d(x, kernel, stride: int, pads: Pads, precision: lax.Precision):
    return _conv(x, kernel, stride, pads, precision)


def _forward(x, kernel, stride: int, pads: Pads, precision: lax.Precision):
    return _conv(x, kernel, stride, pads, precision), (x, kernel)


def _backward(stride: int, pads: Pads, precision: lax.Precision, residuals, g):
    x, kernel = residuals
    spans = [(size - 1) * stride + 1 for size in g.shape[1:3]]  # extent of the dilated output gradient

    def input_pads(axis: int) -> tuple[int, int]:
        low = kernel.shape[axis] - 1 - pads[axis][0]
        return low, x.shape[axis + 1] - spans[axis] - low + kernel.shape[axis] - 1

    def kernel_pads(axis: int) -> tuple[int, int]:
        low = pads[axis][0]
        return low, kernel.shape[axis] - 1 - x.shape[axis + 1] - low + spans[axis]

    flipped = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    dx = _conv(g, flipped, 1, (input_pads(0), input_pads(1)), precision, lhs_dilation=stride)
    images_as_channels = x.transpose(3, 1, 2, 0)
    gradient_as_kernel = g.transpose(1, 2, 0, 3)
    kernel_spatial = (kernel_pads(0), kernel_pads(1))
    dk = _conv(images_as_channels, gradient_as_kernel, 1, kernel_spatial, precision, rhs_dilation=stride)
    return dx, dk.transpose(1, 2, 0, 3)


_canonical_conv2d.defvjp(_forward, _backward)
