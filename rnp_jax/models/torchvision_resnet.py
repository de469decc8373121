"""ResNets with other layer names than CIFAR's: those of torchvision and TrojanZoo.

- torchvision (``downsample``, ``fc``): a 7x7 stem with stride 2 and max-pooling, for images of 224 pixels.
- TrojanZoo puts the same layers under ``features`` and ``classifier.fc``; its ``_comp`` networks, for CIFAR and GTSRB,
  have a 3x3 stem without pooling.

Inside its bottlenecks, a wide ResNet has twice as many channels; a ResNeXt has two or four times as many, in groups.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.design import Design
from rnp_jax.models.resnet import BlockKind, Depths, Layout, design

TORCHVISION = Layout(shortcut="downsample", head="fc", stem=7)
TROJANZOO = Layout("features.", "downsample", "classifier.fc", 7)

_RESNETS: Mapping[str, tuple[BlockKind, Depths, int, int]] = MappingProxyType(
    {
        "resnet18": ("basic", (2, 2, 2, 2), 1, 1),
        "resnet34": ("basic", (3, 4, 6, 3), 1, 1),
        "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 1),
        "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 1),
        "resnet152": ("bottleneck", (3, 8, 36, 3), 1, 1),
        "wide_resnet50_2": ("bottleneck", (3, 4, 6, 3), 2, 1),
        "wide_resnet101_2": ("bottleneck", (3, 4, 23, 3), 2, 1),
    }
)
_RESNEXTS: Mapping[str, tuple[BlockKind, Depths, int, int]] = MappingProxyType(
    {
        "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 2, 32),
        "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 4, 32),
        "resnext101_64x4d": ("bottleneck", (3, 4, 23, 3), 4, 64),
    }
)


def _designs(
    name: str, layout: Layout, published: Mapping[str, tuple[BlockKind, Depths, int, int]]
) -> dict[str, Design]:
    return {
        name.format(each): design(kind, depths, layout, widening=widening, groups=groups)
        for each, (kind, depths, widening, groups) in published.items()
    }


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **_designs("torchvision_{}", TORCHVISION, {**_RESNETS, **_RESNEXTS}),
        **_designs("trojanzoo_{}", TROJANZOO, {**_RESNETS, **_RESNEXTS}),
        **_designs("trojanzoo_{}_comp", TROJANZOO._replace(stem=3), _RESNETS),
    }
)
