"""GoogLeNet (Szegedy et al. 2015) as torchvision publishes it, with batch norm.

The auxiliary classifiers (``aux1``, ``aux2``) are read in training only: a file keeps them as they are. torchvision's
pretrained network scales its input to the mean 0.5 and the deviation 0.5 of each channel first, as a normalisation can.

huyvnphan's network for CIFAR has a single convolution, of stride 1, in the place of the stem and the pooling behind it;
its other poolings are padded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units

WIDTH = 64
_SMALL = 192  # width of huyvnphan's
_EPS = 1e-3

Filters = tuple[int, ...]
_MODULES: Mapping[str, Filters] = MappingProxyType(  # Table 1
    {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    }
)
"""Filters of a module: 1x1, 3x3 and the one before it, the second 3x3 and the one before it, behind the pooling."""

_POOLED = {"3a": (3, 0), "4a": (3, 0), "5a": (2, 0)}
_SMALL_POOLED = {"4a": (3, 1), "5a": (3, 1)}
"""Size and padding of the pooling before a module; without padding, the last window may reach over the edge."""


@dataclass(frozen=True)
class Stem:
    """Three convolutions."""

    width: int

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the part."""
        x = g.unit(x, _layer("conv1", self.width, 7, 2))
        x = g.max_pool(x, 3, 2, ceil=True)
        return g.unit(g.unit(x, _layer("conv2", self.width)), _layer("conv3", 3 * self.width, 3))


@dataclass(frozen=True)
class Inception:
    """Four branches whose outputs are put together; the third has 3x3 kernels in torchvision, not 5x5."""

    filters: Filters
    pool: tuple[int, int] | None

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the module, behind max-pooling if it has one."""
        if self.pool is not None:
            size, pad = self.pool
            x = g.max_pool(x, size, 2, pad, ceil=pad == 0)
        one, before_three, three, before_five, five, pooled = self.filters
        return g.concat(
            g.unit(x, _layer("branch1", one)),
            g.unit(g.unit(x, _layer("branch2.0", before_three)), _layer("branch2.1", three, 3)),
            g.unit(g.unit(x, _layer("branch3.0", before_five)), _layer("branch3.1", five, 3)),
            g.unit(g.max_pool(x, 3, 1, 1), _layer("branch4.1", pooled)),
        )


def _layer(name: str, features: int, size: int = 1, stride: int = 1) -> Layer:
    return Layer(f"{name}.conv", f"{name}.bn", features, size, stride)


def _parts(small: bool, width: int) -> Parts:
    published, pooled = (_SMALL, _SMALL_POOLED) if small else (WIDTH, _POOLED)
    modules = (
        (f"inception{name}", Inception(tuple(scaled(each, width, published) for each in filters), pooled.get(name)))
        for name, filters in _MODULES.items()
    )
    return ("", Units((_layer("conv1", width, 3),)) if small else Stem(width)), *modules


def design(*, small: bool) -> Design:
    """torchvision's network, or huyvnphan's (``small``)."""
    width, side = (_SMALL, 32) if small else (WIDTH, 224)
    return graph_design(partial(_parts, small), "conv1.conv", "fc", width, eps=_EPS, image_side=side)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"googlenet": design(small=False), "huyvnphan_googlenet": design(small=True)}
)
