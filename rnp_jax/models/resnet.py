"""Residual networks: CIFAR's ResNet (the RNP release's layout) and pre-activation ResNet (BackdoorBench's and VinAI's).

Layers have the source's names (``layer1.0.conv1``), so a checkpoint's keys are the paths of its parameters. A
``Layout`` describes the names and stems of other sources.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import BatchNorm, Conv, Dense, Placement, Precision, max_pool

BlockKind = Literal["basic", "bottleneck", "preact"]
Depths = tuple[int, int, int, int]
EXPANSION: dict[str, int] = {"basic": 1, "bottleneck": 4, "preact": 1}


class Layout(NamedTuple):
    """The layer names and the stem of a source's ResNets.

    Attributes:
      prefix: prefix of the names of all layers except the last.
      shortcut: name of a block's projection; ``.0`` is its convolution and ``.1`` its batch norm. None where nothing
        is projected: every second pixel is taken, and channels of zeros are added on both sides of the others (option
        A of He et al., 2016).
      head: name of the last layer.
      stem: side of the first kernel in pixels: 3, or 7 with stride 2, followed by 3x3 max-pooling with stride 2.
      pooled: whether a 3x3 stem is followed by that pooling too.
    """

    prefix: str = ""
    shortcut: str | None = "shortcut"
    head: str = "linear"
    stem: Literal[3, 7] = 3
    pooled: bool = False


CIFAR = Layout()
"""The RNP release's, which most code for 32-pixel images shares."""


