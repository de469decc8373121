"""A network as a sequence of segments, each of which can also run alone.

This lets a sweep over pruned variants restart at the first segment that a variant changed, and lets equal segments
share one compiled program.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnp_jax.types import Variables

Activation = Literal["relu", "relu6", "elu", "hard_swish", "silu", "gelu"]

ACTIVATIONS: Mapping[Activation, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "relu": nn.relu,
        "relu6": nn.relu6,
        "elu": nn.elu,
        "hard_swish": nn.hard_swish,
        "silu": nn.silu,
        "gelu": lambda x: nn.gelu(x, approximate=False),
    }
)
"""Elementwise functions, computed as in torch."""

ACTIVATED = "activated"
"""The collection that keeps what activations return, where an application asks for it."""


def activate(parent: nn.Module, layer: str, z: jax.Array, activation: Activation = "relu") -> jax.Array:
    """The activation a that follows a layer, or min(a, max(b, 0)) where the masks of the layer have a ``bound`` b.

    Args:
      parent: the module that applies it.
      layer: name of the last of the module's layers before the activation.
      z: its input [B, ...]; the bound has the shape [...].
      activation: which one.
    """
    a = ACTIVATIONS[activation](z)
    bound = parent.get_variable("masks", layer, {}).get("bound")
    if bound is not None:
        highest = jnp.where(bound >= 0, bound, 0).astype(a.dtype)[None]  # with torch's slopes where values are equal
        a = jnp.where(a > highest, highest, a)
    if parent.is_mutable_collection(ACTIVATED) and not parent.is_initializing():
        parent.put_variable(ACTIVATED, layer, a)
    return a


class Segment(NamedTuple):
    """Part of a network: a module from one activation to the next.

    Attributes:
      layers: top-level names of its variables.
      module: the module, called with (x, train).
      nested: whether the module's variables lie below a single layer name; if not, ``layers`` are the module's own
        layer names.
    """

    layers: tuple[str, ...]
    module: nn.Module
    nested: bool

    def select(self, variables: Variables) -> Variables:
        """The part of the network's variables that ``module`` needs."""
        if self.nested:
            return {name: tree[self.layers[0]] for name, tree in variables.items() if self.layers[0] in tree}
        return {
            name: {layer: tree[layer] for layer in self.layers if layer in tree} for name, tree in variables.items()
        }

    def holds(self, layer: str) -> bool:
        """Whether the segment contains the layer with this full name."""
        return any(layer == name or layer.startswith(f"{name}.") for name in self.layers)


class Site(NamedTuple):
    """F channels or units that a defense can score: outputs of a batch norm, or of a layer without batch norm after it.

    Attributes:
      layer: full name of the layer.
      producers: for a batch norm, the convolutions whose outputs it normalises: several if a residual stream sums them
        first (identity shortcuts are left out), none if it reads a concatenation of several layers' channels. For a
        convolution or hidden linear layer, the layer itself.
      activation: the activation that alone reads the site; None if the output is added to a residual stream or read
        unchanged.
      direct: whether the site normalises the producers' outputs directly, with no activation or pooling in between.
    """

    layer: str
    producers: tuple[str, ...]
    activation: Activation | None
    direct: bool = True

    def activate(self, z: jax.Array) -> jax.Array:
        """The site's output after its activation."""
        return z if self.activation is None else ACTIVATIONS[self.activation](z)


class Chain(nn.Module):
    """Base of the architectures: applies its segments in order."""

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """The segments, in order, as separate modules."""
        raise TypeError(f"{type(self).__name__} is not an architecture: it does not define its segments")

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The sites that can be scored, in forward order."""
        raise TypeError(f"{type(self).__name__} is not an architecture: it does not define its sites")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images [B, H, W, C]; with ``features``, the input of the last segment [B, D].

        Features are the spatial mean of the activation before the last segment.
        """
        for segment in self.segments()[: -1 if features else None]:
            name = segment.layers[0] if segment.nested else None
            module = segment.module.clone(parent=self, name=name)
            if not segment.nested:
                nn.share_scope(self, module)
            x = module(x, train)
        return x.mean((1, 2)) if x.ndim == 4 else x
