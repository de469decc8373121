"""EfficientNet-B0 (Tan & Le 2019) for 32-pixel images, of kuangliu's pytorch-cifar.

The first block has the layers of an expansion that it does not use. Stochastic depth and dropout are left out, even in
training mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Squeeze, Units

WIDTH = 32
Stage = tuple[int, int, int, int, int]
STAGES: tuple[Stage, ...] = (  # expansion, channels, blocks, kernel, stride
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


@dataclass(frozen=True)
class Block:
    """An inverted residual block with squeeze-and-excitation."""

    expansion: int
    features: int
    size: int
    stride: int

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block."""
        inputs = g.channels(x)
        middle = inputs * self.expansion
        expand, out = Layer("conv1", "bn1", middle, activation="silu"), x
        if self.expansion == 1:
            g.idle(x, expand)
        else:
            out = g.unit(x, expand)
        out = g.unit(out, Layer("conv2", "bn2", middle, self.size, self.stride, middle, activation="silu"))
        out = Squeeze("se.se1", "se.se2", max(1, inputs // 4), "silu")(g, out)
        out = g.unit(out, Layer("conv3", "bn3", self.features, activation=None))
        return g.add(out, x) if self.stride == 1 and inputs == self.features else out


def _parts(rows: tuple[Stage, ...], width: int) -> Parts:
    blocks = [
        Block(expansion, scaled(channels, width, WIDTH), size, 1 if i else stride)
        for expansion, channels, count, size, stride in rows
        for i in range(count)
    ]
    first = Layer("conv1", "bn1", width, 3, activation="silu")
    return ("", Units((first,))), *((f"layers.{i}", block) for i, block in enumerate(blocks))


def design(rows: tuple[Stage, ...]) -> Design:
    """A network of these stages."""
    return graph_design(partial(_parts, rows), "conv1", "linear", WIDTH)


DESIGNS: Mapping[str, Design] = MappingProxyType({"cifar_efficientnet_b0": design(STAGES)})
