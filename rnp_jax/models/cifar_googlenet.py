"""GoogLeNet (Szegedy et al. 2015) with batch norm for 32-pixel images: kuangliu's and weiaicunzai's.

weiaicunzai's has three convolutions in its stem and pools behind them. Its batch norms behind the first 3x3 convolution
of the branch ``b3`` have an epsilon of their own: their number of channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units

Widths = tuple[int, int, int, int, int, int]
"""Filters: b1, b2's 1x1 and 3x3 convolutions, b3's 1x1 and 3x3 convolutions, b4."""

MODULES: Mapping[str, Widths] = MappingProxyType(
    {
        "a3": (64, 96, 128, 16, 32, 32),
        "b3": (128, 128, 192, 32, 96, 64),
        "a4": (192, 96, 208, 16, 48, 64),
        "b4": (160, 112, 224, 24, 64, 64),
        "c4": (128, 128, 256, 24, 64, 64),
        "d4": (112, 144, 288, 32, 64, 64),
        "e4": (256, 160, 320, 32, 128, 128),
        "a5": (256, 160, 320, 32, 128, 128),
        "b5": (384, 192, 384, 48, 128, 128),
    }
)
_POOLED = ("a4", "a5")  # max-pooling comes before them


@dataclass(frozen=True)
class Inception:
    """Four branches side by side."""

    widths: Widths
    pooled: bool
    eps: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the module, behind max-pooling of stride 2 if it is ``pooled``."""
        x = g.max_pool(x, 3, 2, 1) if self.pooled else x
        one, few3, three, few5, five, pool = self.widths
        y1 = g.unit(x, Layer("b1.0", "b1.1", one, bias=True))
        y2 = g.unit(x, Layer("b2.0", "b2.1", few3, bias=True))
        y2 = g.unit(y2, Layer("b2.3", "b2.4", three, 3, bias=True))
        y3 = g.unit(x, Layer("b3.0", "b3.1", few5, bias=True))
        y3 = g.unit(y3, Layer("b3.3", "b3.4", five, 3, bias=True, eps=float(five) if self.eps else None))
        y3 = g.unit(y3, Layer("b3.6", "b3.7", five, 3, bias=True))
        y4 = g.unit(g.max_pool(x, 3, 1, 1), Layer("b4.1", "b4.2", pool, bias=True))
        return g.concat(y1, y2, y3, y4)


def _parts(modules: Mapping[str, Widths], other: bool, width: int) -> Parts:
    published = 64 if other else 192
    parts = []
    for name, widths in modules.items():
        scale = [scaled(channels, width, published) for channels in widths]
        pooled = name in _POOLED or (other and not parts)
        parts.append((name, Inception((scale[0], scale[1], scale[2], scale[3], scale[4], scale[5]), pooled, other)))
    if other:
        features = (width, width, 3 * width)
        first = tuple(Layer(f"prelayer.{3 * i}", f"prelayer.{3 * i + 1}", n, 3) for i, n in enumerate(features))
    else:
        first = (Layer("pre_layers.0", "pre_layers.1", width, 3, bias=True),)
    return ("", Units(first)), *parts


def design(modules: Mapping[str, Widths], *, other: bool = False) -> Design:
    """Modules by name behind kuangliu's stem, or weiaicunzai's (``other``)."""
    stem, width = ("prelayer.0", 64) if other else ("pre_layers.0", 192)
    return graph_design(partial(_parts, modules, other), stem, "linear", width)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"cifar_googlenet": design(MODULES), "weiaicunzai_googlenet": design(MODULES, other=True)}
)
