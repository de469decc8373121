"""The ResNet paper's networks for CIFAR (He et al., 2016): 6n + 2 layers, three stages of n blocks, from 16 channels.

akamaster's pytorch_resnet_cifar10 has the paper's shortcuts without weights (option A); many others project, and take
torchvision's names. NAD and ABL give the name ResNet34 to the one of 32 layers with torchvision's names, here
``nad_resnet32``.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.design import Design
from rnp_jax.models.resnet import CIFAR, Layout, design
from rnp_jax.models.torchvision_resnet import TORCHVISION

_PADDED = CIFAR._replace(shortcut=None)
_PROJECTED = TORCHVISION._replace(stem=3)


def _three_stages(depth: int, layout: Layout) -> Design:
    blocks = (depth - 2) // 6
    return design("basic", (blocks, blocks, blocks, 0), layout, width=16)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{f"resnet{depth}": _three_stages(depth, _PADDED) for depth in (20, 32, 44, 56, 110)},
        **{f"cifar_resnet{depth}": _three_stages(depth, _PROJECTED) for depth in (20, 44, 56, 110)},
        "nad_resnet32": _three_stages(32, _PROJECTED),
    }
)
