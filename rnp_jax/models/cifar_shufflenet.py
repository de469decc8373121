"""ShuffleNet (Zhang et al. 2018) and ShuffleNetV2 (Ma et al. 2018) for 32-pixel images: kuangliu's and weiaicunzai's.

Their stems have 24 channels, and the sizes of the other layers are in the name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Part, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units, stages, stem

WIDTH = 24
_V1_DEPTHS = (4, 8, 4)
_V2_DEPTHS = (4, 8, 4)


@dataclass(frozen=True)
class GroupedUnit:
    """ShuffleNet's unit: grouped 1x1 convolutions around a depthwise one; one with stride 2 appends its pooled input.

    weiaicunzai's (``other``) has biases, no ReLU behind the depthwise convolution, and the pooled input first.
    """

    inner: int
    features: int
    stride: int
    groups: tuple[int, int]
    other: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the unit."""
        first, second = self.groups
        layers = [
            Layer("conv1", "bn1", self.inner, groups=first),
            Layer("conv2", "bn2", self.inner, 3, self.stride, self.inner),
            Layer("conv3", "bn3", self.features, groups=second, activation=None),
        ]
        if self.other:
            names = ("bottlneck.0.pointwise", "depthwise.depthwise", "expand.pointwise")
            layers = [
                layer._replace(conv=f"{name}.0", norm=f"{name}.1", bias=True)
                for layer, name in zip(layers, names, strict=True)
            ]
            layers[1] = layers[1]._replace(activation=None)
        out = g.shuffle(g.unit(x, layers[0]), first)
        out = g.unit(g.unit(out, layers[1]), layers[2])
        if self.stride == 1:
            out = g.add(x, out)
        else:
            pooled = g.avg_pool(x, 3, 2, 1)
            out = g.concat(pooled, out) if self.other else g.concat(out, pooled)
        return g.activate(out, layers[2].norm or "")


def _v1_parts(channels: tuple[int, ...], depths: tuple[int, ...], groups: int, other: bool, width: int) -> Parts:
    inputs, blocks = width, []
    for stage, (depth, published) in enumerate(zip(depths, channels, strict=True)):
        outputs, row = scaled(published, width, WIDTH), []
        for i in range(depth):
            own = outputs - (inputs if i == 0 else 0)
            inner = (outputs if other else own) // 4
            few = 1 if not other and stage == 0 and i == 0 else groups
            row.append(GroupedUnit(inner, own, 1 if i else 2, (few, groups), other))
        blocks.append(row)
        inputs = outputs
    if other:
        named = stages("stage{}.{}", [[], *blocks])
        return stem("conv1.conv", "conv1.bn", width, bias=True), *named
    return stem("conv1", "bn1", width, 1), *stages("layer{}.{}", blocks)


def v1_design(channels: tuple[int, ...], groups: int, *, other: bool = False, depths=_V1_DEPTHS) -> Design:
    """kuangliu's ShuffleNet of these stages, or weiaicunzai's (``other``)."""
    names = ("conv1.conv", "fc") if other else ("conv1", "linear")
    return graph_design(partial(_v1_parts, channels, depths, groups, other), *names, WIDTH)


@dataclass(frozen=True)
class SplitUnit:
    """ShuffleNetV2's unit; one with stride 2 has two branches that read the whole input, the others leave half of it.

    weiaicunzai's (``other``) has biases, and a unit with stride 2 keeps its input's number of channels inside.
    """

    features: int
    stride: int
    other: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the unit."""
        half = self.features // 2
        if self.stride == 1:
            kept, x = g.split(x, half)
        else:
            names = ["shortcut.0", "shortcut.2"] if self.other else ["conv1", "conv2"]
            kept = g.unit(x, self._layer(names[0], g.channels(x), 3, g.channels(x)))
            kept = g.unit(kept, self._layer(names[1], half))
        names = ["residual.0", "residual.3", "residual.5"]
        if not self.other:
            names = [f"conv{i + (1 if self.stride == 1 else 3)}" for i in range(3)]
        inner = g.channels(x) if self.other else half
        out = g.unit(x, self._layer(names[0], inner))
        out = g.unit(g.unit(out, self._layer(names[1], inner, 3, inner)), self._layer(names[2], half))
        return g.shuffle(g.concat(kept, out), 2)

    def _layer(self, conv: str, features: int, size: int = 1, groups: int = 1) -> Layer:
        """A 1x1 layer with ReLU, or a depthwise one without."""
        outer, _, number = conv.rpartition(".")
        norm = f"{outer}.{int(number) + 1}" if self.other else conv.replace("conv", "bn")
        stride, activation = (self.stride, None) if size > 1 else (1, "relu")
        return Layer(conv, norm, features, size, stride, groups, self.other, activation)


def _v2_parts(channels: tuple[int, ...], depths: tuple[int, ...], other: bool, width: int) -> Parts:
    *widths, last = (scaled(published, width, WIDTH) for published in channels)
    blocks: list[list[Part]] = [
        [SplitUnit(features, 1 if i else 2, other) for i in range(depth)]
        for features, depth in zip(widths, depths, strict=True)
    ]
    first = Layer("pre.0", "pre.1", width, 3, bias=True, activation=None) if other else Layer("conv1", "bn1", width, 3)
    end = Layer("conv5.0", "conv5.1", last, bias=True) if other else Layer("conv2", "bn2", last)
    named = stages("stage{}.{}", [[], *blocks]) if other else stages("layer{}.{}", blocks)
    return ("", Units((first,))), *named, ("", Units((end,)))


def v2_design(channels: tuple[int, ...], *, other: bool = False, depths=_V2_DEPTHS) -> Design:
    """kuangliu's ShuffleNetV2 of these stages and this last convolution, or weiaicunzai's (``other``)."""
    names = ("pre.0", "fc") if other else ("conv1", "linear")
    return graph_design(partial(_v2_parts, channels, depths, other), *names, WIDTH)


_V2 = {
    "x0_5": (48, 96, 192, 1024),
    "x1_0": (116, 232, 464, 1024),
    "x1_5": (176, 352, 704, 1024),
    "x2_0": (224, 488, 976, 2048),  # as published, not the paper's 244
}

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        "cifar_shufflenet_g2": v1_design((200, 400, 800), 2),
        "cifar_shufflenet_g3": v1_design((240, 480, 960), 3),
        "weiaicunzai_shufflenet": v1_design((240, 480, 960), 3, other=True),
        **{f"cifar_shufflenet_v2_{name}": v2_design(channels) for name, channels in _V2.items()},
        "weiaicunzai_shufflenet_v2": v2_design(_V2["x1_0"], other=True),
    }
)
