"""The graph that computes: it declares layers in the flax module that is being called."""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnp_jax.models.chain import activate
from rnp_jax.models.graph import Graph, Image, Part
from rnp_jax.models.inverted_residual import Style
from rnp_jax.models.layers import BatchNorm, Conv, Dense, avg_pool, both_axes, max_pool


def compute(part: Part, module: nn.Module, x: Image, style: Style, *, train: bool) -> Image:
    """Applies a part, whose layers become those of the module that is being called."""
    return part(_ComputingGraph(module, train, style), x)


@dataclass(frozen=True)
class _ComputingGraph(Graph):
    """Declares layers in the module that is being called, and computes."""

    module: nn.Module
    train: bool
    style: Style
    prefix: str = ""

    def conv(self, x, layer, *, masked=True):
        name, _, features, size, stride, groups, bias, *_, pad = layer
        placement = self.style.placement if masked else "bn_scale"
        height, width = both_axes(size)
        pad, name = (height // 2, width // 2) if pad is None else pad, self.prefix + name
        return Conv(features, size, stride, pad, groups, bias, placement, self.style.precision, name=name)(x)

    def norm(self, x, name, eps=None):
        placement, precision, published, momentum = self.style
        return BatchNorm(placement, momentum, eps or published, precision, name=self.prefix + name)(x, self.train)

    def idle(self, x, layer):
        unmasked = replace(self, train=False, style=self.style._replace(placement="unit"))
        unmasked.norm(unmasked.conv(x, layer), layer.norm or "")

    def dense(self, x, name, units):
        x = x.mean((1, 2)) if x.ndim == 4 else x
        return Dense(units, precision=self.style.precision, name=self.prefix + name)(x)

    def activate(self, x, after, activation="relu"):
        return activate(self.module, self.prefix + after, x, activation)

    def add(self, *xs):
        return sum(xs[1:], xs[0])

    def concat(self, *xs):
        return jnp.concatenate(xs, -1)

    def split(self, x, at):
        return x[..., :at], x[..., at:]

    def shuffle(self, x, groups):
        return x.reshape(*x.shape[:3], groups, -1).swapaxes(3, 4).reshape(x.shape)

    def max_pool(self, x, size, stride, pad=0, *, ceil=False):
        return max_pool(x, size, stride, pad, ceil=ceil)

    def avg_pool(self, x, size, stride, pad=0):
        if size == stride and not pad:
            return avg_pool(x, size)
        around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        zero = np.zeros((), x.dtype)
        return lax.reduce_window(x, zero, lax.add, (1, size, size, 1), (1, stride, stride, 1), around) / size**2

    def mean(self, x):
        return x.mean((1, 2), keepdims=True)

    def gate(self, x, weights):
        return x * nn.sigmoid(weights).reshape(len(x), 1, 1, -1)

    def channels(self, x):
        return x.shape[-1]

    def below(self, name):
        return replace(self, prefix=f"{self.prefix}{name}.")
