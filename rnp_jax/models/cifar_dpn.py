"""Dual Path Networks (Chen et al. 2017) for 32-pixel images, of kuangliu's pytorch-cifar.

The first channels of a block's output are added to those of its input, the others appended to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import stages, stem

WIDTH = 64
Row = tuple[int, int, int]
ROWS: tuple[Row, ...] = ((96, 256, 16), (192, 512, 32), (384, 1024, 24), (768, 2048, 128))
"""Of each stage: channels inside the bottlenecks, channels that are added, channels that each block appends."""
_GROUPS = 32


@dataclass(frozen=True)
class Block:
    """One bottleneck; the first of a stage projects its input."""

    inner: int
    added: int
    appended: int
    stride: int
    groups: int
    first: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block."""
        outputs = self.added + self.appended
        out = g.unit(x, Layer("conv1", "bn1", self.inner))
        out = g.unit(out, Layer("conv2", "bn2", self.inner, 3, self.stride, self.groups))
        out = g.unit(out, Layer("conv3", "bn3", outputs, activation=None))
        if self.first:
            x = g.unit(x, Layer("shortcut.0", "shortcut.1", outputs, stride=self.stride, activation=None))
        (old, kept), (new, more) = g.split(x, self.added), g.split(out, self.added)
        return g.activate(g.concat(g.add(old, new), kept, more), "bn3")


def _parts(rows: tuple[Row, ...], depths: tuple[int, ...], width: int) -> Parts:
    blocks = []
    for stage, (row, depth) in enumerate(zip(rows, depths, strict=True)):
        inner, added, appended = (scaled(channels, width, WIDTH) for channels in row)
        groups, stride = scaled(_GROUPS, width, WIDTH), 2 if stage else 1
        blocks.append([Block(inner, added, appended, 1 if i else stride, groups, first=i == 0) for i in range(depth)])
    return stem("conv1", "bn1", width), *stages("layer{}.{}", blocks)


def design(rows: tuple[Row, ...], depths: tuple[int, ...]) -> Design:
    """A network of these stages; its sizes grow with the stem, and so does the number of groups."""
    return graph_design(partial(_parts, rows, depths), "conv1", "linear", WIDTH)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"cifar_dpn26": design(ROWS, (2, 2, 2, 2)), "cifar_dpn92": design(ROWS, (3, 4, 20, 3))}
)
