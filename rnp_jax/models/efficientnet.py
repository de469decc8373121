"""EfficientNet (Tan & Le 2019) as in torchvision: b0 to b7 are one table, scaled in width and depth."""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.design import Design, Shapes, Sizes, scaled
from rnp_jax.models.inverted_residual import InvertedResidualNet, Style, Unit, bottleneck, divisible
from rnp_jax.models.layers import Placement, Precision

STEM = 32
Stage = tuple[int, int, int, int, int]
STAGES: tuple[Stage, ...] = (  # expansion, kernel, stride, channels, blocks: Table 1
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def design(
    widens: float, deepens: float, eps: float = 1e-5, momentum: float = 0.1, stages: tuple[Stage, ...] = STAGES
) -> Design:
    """A network whose published width and depth are multiples of b0's; eps and momentum of batch norm as in torch."""
    last = f"features.{len(stages) + 1}"
    published = divisible(STEM * widens)
    channels = tuple(divisible(stage[3] * widens) for stage in stages)
    depths = tuple(math.ceil(stage[4] * deepens) for stage in stages)

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> InvertedResidualNet:
        width, blocks, inputs = sizes.width, [], sizes.width
        for stage, (expansion, kernel, stride, *_) in enumerate(stages):
            outputs = scaled(channels[stage], width, published)
            for i in range(depths[stage]):
                squeeze = (max(1, inputs // 4), "silu", "sigmoid")
                step = stride if i == 0 else 1
                block = bottleneck((inputs, inputs * expansion, outputs), "silu", kernel, step, squeeze)
                blocks.append((f"features.{stage + 1}.{i}", block))
                inputs = outputs
        return InvertedResidualNet(
            Unit("features.0.0", "features.0.1", width, 3, 2, activation="silu"),
            tuple(blocks),
            Unit(f"{last}.0", f"{last}.1", 4 * inputs, activation="silu"),
            "classifier.1",
            sizes.num_classes,
            Style(placement, precision, eps, momentum),
        )

    def matches(shapes: Shapes) -> bool:
        # b1 and b2 have the same depth and stem; only the input of the last convolution tells them apart.
        stem, end = shapes["features.0.0.weight"], shapes.get(f"{last}.0.weight", ())
        fits = len(end) == 4 and end[1] == scaled(channels[-1], stem[0], published)
        return fits and _count_blocks(shapes, len(stages)) == depths

    return Design(build, matches, "features.0.0.weight", "classifier.1.weight", published)


def _count_blocks(shapes: Shapes, stages: int) -> tuple[int, ...]:
    """Number of blocks of each stage, from the layers' names."""
    found = {match.groups() for key in shapes if (match := re.match(r"features\.(\d+)\.(\d+)\.block\.", key))}
    return tuple(sum(stage == str(i) for stage, _ in found) for i in range(1, stages + 1))


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        "efficientnet_b0": design(1.0, 1.0),
        "efficientnet_b1": design(1.0, 1.1),
        "efficientnet_b2": design(1.1, 1.2),
        "efficientnet_b3": design(1.2, 1.4),
        "efficientnet_b4": design(1.4, 1.8),
        "efficientnet_b5": design(1.6, 2.2, 1e-3, 0.01),
        "efficientnet_b6": design(1.8, 2.6, 1e-3, 0.01),
        "efficientnet_b7": design(2.0, 3.1, 1e-3, 0.01),
    }
)
