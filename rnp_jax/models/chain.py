"""A network as a row of segments, each of which can also run alone.

Running alone is what lets a sweep over pruned variants restart at the first segment that a variant changed, and lets
equal segments share one compiled program.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import flax.linen as nn
import jax

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
"""Elementwise functions, each as torch computes it."""


class Segment(NamedTuple):
    """Part of a network: a module from one activation to the next.

    Attributes:
      layers: the top-level names of its variables.
      module: takes (x, train); a single layer name means that its variables lie below that name.
      nested: whether they do; otherwise the module's own layer names are ``layers``.
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
        """Whether a layer of this full name lies in the segment."""
        return any(layer == name or layer.startswith(f"{name}.") for name in self.layers)


class Site(NamedTuple):
    """F channels or units that a defense can score: outputs of a batch norm, or of a layer without one behind.

    Attributes:
      layer: its full name.
      producers: the convolutions whose outputs it normalises (several where they are summed in a residual stream
        first, identity shortcuts left out; none where it reads a concatenation of several layers' channels), or the
        convolution or hidden linear layer itself.
      activation: what alone reads it; None where it is added to a residual stream, or is read as it is.
      direct: whether it normalises the producers' outputs as they are, with no activation or pooling between.
    """

    layer: str
    producers: tuple[str, ...]
    activation: Activation | None
    direct: bool = True

    def activate(self, z: jax.Array) -> jax.Array:
        """What is read of the site's output."""
        return z if self.activation is None else ACTIVATIONS[self.activation](z)


class Chain(nn.Module):
    """Base of the architectures: applies its segments in order."""

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """The segments, in order, as modules of their own."""
        raise TypeError(f"{type(self).__name__} is not an architecture: it does not define its segments")

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """What can be scored, in forward order."""
        raise TypeError(f"{type(self).__name__} is not an architecture: it does not define its sites")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, features: bool = False) -> jax.Array:
        """Logits [B, K] of normalised images [B, H, W, C]; with ``features``, what the last segment classifies [B, D].

        Features are the mean over space of the activation before the last segment.
        """
        for segment in self.segments()[: -1 if features else None]:
            name = segment.layers[0] if segment.nested else None
            module = segment.module.clone(parent=self, name=name)
            if not segment.nested:
                nn.share_scope(self, module)
            x = module(x, train)
        return x.mean((1, 2)) if x.ndim == 4 else x
