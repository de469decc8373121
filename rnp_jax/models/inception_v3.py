"""Inception v3 (Szegedy et al. 2016) as torchvision publishes it, for images of 299 pixels, at least 75.

The auxiliary classifier (``AuxLogits``) is read in training only: a file keeps it as it is. torchvision's pretrained
network scales its input to the mean 0.5 and the deviation 0.5 of each channel first, as a normalisation can.

huyvnphan's network for CIFAR has a single convolution, of stride 1, in the place of the stem.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units

WIDTH = 32
_SMALL = 192  # width of huyvnphan's
_EPS = 1e-3

_TALL, _WIDE = (7, 1), (1, 7)


@dataclass(frozen=True)
class Stem:
    """Five convolutions and two poolings."""

    width: int

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the part."""
        w = self.width
        x = g.unit(x, _layer("Conv2d_1a_3x3", w, 3, 2, 0))
        x = g.unit(x, _layer("Conv2d_2a_3x3", w, 3, 1, 0))
        x = g.max_pool(g.unit(x, _layer("Conv2d_2b_3x3", 2 * w, 3)), 3, 2)
        x = g.unit(x, _layer("Conv2d_3b_1x1", scaled(80, w, WIDTH)))
        return g.max_pool(g.unit(x, _layer("Conv2d_4a_3x3", 6 * w, 3, 1, 0)), 3, 2)


@dataclass(frozen=True)
class Module:
    """Branches whose outputs are put together; the last one pools.

    Attributes:
      branches: layers in a row; a row of layers inside a branch all read the same, and are put together.
      pooled: filters behind the average pooling; None for bare max-pooling with stride 2.
    """

    branches: tuple[tuple[tuple[Layer, ...], ...], ...]
    pooled: int | None

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the module."""
        ends = []
        for branch in self.branches:
            out = x
            for row in branch:
                outs = [g.unit(out, layer) for layer in row]
                out = g.concat(*outs) if len(outs) > 1 else outs[0]
            ends.append(out)
        if self.pooled is None:
            return g.concat(*ends, g.max_pool(x, 3, 2))
        return g.concat(*ends, g.unit(g.avg_pool(x, 3, 1, 1), _layer("branch_pool", self.pooled)))


def _layer(name: str, features: int, size: int | tuple[int, int] = 1, stride: int = 1, pad: int | None = None) -> Layer:
    return Layer(f"{name}.conv", f"{name}.bn", features, size, stride, pad=pad)


def _row(prefix: str, *sizes: tuple[int, int | tuple[int, int]]) -> tuple[tuple[Layer, ...], ...]:
    """Layers ``prefix_1``, ``prefix_2``, … of these filters and kernels."""
    return tuple((_layer(f"{prefix}_{i}", features, size),) for i, (features, size) in enumerate(sizes, 1))


def _halving(row: tuple[tuple[Layer, ...], ...]) -> tuple[tuple[Layer, ...], ...]:
    """The row with stride 2 and no padding in its last layer."""
    *before, (last,) = row
    return *before, (last._replace(stride=2, pad=0),)


def _parts(small: bool, width: int) -> Parts:
    def w(channels: int) -> int:
        return scaled(channels, width, _SMALL if small else WIDTH)

    def five(pooled: int) -> Module:
        small = _row("branch5x5", (w(48), 1), (w(64), 5))
        double = _row("branch3x3dbl", (w(64), 1), (w(96), 3), (w(96), 3))
        return Module((((_layer("branch1x1", w(64)),),), small, double), w(pooled))

    def seven(inner: int) -> Module:
        c, out = w(inner), w(192)
        single = _row("branch7x7", (c, 1), (c, _WIDE), (out, _TALL))
        double = _row("branch7x7dbl", (c, 1), (c, _TALL), (c, _WIDE), (c, _TALL), (out, _WIDE))
        return Module((((_layer("branch1x1", out),),), single, double), out)

    def split(name: str) -> tuple[Layer, ...]:
        return _layer(f"{name}a", w(384), (1, 3)), _layer(f"{name}b", w(384), (3, 1))

    def last() -> Module:
        single = (*_row("branch3x3", (w(384), 1)), split("branch3x3_2"))
        double = (*_row("branch3x3dbl", (w(448), 1), (w(384), 3)), split("branch3x3dbl_3"))
        return Module((((_layer("branch1x1", w(320)),),), single, double), w(192))

    double = _row("branch3x3dbl", (w(64), 1), (w(96), 3), (w(96), 3))
    first = Module((((_layer("branch3x3", w(384), 3, 2, 0),),), _halving(double)), None)
    single = _row("branch3x3", (w(192), 1), (w(320), 3))
    deep = _row("branch7x7x3", (w(192), 1), (w(192), _WIDE), (w(192), _TALL), (w(192), 3))
    modules = {
        "5b": five(32), "5c": five(64), "5d": five(64),
        "6a": first, "6b": seven(128), "6c": seven(160), "6d": seven(160), "6e": seven(192),
        "7a": Module((_halving(single), _halving(deep)), None), "7b": last(), "7c": last(),
    }  # fmt: skip
    stem = Units((_layer("Conv2d_1a_3x3", width, 3),)) if small else Stem(width)
    return ("", stem), *((f"Mixed_{name}", module) for name, module in modules.items())


def design(*, small: bool) -> Design:
    """torchvision's network, or huyvnphan's (``small``)."""
    width, side = (_SMALL, 32) if small else (WIDTH, 299)
    return graph_design(partial(_parts, small), "Conv2d_1a_3x3.conv", "fc", width, eps=_EPS, image_side=side)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"inception_v3": design(small=False), "huyvnphan_inception_v3": design(small=True)}
)
