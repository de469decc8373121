"""Deep Layer Aggregation (Yu et al. 2018) for 32-pixel images, and the simple version, of kuangliu's pytorch-cifar."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Residual, Units

WIDTH = 16
TREES = ((4, 1, 1), (8, 2, 2), (16, 2, 2), (32, 1, 2))  # channels in widths, levels, stride


@dataclass(frozen=True)
class Tree:
    """Two blocks, or two trees of a level less, and a root that reads the outputs of both.

    A tree of DLA with several levels has smaller trees and then two blocks; its root reads all of them, and a block of
    its own that reads the input.
    """

    features: int
    levels: int
    stride: int
    simple: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the tree."""
        if self.simple:
            left = self._simple(g, "left_tree", x, self.stride)
            read = [left, self._simple(g, "right_tree", left, 1)]
        else:
            read = [self._block(g, "prev_root", x, self.stride)] if self.levels > 1 else []
            for level in range(self.levels - 1, 0, -1):
                x = Tree(self.features, level, self.stride, False)(g.below(f"level_{level}"), x)
                read.append(x)
            x = self._block(g, "left_node", x, self.stride if self.levels == 1 else 1)
            read += [x, self._block(g, "right_node", x, 1)]
        return g.unit(g.concat(*read), Layer("root.conv", "root.bn", self.features))

    def _simple(self, g: Graph, name: str, x: Image, stride: int) -> Image:
        if self.levels == 1:
            return self._block(g, name, x, stride)
        return Tree(self.features, self.levels - 1, stride, True)(g.below(name), x)

    def _block(self, g: Graph, name: str, x: Image, stride: int) -> Image:
        features = self.features
        layers = (Layer("conv1", "bn1", features, 3, stride), Layer("conv2", "bn2", features, 3, activation=None))
        projects = stride != 1 or g.channels(x) != features
        shortcut = Layer("shortcut.0", "shortcut.1", features, stride=stride, activation=None) if projects else None
        return Residual(layers, shortcut)(g.below(name), x)


def _parts(trees: tuple[tuple[int, int, int], ...], simple: bool, width: int) -> Parts:
    plain = {"base": width, "layer1": width, "layer2": 2 * width}
    first = tuple(Layer(f"{name}.0", f"{name}.1", features, 3) for name, features in plain.items())
    grown = (Tree(widths * width, levels, stride, simple) for widths, levels, stride in trees)
    return ("", Units(first)), *((f"layer{i}", tree) for i, tree in enumerate(grown, 3))


def design(trees: tuple[tuple[int, int, int], ...], *, simple: bool) -> Design:
    """A network of these trees."""
    return graph_design(partial(_parts, trees, simple), "base.0", "linear", WIDTH)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"cifar_dla": design(TREES, simple=False), "cifar_simple_dla": design(TREES, simple=True)}
)
