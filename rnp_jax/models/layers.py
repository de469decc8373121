"""Layers with explicit masks, computing what torch computes.

Every layer with parameters holds a ``neuron`` mask [F] (which of its neurons unlearning may move); a maskable layer
also holds a ``filter`` mask [F] (what recovery optimises). Both are ones by default, and F is the last axis of each of
the layer's parameters.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rnp_jax.models.convolution import Pads, conv2d

Placement = Literal["bn_scale", "channel", "conv_output", "unit"]
"""Where a filter mask m acts: ``bn_scale`` y = γ·m·x̂ + β (the RNP release), ``channel`` y = m·(γ·x̂ + β),
``conv_output`` the convolution's output, ``unit`` a dense layer's units."""

Precision = Literal["float32", "tf32", "bfloat16"]
"""Arithmetic of convolutions and products; statistics, losses and masks stay float32."""

_MATMUL = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}
_DTYPE = {"float32": jnp.float32, "tf32": jnp.float32, "bfloat16": jnp.bfloat16}

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_ones = nn.initializers.ones
_zeros = nn.initializers.zeros


def _masks(layer: nn.Module, features: int, *, filtered: bool) -> jax.Array | None:
    """Declares the layer's masks; returns the filter mask where it has one."""
    layer.variable("masks", "neuron", jnp.ones, (features,), jnp.float32)
    return layer.variable("masks", "filter", jnp.ones, (features,), jnp.float32).value if filtered else None


class Conv(nn.Module):
    """Convolution with explicit padding and, in the ``conv_output`` placement, a filter mask."""

    features: int
    size: int
    stride: int = 1
    pad: int = 0
    use_bias: bool = False
    placement: Placement = "bn_scale"
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B Ho Wo F"]:
        """Applies the layer."""
        dtype = _DTYPE[self.precision]
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        mask = _masks(self, self.features, filtered=self.placement == "conv_output")
        pads: Pads = ((self.pad, self.pad), (self.pad, self.pad))
        y = conv2d(
            x.astype(dtype), kernel.astype(dtype), stride=self.stride, pads=pads, precision=_MATMUL[self.precision]
        )
        if self.use_bias:
            y = y + self.param("bias", _zeros, (self.features,), jnp.float32).astype(dtype)[None, None, None]
        return y if mask is None else y * mask.astype(dtype)[None, None, None]


class BatchNorm(nn.Module):
    """Batch normalisation as torch computes it: biased variance to normalise, unbiased in the running variance.

    ``momentum`` is torch's (new = (1 - momentum)·old + momentum·batch). In training mode the moved statistics are
    written to the mutable collection ``batch_stats``.
    """

    placement: Placement = "bn_scale"
    momentum: float = 0.1
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"], train: bool) -> Float[Array, "B H W F"]:
        """Applies the layer."""
        features = x.shape[-1]
        scale = self.param("scale", _ones, (features,), jnp.float32)
        bias = self.param("bias", _zeros, (features,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        mask = _masks(self, features, filtered=self.placement in ("bn_scale", "channel"))
        x32 = x.astype(jnp.float32)
        if train:
            mean = x32.mean((0, 1, 2))
            var = jnp.square(x32 - mean[None, None, None]).mean((0, 1, 2))
            if not self.is_initializing():
                n = x.size // features
                unbiased = var * (n / (n - 1))
                running_mean.value = (1 - self.momentum) * running_mean.value + self.momentum * mean
                running_var.value = (1 - self.momentum) * running_var.value + self.momentum * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        if mask is not None:
            scale = scale * mask
            bias = bias * mask if self.placement == "channel" else bias
        factor = scale * lax.rsqrt(var + self.eps)
        return ((x32 - mean[None, None, None]) * factor[None, None, None] + bias[None, None, None]).astype(x.dtype)


class Dense(nn.Module):
    """Linear layer; ``masked`` hidden layers carry a filter mask on their units."""

    features: int
    masked: bool = False
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B C"]) -> Float[Array, "B F"]:
        """Applies the layer."""
        dtype = _DTYPE[self.precision]
        kernel = self.param("kernel", _he_normal, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", _zeros, (self.features,), jnp.float32)
        mask = _masks(self, self.features, filtered=self.masked)
        y = jnp.dot(x.astype(dtype), kernel.astype(dtype), precision=_MATMUL[self.precision])
        y = y + bias.astype(dtype)[None]
        return y if mask is None else y * mask.astype(dtype)[None]
