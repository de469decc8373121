"""ResNeXt (Xie et al. 2017) and RegNet (Radosavovic et al. 2020) for 32-pixel images, of kuangliu's pytorch-cifar.

Both are stages of bottlenecks whose 3x3 convolution has groups; RegNetY gates its channels.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Residual, Squeeze, stages, stem

WIDTH = 64


class Plan(NamedTuple):
    """The published sizes.

    Attributes:
      depths: blocks of each stage.
      inner: channels inside the bottlenecks of each stage.
      outer: channels of each stage's output.
      strides: stride of each stage.
      groups: groups of the 3x3 convolutions of each stage.
      squeezed: whether channels are gated, by a quarter as many units as the block has inputs.
      stem: side of the first kernel.
    """

    depths: tuple[int, ...]
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    strides: tuple[int, ...]
    groups: tuple[int, ...]
    squeezed: bool = False
    stem: int = 3


def _resnext(cardinality: int, bottleneck: int) -> Plan:
    inner = tuple(cardinality * bottleneck * 2**stage for stage in range(3))
    outer = tuple(2 * channels for channels in inner)
    return Plan((3, 3, 3), inner, outer, (1, 2, 2), (cardinality,) * 3, stem=1)


def _regnet(depths: tuple[int, ...], widths: tuple[int, ...], group: int, *, squeezed: bool = False) -> Plan:
    return Plan(depths, widths, widths, (1, 1, 2, 2), tuple(width // group for width in widths), squeezed)


def _parts(plan: Plan, width: int) -> Parts:
    inputs, blocks = width, []
    for depth, inner, outer, stride, groups in zip(*plan[:5], strict=True):
        row = []
        for i in range(depth):
            middle, outputs, cardinality = (scaled(number, width, WIDTH) for number in (inner, outer, groups))
            row.append(_block(inputs, middle, outputs, 1 if i else stride, cardinality, plan.squeezed))
            inputs = outputs
        blocks.append(row)
    return stem("conv1", "bn1", width, plan.stem), *stages("layer{}.{}", blocks)


def _block(inputs: int, inner: int, outer: int, stride: int, groups: int, squeezed: bool) -> Residual:
    layers = (
        Layer("conv1", "bn1", inner),
        Layer("conv2", "bn2", inner, 3, stride, groups),
        Layer("conv3", "bn3", outer, activation=None),
    )
    shortcut = Layer("shortcut.0", "shortcut.1", outer, stride=stride, activation=None)
    squeeze = Squeeze("se.se1", "se.se2", round(inputs / 4)) if squeezed else None
    return Residual(layers, shortcut if stride != 1 or inputs != outer else None, squeeze, squeezed=1)


def design(plan: Plan) -> Design:
    """A network of these sizes; they grow with the stem, and so do the numbers of groups."""
    return graph_design(partial(_parts, plan), "conv1", "linear", WIDTH)


_RESNEXTS = {"2x64d": (2, 64), "4x64d": (4, 64), "8x64d": (8, 64), "32x4d": (32, 4)}
_SMALL, _LARGE = ((1, 1, 4, 7), (24, 56, 152, 368), 8), ((1, 2, 7, 12), (32, 64, 160, 384), 16)

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{f"cifar_resnext29_{name}": design(_resnext(*sizes)) for name, sizes in _RESNEXTS.items()},
        "cifar_regnetx_200mf": design(_regnet(*_SMALL)),
        "cifar_regnetx_400mf": design(_regnet(*_LARGE)),
        "cifar_regnety_400mf": design(_regnet(*_LARGE, squeezed=True)),
    }
)
