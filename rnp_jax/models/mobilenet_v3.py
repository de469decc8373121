"""MobileNetV3 (Howard et al. 2019) as in torchvision, large and small."""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.chain import Activation
from rnp_jax.models.design import Design, Sizes, marked_by
from rnp_jax.models.inverted_residual import (
    Block,
    Hidden,
    InvertedResidualNet,
    Style,
    Unit,
    bottleneck,
    divisible,
    widened,
)
from rnp_jax.models.layers import Placement, Precision

WIDTH = 16
_EPS, _MOMENTUM = 1e-3, 0.01  # torchvision's, of every batch norm

Row = tuple[int, int, int, bool, Activation, int]
LARGE: tuple[Row, ...] = (  # kernel, expanded, channels, squeezed, activation, stride: Table 1
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)
SMALL: tuple[Row, ...] = (  # Table 2
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)


def design(rows: tuple[Row, ...], hidden: int) -> Design:
    """A network of these blocks, with the given number of hidden units before the classifier."""
    last = f"features.{len(rows) + 1}"

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> InvertedResidualNet:
        width, blocks, inputs = sizes.width, [], sizes.width
        for i, row in enumerate(rows, 1):
            block, inputs = _block(row, inputs, width)
            blocks.append((f"features.{i}", block))
        return InvertedResidualNet(
            Unit("features.0.0", "features.0.1", width, 3, 2, activation="hard_swish"),
            tuple(blocks),
            Unit(f"{last}.0", f"{last}.1", 6 * inputs, activation="hard_swish"),
            "classifier.3",
            sizes.num_classes,
            Style(placement, precision, _EPS, _MOMENTUM),
            Hidden("classifier.0", widened(hidden, width, WIDTH), "hard_swish"),
        )

    matches = marked_by("features.1.block.0.0.weight", f"{last}.0.weight", "classifier.0.weight")
    return Design(build, matches, "features.0.0.weight", "classifier.3.weight", WIDTH)


def _block(row: Row, inputs: int, width: int) -> tuple[Block, int]:
    """A block and its number of channels."""
    kernel, expanded, channels, squeezed, activation, stride = row
    middle, outputs = widened(expanded, width, WIDTH), widened(channels, width, WIDTH)
    squeeze = (divisible(middle // 4), "relu", "hard_sigmoid") if squeezed else None
    return bottleneck((inputs, middle, outputs), activation, kernel, stride, squeeze), outputs


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"mobilenet_v3_large": design(LARGE, 1280), "mobilenet_v3_small": design(SMALL, 1024)}
)
