"""ResNets with other layer names than CIFAR's: those of torchvision and TrojanZoo.

- torchvision (``downsample``, ``fc``): a 7x7 stem with stride 2 and max-pooling, for images of 224 pixels.
- Those called ``cifar`` have a 3x3 stem without pooling: the usual edit for images of 32 pixels.
- Those called ``huyvnphan`` have a 3x3 stem with pooling. They have the same tensors as those called ``cifar`` and are
  taken only where they are named.
- ``torchvision_resnet`` is the family of all others: any depth, basic blocks or bottlenecks, any groups and widening.
- TrojanZoo puts the same layers under ``features`` and ``classifier.fc``; its ``_comp`` networks, for CIFAR and GTSRB,
  have a 3x3 stem without pooling.

Inside its bottlenecks, a wide ResNet has twice as many channels; a ResNeXt has two or four times as many, in groups.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.errors import ArchitectureError
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.resnet import DEPTHS, BlockKind, Depths, Layout, ResNet, count_blocks, design

TORCHVISION = Layout(shortcut="downsample", head="fc", stem=7)
_POOLED = TORCHVISION._replace(stem=3, pooled=True)
TROJANZOO = Layout("features.", "downsample", "classifier.fc", 7)

_MOST_BLOCKS = 200
"""Of a network of any depth: to trace one takes time that grows with its depth."""

_RESNET18 = (7, 2, 1, 1, 2, 2, 2, 2)

_RESNETS: Mapping[str, tuple[BlockKind, Depths, int, int]] = MappingProxyType(
    {
        **{f"resnet{depth}": ("bottleneck" if depth > 34 else "basic", DEPTHS[depth], 1, 1) for depth in DEPTHS},
        "wide_resnet50_2": ("bottleneck", DEPTHS[50], 2, 1),
        "wide_resnet101_2": ("bottleneck", DEPTHS[101], 2, 1),
    }
)
_SMALL = {name: _RESNETS[name] for name in ("resnet18", "resnet34", "resnet50")}
_RESNEXTS: Mapping[str, tuple[BlockKind, Depths, int, int]] = MappingProxyType(
    {
        "resnext50_32x4d": ("bottleneck", DEPTHS[50], 2, 32),
        "resnext101_32x8d": ("bottleneck", DEPTHS[101], 4, 32),
        "resnext101_64x4d": ("bottleneck", DEPTHS[101], 4, 64),
    }
)


def _designs(
    name: str, layout: Layout, published: Mapping[str, tuple[BlockKind, Depths, int, int]]
) -> dict[str, Design]:
    return {
        name.format(each): design(kind, depths, layout, widening=widening, groups=groups)
        for each, (kind, depths, widening, groups) in published.items()
    }


def _family(layout: Layout) -> Design:
    """ResNets of any depth. Their form: stem, convolutions of a block, widening, groups, then blocks of each stage."""

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> ResNet:
        stem, convolutions, widening, groups, *depths = sizes.form or _RESNET18
        kind: BlockKind = "bottleneck" if convolutions == 3 else "basic"
        if len(depths) != 4 or sum(depths) > _MOST_BLOCKS:
            raise ArchitectureError(
                f"blocks {depths} of the stages: expected four numbers, {_MOST_BLOCKS} in all or fewer"
            )
        own = layout._replace(stem=7 if stem == 7 else 3)
        first, second, third, fourth = depths
        settings = (placement, precision, own, widening, groups)
        return ResNet(kind, (first, second, third, fourth), sizes.width, sizes.num_classes, *settings)

    def image_side(shapes: Shapes) -> int:
        return 224 if _form(shapes)[0] == 7 else 32

    return Design(build, _is_member, "conv1.weight", "fc.weight", 64, image_side=image_side, form=_form, family=True)


def _form(shapes: Shapes) -> tuple[int, ...]:
    planes, _, stem, _ = shapes["conv1.weight"]
    first, second = (shapes.get(f"layer1.0.conv{i}.weight", (1, 1)) for i in (1, 2))
    inner, channels = first[0], second[1]
    convolutions = 3 if "layer1.0.conv3.weight" in shapes else 2
    return stem, convolutions, inner // planes, inner // max(1, channels), *count_blocks(shapes)


def _is_member(shapes: Shapes) -> bool:
    stem, convolutions, widening, groups, *depths = _form(shapes)
    plain = convolutions == 3 or widening == groups == 1
    normed = {"bn1.weight", f"layer1.0.bn{convolutions}.weight"} <= shapes.keys()
    deep = depths[0] > 0 and sum(depths) <= _MOST_BLOCKS
    return stem in (3, 7) and min(widening, groups) > 0 and plain and normed and deep


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **_designs("torchvision_{}", TORCHVISION, {**_RESNETS, **_RESNEXTS}),
        **_designs("torchvision_{}_cifar", TORCHVISION._replace(stem=3), {**_RESNETS, **_RESNEXTS}),
        **{name: each._replace(largest_side=0) for name, each in _designs("huyvnphan_{}", _POOLED, _SMALL).items()},
        "torchvision_resnet": _family(TORCHVISION),
        **_designs("trojanzoo_{}", TROJANZOO, {**_RESNETS, **_RESNEXTS}),
        **_designs("trojanzoo_{}_comp", TROJANZOO._replace(stem=3), _RESNETS),
    }
)
