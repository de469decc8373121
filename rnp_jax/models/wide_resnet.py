"""Wide residual networks WRN-d-k of 32-pixel images (ABL, NAD, backdoor-toolbox).

The sources share one definition: a 3x3 stem of 16 channels, three stages of (d - 4) / 6 pre-activated blocks of 16k,
32k and 64k channels, a last batch norm, and global pooling. A block that changes the number of channels projects its
activated input with a bare 1x1 convolution; the first block of a network with k = 1 does not. The sources pool windows
of 8 pixels, which is the whole image for inputs of 32 pixels; their dropout has rate 0 and is left out.

A design has the depth in its name; k follows from the width, 16k.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
from jaxtyping import Array, Float

from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import BatchNorm, Placement, Precision
from rnp_jax.models.resnet import Block, Head, Stem

_STEM = 16  # channels, for every k
_SHORTCUT = "convShortcut"
_STAGES = (1, 2, 3)


class LastNorm(nn.Module):
    """The batch norm and ReLU after the last block."""

    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """Applies them."""
        norm = BatchNorm(self.placement, precision=self.precision, name="bn1")
        return activate(self, "bn1", norm(x, train))


class WideResNet(Chain):
    """Stem, three stages of ``blocks`` blocks of widths w, 2w, 4w, a last batch norm, and a head."""

    blocks: int
    width: int
    num_classes: int
    placement: Placement = "bn_scale"
    precision: Precision = "float32"

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, blocks, last batch norm, head."""
        stem = Stem("preact", _STEM, self.placement, self.precision, parent=None)
        head = Head(self.num_classes, self.precision, "fc", parent=None)
        return (
            Segment(("conv1",), stem, nested=False),
            *(
                Segment((f"block{stage}.layer.{i}",), self._block(stage, i), nested=True)
                for stage in _STAGES
                for i in range(self.blocks)
            ),
            Segment(("bn1",), LastNorm(self.placement, self.precision, parent=None), nested=False),
            Segment(("fc",), head, nested=False),
        )

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms."""
        stream, sites = ["conv1"], []  # convolutions that the residual stream sums
        for stage in _STAGES:
            for i in range(self.blocks):
                name = f"block{stage}.layer.{i}"
                sites.append(Site(f"{name}.bn1", tuple(stream), "relu"))
                sites.append(Site(f"{name}.bn2", (f"{name}.conv1",), "relu"))
                projects = i == 0 and (stage > 1 or self.width != _STEM)
                stream = [*([f"{name}.{_SHORTCUT}"] if projects else stream), f"{name}.conv2"]
        return *sites, Site("bn1", tuple(stream), "relu")

    @nn.nowrap
    def _block(self, stage: int, index: int) -> Block:
        stride = 2 if stage > 1 and index == 0 else 1
        planes = self.width * 2 ** (stage - 1)
        return Block("preact", planes, stride, self.placement, self.precision, (_SHORTCUT,), parent=None)


def _design(depth: int) -> Design:
    blocks = (depth - 4) // 6

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> WideResNet:
        return WideResNet(blocks, sizes.width, sizes.num_classes, placement, precision)

    def matches(shapes: Shapes) -> bool:
        found = {match.groups() for key in shapes if (match := re.match(r"block([123])\.layer\.(\d+)\.", key))}
        return all(sum(stage == str(each) for stage, _ in found) == blocks for each in _STAGES)

    return Design(build, matches, "conv1.weight", "fc.weight", _STEM, base="block1.layer.0.conv1.weight")


DESIGNS: Mapping[str, Design] = MappingProxyType({f"wrn{depth}": _design(depth) for depth in (10, 16, 22, 28, 34, 40)})
