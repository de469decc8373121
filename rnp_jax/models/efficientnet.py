"""EfficientNet (Tan & Le 2019) and EfficientNetV2 (Tan & Le 2021) as in torchvision.

b0 to b7 are one table, scaled in width and depth. V2 has a table for each size; its first stages have ``fused`` blocks,
whose expansion is the 3x3 convolution itself, and no squeeze-and-excitation.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.design import Design, Shapes, Sizes, scaled
from rnp_jax.models.inverted_residual import Block, InvertedResidualNet, Style, Unit, bottleneck, divisible
from rnp_jax.models.layers import Placement, Precision

STEM = 32
_LAST_V2 = 1280
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


SCALES: Mapping[str, tuple[float, float]] = MappingProxyType(  # multiples of b0's width and depth
    {
        "b0": (1.0, 1.0),
        "b1": (1.0, 1.1),
        "b2": (1.1, 1.2),
        "b3": (1.2, 1.4),
        "b4": (1.4, 1.8),
        "b5": (1.6, 2.2),
        "b6": (1.8, 2.6),
        "b7": (2.0, 3.1),
    }
)
V2: Mapping[str, tuple[Stage, ...]] = MappingProxyType(  # the same, three fused stages first: Table 4 and its code
    {
        "s": (
            (1, 3, 1, 24, 2),
            (4, 3, 2, 48, 4),
            (4, 3, 2, 64, 4),
            (4, 3, 2, 128, 6),
            (6, 3, 1, 160, 9),
            (6, 3, 2, 256, 15),
        ),
        "m": (
            (1, 3, 1, 24, 3),
            (4, 3, 2, 48, 5),
            (4, 3, 2, 80, 5),
            (4, 3, 2, 160, 7),
            (6, 3, 1, 176, 14),
            (6, 3, 2, 304, 18),
            (6, 3, 1, 512, 5),
        ),
        "l": (
            (1, 3, 1, 32, 4),
            (4, 3, 2, 64, 7),
            (4, 3, 2, 96, 7),
            (4, 3, 2, 192, 10),
            (6, 3, 1, 224, 19),
            (6, 3, 2, 384, 25),
            (6, 3, 1, 640, 7),
        ),
    }
)
_FUSED = 3  # stages


def design(
    widens: float, deepens: float, eps: float = 1e-5, momentum: float = 0.1, stages: tuple[Stage, ...] = STAGES
) -> Design:
    """A network whose published width and depth are multiples of b0's; eps and momentum of batch norm as in torch."""
    rows = tuple((*row[:3], divisible(row[3] * widens), math.ceil(row[4] * deepens)) for row in stages)
    return _design(rows, divisible(STEM * widens), None, eps, momentum)


def v2_design(rows: tuple[Stage, ...]) -> Design:
    """An EfficientNetV2 of these stages."""
    return _design(rows, rows[0][3], _LAST_V2, 1e-3, 0.1)


def _design(rows: tuple[Stage, ...], published: int, wide: int | None, eps: float, momentum: float) -> Design:
    """``wide`` are the channels of the last convolution of V2; a first version has 4 times those of the last stage."""
    last = f"features.{len(rows) + 1}"

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> InvertedResidualNet:
        width, blocks, inputs = sizes.width, [], sizes.width
        for stage, (expansion, kernel, stride, channels, count) in enumerate(rows, 1):
            outputs, fused = scaled(channels, width, published), wide is not None and stage <= _FUSED
            for i in range(count):
                shape, step = (inputs, inputs * expansion, outputs), stride if i == 0 else 1
                squeeze = (max(1, inputs // 4), "silu", "sigmoid")
                block = _fused(shape, kernel, step) if fused else bottleneck(shape, "silu", kernel, step, squeeze)
                blocks.append((f"features.{stage}.{i}", block))
                inputs = outputs
        end = 4 * inputs if wide is None else scaled(wide, width, published)
        return InvertedResidualNet(
            Unit("features.0.0", "features.0.1", width, 3, 2, activation="silu"),
            tuple(blocks),
            Unit(f"{last}.0", f"{last}.1", end, activation="silu"),
            "classifier.1",
            sizes.num_classes,
            Style(placement, precision, eps, momentum),
        )

    def matches(shapes: Shapes) -> bool:
        # b1 and b2 have the same depth and stem; only the input of the last convolution tells them apart.
        stem, end = shapes["features.0.0.weight"], shapes.get(f"{last}.0.weight", ())
        fits = len(end) == 4 and end[1] == scaled(rows[-1][3], stem[0], published)
        return fits and _count_blocks(shapes, len(rows)) == tuple(row[4] for row in rows)

    return Design(build, matches, "features.0.0.weight", "classifier.1.weight", published)


def _fused(sizes: tuple[int, int, int], size: int, stride: int) -> Block:
    inputs, expanded, outputs = sizes
    shortcut = "identity" if stride == 1 and inputs == outputs else None
    if expanded == inputs:
        return Block((Unit("block.0.0", "block.0.1", outputs, size, stride, activation="silu"),), shortcut=shortcut)
    expansion = Unit("block.0.0", "block.0.1", expanded, size, stride, activation="silu")
    return Block((expansion, Unit("block.1.0", "block.1.1", outputs)), shortcut=shortcut)


def _count_blocks(shapes: Shapes, stages: int) -> tuple[int, ...]:
    """Number of blocks of each stage, from the layers' names."""
    found = {match.groups() for key in shapes if (match := re.match(r"features\.(\d+)\.(\d+)\.block\.", key))}
    return tuple(sum(stage == str(i) for stage, _ in found) for i in range(1, stages + 1))


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{f"efficientnet_{name}": design(*SCALES[name]) for name in ("b0", "b1", "b2", "b3", "b4")},
        **{f"efficientnet_{name}": design(*SCALES[name], 1e-3, 0.01) for name in ("b5", "b6", "b7")},
        **{f"efficientnet_v2_{name}": v2_design(rows) for name, rows in V2.items()},
    }
)
