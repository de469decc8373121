"""MobileNetV3 (Howard et al. 2019) as in torchvision, large and small.

As in ``mobilenet_v2``, the channels that do not follow from the stem's are the ``form``.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.chain import Activation
from rnp_jax.models.design import Design, Shapes, Sizes, marked_by
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


def design(rows: tuple[Row, ...], hidden: int, eps: float = _EPS, momentum: float = _MOMENTUM) -> Design:
    """A network of these blocks, with this number of hidden units before the classifier; batch norm as in torch."""
    last = f"features.{len(rows) + 1}"

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> InvertedResidualNet:
        channels = sizes.form or _channels(rows, hidden, sizes.width)
        blocks, inputs = [], sizes.width
        for i, row in enumerate(rows):
            middle, outputs = channels[2 * i : 2 * i + 2]
            blocks.append((f"features.{i + 1}", _block(row, inputs, middle, outputs)))
            inputs = outputs
        return InvertedResidualNet(
            Unit("features.0.0", "features.0.1", sizes.width, 3, 2, activation="hard_swish"),
            tuple(blocks),
            Unit(f"{last}.0", f"{last}.1", channels[-2], activation="hard_swish"),
            "classifier.3",
            sizes.num_classes,
            Style(placement, precision, eps, momentum),
            Hidden("classifier.0", channels[-1], "hard_swish"),
        )

    def form(shapes: Shapes) -> tuple[int, ...]:
        """Channels inside and behind every block, of the last convolution and of the hidden layer, unless the stem's
        tell them."""
        keys = []
        for i, (_, expanded, _, squeezed, *_) in enumerate(rows, 1):
            depthwise = 0 if i == 1 and expanded == WIDTH else 1
            project = depthwise + (2 if squeezed else 1)
            keys += [f"features.{i}.block.{j}.0.weight" for j in (depthwise, project)]
        found = tuple(shapes.get(key, (1,))[0] for key in (*keys, f"{last}.0.weight", "classifier.0.weight"))
        return () if found == _channels(rows, hidden, shapes["features.0.0.weight"][0]) else found

    matches = marked_by("features.1.block.0.0.weight", f"{last}.0.weight", "classifier.0.weight")
    return Design(build, matches, "features.0.0.weight", "classifier.3.weight", WIDTH, form=form)


def _channels(rows: tuple[Row, ...], hidden: int, width: int) -> tuple[int, ...]:
    """What ``form`` reads, for a stem of ``width`` channels."""
    blocks = [widened(channels, width, WIDTH) for row in rows for channels in row[1:3]]
    return *blocks, 6 * blocks[-1], widened(hidden, width, WIDTH)


def _block(row: Row, inputs: int, middle: int, outputs: int) -> Block:
    kernel, _, _, squeezed, activation, stride = row
    squeeze = (divisible(middle // 4), "relu", "hard_sigmoid") if squeezed else None
    return bottleneck((inputs, middle, outputs), activation, kernel, stride, squeeze)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {"mobilenet_v3_large": design(LARGE, 1280), "mobilenet_v3_small": design(SMALL, 1024)}
)
