"""MNASNet (Tan et al. 2019), the B1 variant, as torchvision publishes it in four widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, Shapes
from rnp_jax.models.graph import Graph, Image, Layer, Part, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.inverted_residual import divisible
from rnp_jax.models.parts import Units

WIDTH, _LAST = 32, 1280
_MOMENTUM = 1 - 0.9997

_STACKS = (  # kernel, stride, expansion, channels, blocks: Figure 7
    (3, 2, 3, 24, 3),
    (5, 2, 3, 40, 3),
    (5, 2, 6, 80, 3),
    (3, 1, 6, 96, 2),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_SEPARATED = 16  # channels before the stacks


@dataclass(frozen=True)
class Inverted:
    """A 1x1 expansion, a depthwise convolution and a projection; where the shape stays, the input is added."""

    layers: tuple[Layer, ...]
    adds: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block."""
        out = x
        for layer in self.layers:
            out = g.unit(out, layer)
        return g.add(x, out) if self.adds else out


def _inverted(inputs: int, features: int, kernel: int, stride: int, expansion: int) -> Inverted:
    inner = inputs * expansion
    layers = (
        Layer("layers.0", "layers.1", inner),
        Layer("layers.3", "layers.4", inner, kernel, stride, inner),
        Layer("layers.6", "layers.7", features, activation=None),
    )
    return Inverted(layers, stride == 1 and inputs == features)


def _parts(alpha: float, width: int) -> Parts:
    """The parts for a width multiplier; at another width than the multiplier's, the multiplier is the stem's."""
    published = divisible(WIDTH * alpha)
    multiplier, divisor = (alpha, 8) if width == published else (width / WIDTH, 1 if width % 8 else 8)
    inputs = divisible(_SEPARATED * multiplier, divisor)
    first = (
        Layer("layers.0", "layers.1", width, 3, 2),
        Layer("layers.3", "layers.4", width, 3, groups=width),
        Layer("layers.6", "layers.7", inputs, activation=None),
    )
    parts: list[tuple[str, Part]] = [("", Units(first))]
    for number, (kernel, stride, expansion, channels, blocks) in enumerate(_STACKS, 8):
        features = divisible(channels * multiplier, divisor)
        for i in range(blocks):
            parts.append((f"layers.{number}.{i}", _inverted(inputs, features, kernel, 1 if i else stride, expansion)))
            inputs = features
    return *parts, ("", Units((Layer("layers.14", "layers.15", _LAST),)))


_ALPHAS: Mapping[str, float] = MappingProxyType(
    {"mnasnet0_5": 0.5, "mnasnet0_75": 0.75, "mnasnet1_0": 1.0, "mnasnet1_3": 1.3}
)


def design(alpha: float) -> Design:
    """A network of this width multiplier. Widths that are not published belong to the multiplier 1."""
    found = graph_design(
        partial(_parts, alpha), "layers.0", "classifier.1", divisible(WIDTH * alpha), momentum=_MOMENTUM, image_side=224
    )
    others = {divisible(WIDTH * other) for other in _ALPHAS.values() if other != alpha}

    def matches(shapes: Shapes) -> bool:
        width = shapes["layers.0.weight"][0]
        return width not in others and (width == found.width or alpha == 1) and found.matches(shapes)

    return found._replace(matches=matches)


DESIGNS: Mapping[str, Design] = MappingProxyType({name: design(alpha) for name, alpha in _ALPHAS.items()})
