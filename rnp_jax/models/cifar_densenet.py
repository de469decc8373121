"""DenseNet (Huang et al. 2017) for 32-pixel images; the growth rate is half the number of channels of the stem.

| names | layers of the blocks | by |
|---|---|---|
| ``cifar_densenet…`` | DenseNet's own, four blocks; ``densenet_cifar`` is 121 with a growth rate of 12 | kuangliu |
| ``weiaicunzai_densenet…`` | the same; transitions have no ReLU | weiaicunzai |
| ``bearpaw_densenet…`` | three blocks of (L - 4) / 6; ``densenet-bc-100-12``, ``densenet-bc-190-40`` | bearpaw |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from rnp_jax.models.design import Design
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Norm, stem

_BOTTLENECK = 4  # channels inside a dense layer, in growth rates


class Source(NamedTuple):
    """How a source names and joins the layers.

    Attributes:
      layer: prefix of a dense layer, for its block and its position; blocks are counted from 1, or as ``index`` from 0.
      last: the same in the last block.
      names: the dense layer's norm, convolution, norm, convolution.
      transition: prefix of a transition.
      between: the transition's norm and convolution.
      norm: the last batch norm.
      head: the classifier.
      first: whether new channels come before the old ones.
      rectified: whether transitions have a ReLU.
    """

    layer: str
    last: str
    names: tuple[str, str, str, str]
    transition: str
    between: tuple[str, str]
    norm: str
    head: str
    first: bool = False
    rectified: bool = True


_NAMES = ("bn1", "conv1", "bn2", "conv2")
KUANGLIU = Source("dense{block}.{i}", "dense{block}.{i}", _NAMES, "trans{block}", ("bn", "conv"), "bn", "linear", True)
BEARPAW = KUANGLIU._replace(between=("bn1", "conv1"), head="fc", first=False)
WEIAICUNZAI = Source(
    "features.dense_block_layer_{index}.bottle_neck_layer_{i}",
    "features.dense_block{index}.bottle_neck_layer_{i}",
    ("bottle_neck.0", "bottle_neck.2", "bottle_neck.3", "bottle_neck.5"),
    "features.transition_layer_{index}",
    ("down_sample.0", "down_sample.1"),
    "features.bn",
    "linear",
    rectified=False,
)


@dataclass(frozen=True)
class DenseLayer:
    """Adds ``growth`` channels through a 1x1 bottleneck."""

    growth: int
    names: tuple[str, str, str, str]
    first: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the layer."""
        norm1, conv1, norm2, conv2 = self.names
        out = g.preactivated(x, Layer(conv1, norm1, _BOTTLENECK * self.growth))
        out = g.preactivated(out, Layer(conv2, norm2, self.growth, 3))
        return g.concat(out, x) if self.first else g.concat(x, out)


@dataclass(frozen=True)
class Transition:
    """Halves the channels and the image."""

    names: tuple[str, str]
    rectified: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the transition."""
        norm, conv = self.names
        layer = Layer(conv, norm, g.channels(x) // 2, activation="relu" if self.rectified else None)
        return g.avg_pool(g.preactivated(x, layer), 2, 2)


def _parts(depths: tuple[int, ...], source: Source, width: int) -> Parts:
    layer = DenseLayer(max(1, width // 2), source.names, source.first)
    transition, parts = Transition(source.between, source.rectified), []
    for index, depth in enumerate(depths):
        last = index == len(depths) - 1
        name = source.last if last else source.layer
        parts += [(name.format(block=index + 1, index=index, i=i), layer) for i in range(depth)]
        if not last:
            parts.append((source.transition.format(block=index + 1, index=index), transition))
    return stem("conv1", None, width), *parts, ("", Norm(source.norm))


def design(depths: tuple[int, ...], source: Source, growth: int) -> Design:
    """A DenseNet with the names of a source and the published growth rate."""
    return graph_design(partial(_parts, depths, source), "conv1", source.head, 2 * growth)


_DEPTHS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        f"{prefix}_densenet{depth}": design(depths, source, 48 if depth == 161 else 32)
        for prefix, source in (("cifar", KUANGLIU), ("weiaicunzai", WEIAICUNZAI))
        for depth, depths in _DEPTHS.items()
    }
    | {f"bearpaw_densenet{depth}": design(((depth - 4) // 6,) * 3, BEARPAW, k) for depth, k in ((100, 12), (190, 40))}
)
