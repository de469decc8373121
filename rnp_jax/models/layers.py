"""Layers with explicit masks that compute the same results as torch.

Every layer with parameters has a ``neuron`` mask [F] (which of its neurons unlearning may change). A maskable layer
also has a ``filter`` mask [F] (which recovery optimises). Both are ones by default, and F is the last axis of each of
the layer's parameters.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rnp_jax.errors import DataError
from rnp_jax.models.convolution import Window, conv2d

Placement = Literal["bn_scale", "channel", "conv_output", "unit"]
"""Where a filter mask m acts: ``bn_scale`` y = γ·m·x̂ + β (the RNP release), ``channel`` y = m·(γ·x̂ + β),
``conv_output`` the convolution's output, ``unit`` a dense layer's units."""

Precision = Literal["float32", "tf32", "bfloat16"]
"""Arithmetic of convolutions and matrix products; statistics, losses and masks stay float32."""

_MATMUL = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}
_DTYPE = {"float32": jnp.float32, "tf32": jnp.float32, "bfloat16": jnp.bfloat16}

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_ones = nn.initializers.ones
_zeros = nn.initializers.zeros


def _masks(layer: nn.Module, features: int, *, filtered: bool) -> jax.Array | None:
    """Declares the layer's masks; returns the filter mask if it has one."""
    layer.variable("masks", "neuron", jnp.ones, (features,), jnp.float32)
    return layer.variable("masks", "filter", jnp.ones, (features,), jnp.float32).value if filtered else None


def both_axes(size: int | tuple[int, int]) -> tuple[int, int]:
    """A size along both axes; one number is the same along both."""
    return (size, size) if isinstance(size, int) else size


def _has_bias(layer: "Conv | Dense") -> bool:
    """Whether the layer's parameters have a bias; new ones have it where the layer is declared with one."""
    return layer.use_bias if layer.is_initializing() else layer.has_variable("params", "bias")


