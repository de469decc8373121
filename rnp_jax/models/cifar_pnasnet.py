"""PNASNet (Liu et al. 2018) for 32-pixel images with the cells A and B of kuangliu's pytorch-cifar."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import stem

_CELLS = 6  # between two cells that halve the image


@dataclass(frozen=True)
class Cell:
    """A cell, B if it is ``wide`` and A if not; with stride 2 it projects what it pools."""

    features: int
    stride: int
    wide: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the cell."""
        left = self._separable(g, x, 1, 7)
        pooled = g.max_pool(x, 3, self.stride, 1)
        if self.stride == 2:
            pooled = g.unit(pooled, Layer("conv1", "bn1", self.features, activation=None))
        if not self.wide:
            return g.activate(g.add(left, pooled), "sep_conv1.bn1")
        left = g.activate(g.add(left, self._separable(g, x, 2, 3)), "sep_conv2.bn1")
        right = g.activate(g.add(pooled, self._separable(g, x, 3, 5)), "sep_conv3.bn1")
        return g.unit(g.concat(left, right), Layer("conv2", "bn2", self.features))

    def _separable(self, g: Graph, x: Image, number: int, size: int) -> Image:
        """A convolution of every channel by itself, which may give two channels for one."""
        names = (f"sep_conv{number}.conv1", f"sep_conv{number}.bn1")
        return g.unit(x, Layer(*names, self.features, size, self.stride, g.channels(x), activation=None))


def _parts(cells: int, wide: bool, width: int) -> Parts:
    parts = [stem("conv1", "bn1", width)]
    for stage in range(3):
        features = width * 2**stage
        parts += [(f"layer{2 * stage}", Cell(features, 2, wide))] if stage else []
        parts += [(f"layer{2 * stage + 1}.{i}", Cell(features, 1, wide)) for i in range(cells)]
    return tuple(parts)


def design(width: int, *, wide: bool, cells: int = _CELLS) -> Design:
    """A network of cells of one kind; ``width`` is the published one."""
    return graph_design(partial(_parts, cells, wide), "conv1", "linear", width)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"cifar_pnasnet_a": design(44, wide=False), "cifar_pnasnet_b": design(32, wide=True)}
)
