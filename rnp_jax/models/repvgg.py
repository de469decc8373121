"""RepVGG (Ding et al. 2021): its authors' networks for 224 pixels, and chenyaofo's for CIFAR with other strides.

A block adds a 3x3 convolution, a 1x1 convolution and, where nothing changes the image, the input, each with batch norm.
For use, all three are put together into one 3x3 convolution (``…_deploy``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design


class Plan(NamedTuple):
    """Blocks and filters of each stage; the first is a single block."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]


_A, _B = (1, 2, 4, 14, 1), (1, 4, 6, 16, 1)
PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "repvgg_a0": Plan(_A, (48, 48, 96, 192, 1280)),
        "repvgg_a1": Plan(_A, (64, 64, 128, 256, 1280)),
        "repvgg_a2": Plan(_A, (64, 96, 192, 384, 1408)),
        "repvgg_b0": Plan(_B, (64, 64, 128, 256, 1280)),
        "repvgg_b1": Plan(_B, (64, 128, 256, 512, 2048)),
        "repvgg_b2": Plan(_B, (64, 160, 320, 640, 2560)),
        "repvgg_b3": Plan(_B, (64, 192, 384, 768, 2560)),
    }
)


@dataclass(frozen=True)
class Block:
    """One block, as it is trained or as one convolution."""

    features: int
    stride: int
    deploy: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block."""
        if self.deploy:
            return g.unit(x, Layer("rbr_reparam", None, self.features, 3, self.stride, bias=True))
        same = self.stride == 1 and g.channels(x) == self.features
        kept = [g.norm(x, "rbr_identity")] if same else []
        wide = Layer("rbr_dense.conv", "rbr_dense.bn", self.features, 3, self.stride, activation=None)
        narrow = Layer("rbr_1x1.conv", "rbr_1x1.bn", self.features, 1, self.stride, activation=None)
        return g.activate(g.add(g.unit(x, wide), g.unit(x, narrow), *kept), "rbr_1x1.bn")


def _parts(plan: Plan, small: bool, deploy: bool, width: int) -> Parts:
    parts = []
    for stage, (depth, features) in enumerate(zip(*plan, strict=True)):
        stride = 1 if small and stage < 2 else 2
        for i in range(depth):
            block = Block(scaled(features, width, plan.widths[0]), 1 if i else stride, deploy)
            parts.append((f"stage{stage}.{i}" if stage else "stage0", block))
    return tuple(parts)


def design(plan: Plan, *, small: bool = False, deploy: bool = False) -> Design:
    """The authors' network, or chenyaofo's (``small``)."""
    stem = "stage0.rbr_reparam" if deploy else "stage0.rbr_dense.conv"
    make = partial(_parts, plan, small, deploy)
    found = graph_design(make, stem, "linear", plan.widths[0], image_side=32 if small else 224)
    return found._replace(largest_side=64 if small else None, placement="conv_output" if deploy else found.placement)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        f"{'chenyaofo_' if small else ''}{name}{'_deploy' if deploy else ''}": design(plan, small=small, deploy=deploy)
        for small in (False, True)
        for deploy in (False, True)
        for name, plan in PLANS.items()
        if not small or "_a" in name
    }
)
