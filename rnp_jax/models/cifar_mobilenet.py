"""MobileNet (Howard et al. 2017) for 32-pixel images: kuangliu's, and weiaicunzai's of any width multiplier.

weiaicunzai's MobileNetV2 (Sandler et al. 2018) begins with a padded 1x1 convolution, and the file keeps its classifier
as a 1x1 convolution on the averaged image. kuangliu's is in ``mobilenet_v2``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units

WIDTH = 32
ROWS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))
"""Channels of each block's output, in widths, and its stride."""


@dataclass(frozen=True)
class Separable:
    """A depthwise and a 1x1 convolution; weiaicunzai's 1x1 convolutions have a bias."""

    features: int
    stride: int
    other: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies both."""
        channels = g.channels(x)
        depthwise = ("depthwise.0", "depthwise.1") if self.other else ("conv1", "bn1")
        pointwise = ("pointwise.0", "pointwise.1") if self.other else ("conv2", "bn2")
        x = g.unit(x, Layer(*depthwise, channels, 3, self.stride, channels))
        return g.unit(x, Layer(*pointwise, self.features, bias=self.other))


def _parts(rows: tuple[tuple[int, int], ...], other: bool, width: int) -> Parts:
    names, stage, position = [], 0, 0
    for i, (_, stride) in enumerate(rows):
        stage, position = (stage + 1, 0) if stride == 2 else (stage, position + 1)
        names.append((f"conv{stage}.{position}" if stage else f"stem.{position}") if other else f"layers.{i}")
    first = Layer("stem.0.conv", "stem.0.bn", width, 3) if other else Layer("conv1", "bn1", width, 3)
    blocks = (Separable(widths * width, stride, other) for widths, stride in rows)
    return ("", Units((first,))), *zip(names, blocks, strict=True)


def design(rows: tuple[tuple[int, int], ...], *, other: bool = False) -> Design:
    """kuangliu's network of these blocks, or weiaicunzai's (``other``)."""
    names = ("stem.0.conv", "fc") if other else ("conv1", "linear")
    return graph_design(partial(_parts, rows, other), *names, WIDTH)


V2_ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage."""
_LAST, _HEAD = 1280, "conv2"


@dataclass(frozen=True)
class Inverted:
    """MobileNetV2's block; it has the layers of an expansion even where that is 1."""

    expansion: int
    features: int
    stride: int

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block."""
        inputs = g.channels(x)
        middle = inputs * self.expansion
        out = g.unit(x, Layer("residual.0", "residual.1", middle, bias=True, activation="relu6"))
        depthwise = Layer("residual.3", "residual.4", middle, 3, self.stride, middle, bias=True, activation="relu6")
        out = g.unit(out, depthwise)
        out = g.unit(out, Layer("residual.6", "residual.7", self.features, bias=True, activation=None))
        return g.add(out, x) if self.stride == 1 and inputs == self.features else out


def _v2_parts(rows: tuple[tuple[int, int, int, int], ...], width: int) -> Parts:
    blocks = []
    for stage, (expansion, channels, count, stride) in enumerate(rows, 1):
        for i in range(count):
            name = f"stage{stage}.{i}" if count > 1 else f"stage{stage}"
            blocks.append((name, Inverted(expansion, scaled(channels, width, WIDTH), 1 if i else stride)))
    first = Layer("pre.0", "pre.1", width, bias=True, activation="relu6", pad=1)
    last = Layer("conv1.0", "conv1.1", scaled(_LAST, width, WIDTH), bias=True, activation="relu6")
    return ("", Units((first,))), *blocks, ("", Units((last,)))


def v2_design(rows: tuple[tuple[int, int, int, int], ...]) -> Design:
    """weiaicunzai's MobileNetV2 of these stages."""
    return graph_design(partial(_v2_parts, rows), "pre.0", _HEAD, WIDTH)._replace(axes=((_HEAD, (0, 2)),))


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        "cifar_mobilenet": design(ROWS),
        "weiaicunzai_mobilenet": design(ROWS, other=True),
        "weiaicunzai_mobilenet_v2": v2_design(V2_ROWS),
    }
)