class Block(nn.Module):
    """One residual block of width ``planes``, of any of the three kinds.

    The inner convolutions of a bottleneck are ``widening`` times as wide; the 3x3 one has ``groups``. ``shortcut``
    names the projection's convolution and the batch norm after it, which pre-activated blocks do not have; without
    names, zeros take the place of a projection (``Layout.shortcut``).
    """

    kind: BlockKind
    planes: int
    stride: int
    placement: Placement
    precision: Precision
    shortcut: tuple[str, ...] = ("shortcut.0", "shortcut.1")
    widening: int = 1
    groups: int = 1

    def _conv(self, name: str, features: int, size: int, stride: int = 1) -> Conv:
        groups = self.groups if size == 3 else 1
        return Conv(
            features, size, stride, size // 2, groups, placement=self.placement, precision=self.precision, name=name
        )

    def _norm(self, name: str) -> BatchNorm:
        return BatchNorm(self.placement, precision=self.precision, name=name)

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the block."""
        features = self.planes * EXPANSION[self.kind]
        projects = self.stride != 1 or x.shape[-1] != features
        if self.kind == "preact":
            out = activate(self, "bn1", self._norm("bn1")(x, train))
            shortcut = self._conv(self.shortcut[0], features, 1, self.stride)(out) if projects else x
            out = self._conv("conv1", self.planes, 3, self.stride)(out)
            out = activate(self, "bn2", self._norm("bn2")(out, train))
            out = self._conv("conv2", self.planes, 3)(out)
            return out + shortcut
        if self.kind == "basic":
            widths, sizes, strides = (self.planes, features), (3, 3), (self.stride, 1)
        else:
            inner = self.planes * self.widening
            widths, sizes, strides = (inner, inner, features), (1, 3, 1), (1, self.stride, 1)
        out = x
        for i, (width, size, stride) in enumerate(zip(widths, sizes, strides, strict=True), 1):
            out = self._norm(f"bn{i}")(self._conv(f"conv{i}", width, size, stride)(out), train)
            out = activate(self, f"bn{i}", out) if i < len(widths) else out
        if projects and self.shortcut:
            conv, norm = self.shortcut
            x = self._norm(norm)(self._conv(conv, features, 1, self.stride)(x), train)
        elif projects:
            x = _widen(x[:, :: self.stride, :: self.stride], features)
        return activate(self, f"bn{len(widths)}", out + x)


def _widen(x: Float[Array, "B H W C"], features: int) -> Float[Array, "B H W F"]:
    """Channels of zeros on both sides, as many on each."""
    missing = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class Stem(nn.Module):
    """The convolution before the first stage, with batch norm and ReLU unless the blocks are pre-activated."""

    kind: BlockKind
    width: int
    placement: Placement
    precision: Precision
    layout: Layout = CIFAR

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W F"]:
        """Applies the stem."""
        prefix, size = self.layout.prefix, self.layout.stem
        stride = 2 if size == 7 else 1
        conv = partial(Conv, placement=self.placement, precision=self.precision, name=f"{prefix}conv1")
        x = conv(self.width, size, stride, size // 2)(x)
        if self.kind == "preact":
            return x
        norm = BatchNorm(self.placement, precision=self.precision, name=f"{prefix}bn1")
        x = activate(self, f"{prefix}bn1", norm(x, train))
        return max_pool(x, 3, 2, 1) if size == 7 or self.layout.pooled else x


class Head(nn.Module):
    """Global average pooling and the linear classifier."""

    num_classes: int
    precision: Precision
    layer: str = "linear"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B K"]:
        """Applies the head."""
        del train  # nothing in it depends on the mode
        return Dense(self.num_classes, precision=self.precision, name=self.layer)(x.mean((1, 2)))


class ResNet(Chain):
    """ResNet: a stem, stages of ``depths`` blocks of widths w, 2w, 4w, 8w, and a head."""

    kind: BlockKind
    depths: Depths
    width: int
    num_classes: int
    placement: Placement = "bn_scale"
    precision: Precision = "float32"
    layout: Layout = CIFAR
    widening: int = 1
    groups: int = 1

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, blocks, head."""
        prefix, last = self.layout.prefix, self.layout.head
        stem = Stem(self.kind, self.width, self.placement, self.precision, self.layout, parent=None)
        blocks = tuple(
            Segment((f"{prefix}layer{stage}.{i}",), self._block(stage, i), nested=True)
            for stage, depth in enumerate(self.depths, 1)
            for i in range(depth)
        )
        head = Head(self.num_classes, self.precision, last, parent=None)
        first = Segment((f"{prefix}conv1", f"{prefix}bn1"), stem, nested=False)
        return first, *blocks, Segment((last,), head, nested=False)

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms."""
        prefix = self.layout.prefix
        stream = [f"{prefix}conv1"]  # convolutions that the residual stream sums
        sites = [] if self.kind == "preact" else [Site(f"{prefix}bn1", tuple(stream), "relu")]
        inputs = self.width
        for stage, depth in enumerate(self.depths, 1):
            for i in range(depth):
                name, features = f"{prefix}layer{stage}.{i}", self.width * 2 ** (stage - 1) * EXPANSION[self.kind]
                projects = (stage > 1 and i == 0) or inputs != features
                inputs = features
                if self.kind == "preact":
                    sites.append(Site(f"{name}.bn1", tuple(stream), "relu"))
                    sites.append(Site(f"{name}.bn2", (f"{name}.conv1",), "relu"))
                    stream = [f"{name}.{self._shortcut[0]}"] if projects else stream
                    stream = [*stream, f"{name}.conv2"]
                    continue
                last = 3 if self.kind == "bottleneck" else 2
                sites += [Site(f"{name}.bn{j}", (f"{name}.conv{j}",), "relu") for j in range(1, last)]
                sites.append(Site(f"{name}.bn{last}", (f"{name}.conv{last}",), None))
                if projects and self._shortcut:
                    conv, norm = self._shortcut
                    sites.append(Site(f"{name}.{norm}", (f"{name}.{conv}",), None))
        return tuple(sites)

    @property
    def _shortcut(self) -> tuple[str, ...]:
        name = self.layout.shortcut
        return () if name is None else (f"{name}.0", f"{name}.1")

    @nn.nowrap
    def _block(self, stage: int, index: int) -> Block:
        stride = 2 if stage > 1 and index == 0 else 1
        planes = self.width * 2 ** (stage - 1)
        settings = (self.placement, self.precision, self._shortcut, self.widening, self.groups)
        return Block(self.kind, planes, stride, *settings, parent=None)


def design(
    kind: BlockKind,
    depths: Depths,
    layout: Layout = CIFAR,
    *,
    widening: int = 1,
    groups: int = 1,
    width: int = 64,
) -> Design:
    """A ResNet with blocks of one kind; ``width`` is the published width."""
    stem = f"{layout.prefix}conv1.weight"

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> ResNet:
        settings = (placement, precision, layout, widening, groups)
        return ResNet(kind, depths, sizes.width, sizes.num_classes, *settings)

    def matches(shapes: Shapes) -> bool:
        names = {key.removeprefix(layout.prefix): tuple(shape) for key, shape in shapes.items()}
        bottleneck, stem_norm = "layer1.0.conv3.weight" in names, "bn1.weight" in names
        found = "bottleneck" if bottleneck and stem_norm else "basic" if stem_norm else "preact"
        if found != kind or (bottleneck and kind == "preact") or "layer1.0.fc1.weight" in names:
            return False  # the last are SENet's
        inner, channels = (names.get(f"layer1.0.conv{i}.weight", ()) for i in (1, 2))
        planes, _, side, _ = names["conv1.weight"]
        widened = inner[:1] == (planes * widening,) and channels[1:2] == (planes * widening // groups,)
        return count_blocks(names) == depths and side == layout.stem and widened

    side = 224 if layout.stem == 7 else 32
    return Design(build, matches, stem, f"{layout.head}.weight", width, image_side=side)


def count_blocks(names: Iterable[str]) -> Depths:
    """Number of blocks of the four stages, from the layers' names; 0 if a stage is absent."""
    blocks = {match.groups() for name in names if (match := re.match(r"layer([1-4])\.(\d+)\.", name))}
    first, second, third, fourth = (sum(stage == str(i) for stage, _ in blocks) for i in range(1, 5))
    return first, second, third, fourth


DEPTHS: Mapping[int, Depths] = MappingProxyType(
    {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
)
"""Blocks of each stage, by the number of layers (He et al. 2016, Table 1): bottlenecks from 50 on."""

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{f"resnet{depth}": design("bottleneck" if depth > 34 else "basic", DEPTHS[depth]) for depth in DEPTHS},
        "preactresnet18": design("preact", DEPTHS[18]),
    }
)
