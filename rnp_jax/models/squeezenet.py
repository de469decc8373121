"""SqueezeNet (Iandola et al. 2016), 1.0 and 1.1, as torchvision publishes them.

The last layer is a 1x1 convolution: a linear layer on every pixel's channels, whose outputs are rectified and then
averaged over space. There is no batch norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import flax.linen as nn
from jaxtyping import Array, Float

from rnp_jax.models.chain import Segment, activate
from rnp_jax.models.design import Design, Sizes, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Part, Parts
from rnp_jax.models.graph_net import GraphNet, graph_design
from rnp_jax.models.inverted_residual import Style
from rnp_jax.models.layers import Dense, Placement, Precision

_HEAD = "classifier.1"
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Filters of each module's squeezing layer and of each of its two expanding ones: Table 1."""


@dataclass(frozen=True)
class Stem:
    """The first convolution, which is not padded."""

    features: int
    size: int

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the part."""
        return g.unit(x, Layer("features.0", None, self.features, self.size, 2, bias=True, pad=0))


@dataclass(frozen=True)
class Fire:
    """A 1x1 convolution to few channels, then a 1x1 and a 3x3 one whose outputs are put together."""

    squeezed: int
    expanded: int
    pooled: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the module, behind max-pooling if it is ``pooled``."""
        x = g.max_pool(x, 3, 2, ceil=True) if self.pooled else x
        x = g.unit(x, Layer("squeeze", None, self.squeezed, bias=True))
        sizes = (("expand1x1", 1), ("expand3x3", 3))
        return g.concat(*(g.unit(x, Layer(name, None, self.expanded, size, bias=True)) for name, size in sizes))


class Head(nn.Module):
    """The classifier: a linear layer on every pixel, ReLU, and the mean over space."""

    num_classes: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B K"]:
        """Applies the head."""
        del train  # nothing in it depends on the mode
        return activate(self, _HEAD, Dense(self.num_classes, precision=self.precision, name=_HEAD)(x)).mean((1, 2))


class SqueezeNet(GraphNet):
    """The parts, and a rectified classifier."""

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, modules, classifier."""
        head = Head(self.num_classes, self.style.precision, parent=None)
        return *super().segments()[:-1], Segment((_HEAD,), head, nested=False)


def _parts(published: int, size: int, pooled: tuple[int, ...], width: int) -> Parts:
    """``pooled`` are the positions of the modules behind a pooling, which takes a number of its own."""
    parts: list[tuple[str, Part]] = [("", Stem(width, size))]
    number = 1
    for i, fire in enumerate(_FIRES):
        number += 2 if i in pooled else 1
        squeezed, expanded = (scaled(channels, width, published) for channels in fire)
        parts.append((f"features.{number}", Fire(squeezed, expanded, i in pooled)))
    return tuple(parts)


def design(width: int, size: int, pooled: tuple[int, ...]) -> Design:
    """A network with a stem of this width and kernel."""
    make = partial(_parts, width, size, pooled)

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> SqueezeNet:
        return SqueezeNet(make(sizes.width), _HEAD, sizes.num_classes, Style(placement, precision))

    found = graph_design(make, "features.0", _HEAD, width, image_side=224)
    return found._replace(build=build, placement="conv_output", axes=((_HEAD, (0, 2)),))


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"squeezenet1_0": design(96, 7, (0, 3, 7)), "squeezenet1_1": design(64, 3, (0, 2, 4))}
)