class Conv(nn.Module):
    """Convolution with explicit padding and groups and, in the ``conv_output`` placement, a filter mask.

    The kernel's ``size`` and the zeros around the image, ``pad``, are those of both axes, or (height, width).
    """

    features: int
    size: int | tuple[int, int]
    stride: int = 1
    pad: int | tuple[int, int] = 0
    groups: int = 1
    use_bias: bool = False
    placement: Placement = "bn_scale"
    precision: Precision = "float32"

    @property
    def window(self) -> Window:
        """How the kernel moves over the input."""
        rows, columns = both_axes(self.pad)
        return Window(self.stride, ((rows, rows), (columns, columns)), self.groups)

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B Ho Wo F"]:
        """Applies the layer."""
        dtype = _DTYPE[self.precision]
        shape = (*both_axes(self.size), x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", _he_normal, shape, jnp.float32)
        mask = _masks(self, self.features, filtered=self.placement == "conv_output")
        y = conv2d(x.astype(dtype), kernel.astype(dtype), window=self.window, precision=_MATMUL[self.precision])
        if _has_bias(self):
            y = y + self.param("bias", _zeros, (self.features,), jnp.float32).astype(dtype)[None, None, None]
        return y if mask is None else y * mask.astype(dtype)[None, None, None]

    def scaled(
        self, x: Float[Array, "B H W C"], factor: Float[Array, "F"], offset: Float[Array, "F"]
    ) -> Float[Array, "B Ho Wo F"]:
        """The layer's output times ``factor`` plus ``offset``, as one convolution with a bias; for a bound layer."""
        dtype = _DTYPE[self.precision]
        if self.has_variable("masks", "filter"):
            factor = factor * self.get_variable("masks", "filter")
        if self.has_variable("params", "bias"):
            offset = offset + factor * self.get_variable("params", "bias")
        kernel = self.get_variable("params", "kernel") * factor[None, None, None]
        y = conv2d(x.astype(dtype), kernel.astype(dtype), window=self.window, precision=_MATMUL[self.precision])
        return y + offset.astype(dtype)[None, None, None]


class BatchNorm(nn.Module):
    """Batch normalisation as torch computes it: biased variance to normalise, unbiased in the running variance.

    ``momentum`` is torch's (new = (1 - momentum)·old + momentum·batch). In training mode the updated statistics are
    written to the mutable collection ``batch_stats``. Where the ``precision`` of the network is not float32, mean and
    variance come from one pass over the input instead of two.

    Raises:
      DataError: in training mode, a channel has a single value, which has no unbiased variance.
    """

    placement: Placement = "bn_scale"
    momentum: float = 0.1
    eps: float = 1e-5
    precision: Precision = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W F"], train: bool, before: "tuple[Conv, jax.Array] | None" = None
    ) -> Float[Array, "B H W F"]:
        """Applies the layer; as one with the convolution ``before`` it, and that one's input, where these are given."""
        features = x.shape[-1]
        scale = self.param("scale", _ones, (features,), jnp.float32)
        bias = self.param("bias", _zeros, (features,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        mask = _masks(self, features, filtered=self.placement in ("bn_scale", "channel"))
        x32 = x.astype(jnp.float32)
        if train:
            mean, var = _moments(x32) if self.precision == "float32" else _moments_in_one_pass(x32)
            if not self.is_initializing():
                n = x.size // features
                if n == 1:
                    raise DataError(
                        f"{'.'.join(self.path)} has 1 value per channel to compute statistics from, expected 2 or "
                        "more: the batch has one image, which is one pixel at this layer; choose a batch size that "
                        "does not leave a last batch of one image, or larger images"
                    )
                unbiased = var * (n / (n - 1))
                running_mean.value = (1 - self.momentum) * running_mean.value + self.momentum * mean
                running_var.value = (1 - self.momentum) * running_var.value + self.momentum * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        if mask is not None:
            scale = scale * mask
            bias = bias * mask if self.placement == "channel" else bias
        factor = scale * lax.rsqrt(var + self.eps)
        if before is not None:
            conv, image = before
            return conv.scaled(image, factor, bias - mean * factor)
        return ((x32 - mean[None, None, None]) * factor[None, None, None] + bias[None, None, None]).astype(x.dtype)


def _moments(x: Float[Array, "B H W F"]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [F], as torch computes them."""
    mean = x.mean((0, 1, 2))
    return mean, jnp.square(x - mean[None, None, None]).mean((0, 1, 2))


def _moments_in_one_pass(x: Float[Array, "B H W F"]) -> tuple[jax.Array, jax.Array]:
    """The same, from distances to one of the values, which keeps them accurate where the mean is large."""
    near = lax.stop_gradient(x[0, 0, 0])
    distance = x - near[None, None, None]
    mean = distance.mean((0, 1, 2))
    return mean + near, jnp.maximum(jnp.square(distance).mean((0, 1, 2)) - jnp.square(mean), 0)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis; it has no filter mask."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "... F"]) -> Float[Array, "... F"]:
        """Applies the layer."""
        per_feature = (1,) * (x.ndim - 1) + (-1,)
        scale = self.param("scale", _ones, x.shape[-1:], jnp.float32).reshape(per_feature)
        bias = self.param("bias", _zeros, x.shape[-1:], jnp.float32).reshape(per_feature)
        _masks(self, x.shape[-1], filtered=False)
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return (centred * lax.rsqrt(variance + self.eps) * scale + bias).astype(x.dtype)


class Value(nn.Module):
    """A bare parameter [..., F], such as a class token; its key in the state dict is the layer's own name."""

    shape: tuple[int, ...]
    fill: float = 0.0

    @nn.compact
    def __call__(self) -> Float[Array, "..."]:
        """The parameter."""
        _masks(self, self.shape[-1], filtered=False)
        return self.param("value", nn.initializers.constant(self.fill), self.shape, jnp.float32)


def multiply(x: Float[Array, "... C"], kernel: Float[Array, "C F"], precision: Precision) -> Float[Array, "... F"]:
    """Matrix product in this arithmetic; the result has its type."""
    dtype = _DTYPE[precision]
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), precision=_MATMUL[precision])


class Dense(nn.Module):
    """Linear layer over the last axis; ``masked`` hidden layers carry a filter mask on their units."""

    features: int
    masked: bool = False
    use_bias: bool = True
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... F"]:
        """Applies the layer."""
        dtype = _DTYPE[self.precision]
        kernel = self.param("kernel", _he_normal, (x.shape[-1], self.features), jnp.float32)
        mask = _masks(self, self.features, filtered=self.masked)
        per_feature = (1,) * (x.ndim - 1) + (-1,)
        y = multiply(x, kernel, self.precision)
        if _has_bias(self):
            y = y + self.param("bias", _zeros, (self.features,), jnp.float32).astype(dtype).reshape(per_feature)
        return y if mask is None else y * mask.astype(dtype).reshape(per_feature)


def max_pool(
    x: Float[Array, "B H W F"], size: int, stride: int, pad: int = 0, *, ceil: bool = False
) -> Float[Array, "B Ho Wo F"]:
    """Maximum over windows, padded with minus infinity; with ``ceil``, the last window may reach over the edge."""
    over = [-(side + 2 * pad - size) % stride if ceil else 0 for side in x.shape[1:3]]
    pads = ((0, 0), *((pad, pad + more) for more in over), (0, 0))
    padded = jnp.pad(x, pads, constant_values=-jnp.inf)
    return nn.max_pool(padded, (size, size), (stride, stride))


def avg_pool(x: Float[Array, "B H W F"], size: int) -> Float[Array, "B Ho Wo F"]:
    """Mean over adjacent size x size windows; leftover rows and columns at the end are not read."""
    rows, columns = x.shape[1] // size, x.shape[2] // size
    whole = x[:, : rows * size, : columns * size]
    return whole.reshape(x.shape[0], rows, size, columns, size, x.shape[3]).mean((2, 4))


def adaptive_avg_pool(x: Float[Array, "B H W F"], side: int) -> Float[Array, "B S S F"]:
    """Mean over side x side windows that cover the image as in torch; they overlap if the image is smaller."""
    for axis in (1, 2):
        size = x.shape[axis]
        windows = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
        if size != side:
            x = jnp.stack([lax.slice_in_dim(x, *each, axis=axis).mean(axis) for each in windows], axis)
    return x


def flatten(x: Float[Array, "B H W F"]) -> Float[Array, "B D"]:
    """Flattens images in torch's order, channels first, so that the next layer's weights need no reordering."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def attend(
    query: Float[Array, "... T D"],
    key: Float[Array, "... T D"],
    value: Float[Array, "... T D"],
    heads: int,
    precision: Precision,
    bias: Float[Array, "... N T T"] | float = 0.0,
) -> Float[Array, "... T D"]:
    """Scaled dot-product attention of every token to all T tokens; each head has D / heads adjacent channels.

    ``bias`` is added to the scaled scores of the N heads.
    """
    q, k, v = (each.reshape(*each.shape[:-1], heads, -1) for each in (query, key, value))
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k, precision=_MATMUL[precision]).astype(jnp.float32)
    weights = nn.softmax(scores / math.sqrt(q.shape[-1]) + bias).astype(v.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, v, precision=_MATMUL[precision]).reshape(query.shape)
