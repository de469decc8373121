"""CIFAR residual networks: ResNet (the RNP release's layout) and pre-activation ResNet (BackdoorBench's and VinAI's).

Layer names are the source's own (``layer1.0.conv1``), so that a checkpoint's keys name the paths of its parameters.
"""

from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from rnp_jax.models.chain import Chain, Segment, Site
from rnp_jax.models.layers import BatchNorm, Conv, Dense, Placement, Precision

BlockKind = Literal["basic", "bottleneck", "preact"]
EXPANSION: dict[str, int] = {"basic": 1, "bottleneck": 4, "preact": 1}


class Block(nn.Module):
    """One residual block of width ``planes``, of any of the three kinds."""

    kind: BlockKind
    planes: int
    stride: int
    placement: Placement
    precision: Precision

    def _conv(self, name: str, features: int, size: int, stride: int = 1) -> Conv:
        return Conv(features, size, stride, size // 2, placement=self.placement, precision=self.precision, name=name)

    def _norm(self, name: str) -> BatchNorm:
        return BatchNorm(self.placement, name=name)

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the block."""
        features = self.planes * EXPANSION[self.kind]
        projects = self.stride != 1 or x.shape[-1] != features
        if self.kind == "preact":
            out = nn.relu(self._norm("bn1")(x, train))
            shortcut = self._conv("shortcut.0", features, 1, self.stride)(out) if projects else x
            out = self._conv("conv1", self.planes, 3, self.stride)(out)
            out = self._conv("conv2", self.planes, 3)(nn.relu(self._norm("bn2")(out, train)))
            return out + shortcut
        if self.kind == "basic":
            widths, sizes, strides = (self.planes, features), (3, 3), (self.stride, 1)
        else:
            widths, sizes, strides = (self.planes, self.planes, features), (1, 3, 1), (1, self.stride, 1)
        out = x
        for i, (width, size, stride) in enumerate(zip(widths, sizes, strides, strict=True), 1):
            out = self._norm(f"bn{i}")(self._conv(f"conv{i}", width, size, stride)(out), train)
            out = nn.relu(out) if i < len(widths) else out
        if projects:
            x = self._norm("shortcut.1")(self._conv("shortcut.0", features, 1, self.stride)(x), train)
        return nn.relu(out + x)


class Stem(nn.Module):
    """The 3x3 convolution before the first stage, with batch norm and ReLU unless the blocks are pre-activated."""

    kind: BlockKind
    width: int
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W F"]:
        """Applies the stem."""
        x = Conv(self.width, 3, 1, 1, placement=self.placement, precision=self.precision, name="conv1")(x)
        return x if self.kind == "preact" else nn.relu(BatchNorm(self.placement, name="bn1")(x, train))


class Head(nn.Module):
    """Global average pooling and the linear classifier."""

    num_classes: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B K"]:
        """Applies the head."""
        del train  # nothing in it depends on the mode
        return Dense(self.num_classes, precision=self.precision, name="linear")(x.mean((1, 2)))


class ResNet(Chain):
    """CIFAR ResNet: a stem without pooling, four stages of ``depths`` blocks of widths w, 2w, 4w, 8w, and a head."""

    kind: BlockKind
    depths: tuple[int, int, int, int]
    width: int
    num_classes: int
    placement: Placement = "bn_scale"
    precision: Precision = "float32"

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, blocks, head."""
        stem = Stem(self.kind, self.width, self.placement, self.precision, parent=None)
        blocks = tuple(
            Segment((f"layer{stage}.{i}",), self._block(stage, i), nested=True)
            for stage, depth in enumerate(self.depths, 1)
            for i in range(depth)
        )
        head = Head(self.num_classes, self.precision, parent=None)
        return Segment(("conv1", "bn1"), stem, nested=False), *blocks, Segment(("linear",), head, nested=False)

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms."""
        stream = ["conv1"]  # convolutions summed in the residual stream
        sites = [] if self.kind == "preact" else [Site("bn1", ("conv1",), True)]
        inputs = self.width
        for stage, depth in enumerate(self.depths, 1):
            for i in range(depth):
                name, features = f"layer{stage}.{i}", self.width * 2 ** (stage - 1) * EXPANSION[self.kind]
                projects = (stage > 1 and i == 0) or inputs != features
                inputs = features
                if self.kind == "preact":
                    sites.append(Site(f"{name}.bn1", tuple(stream), True))
                    sites.append(Site(f"{name}.bn2", (f"{name}.conv1",), True))
                    stream = [f"{name}.shortcut.0"] if projects else stream
                    stream = [*stream, f"{name}.conv2"]
                    continue
                last = 3 if self.kind == "bottleneck" else 2
                sites += [Site(f"{name}.bn{j}", (f"{name}.conv{j}",), j < last) for j in range(1, last + 1)]
                if projects:
                    sites.append(Site(f"{name}.shortcut.1", (f"{name}.shortcut.0",), False))
        return tuple(sites)

    @nn.nowrap
    def _block(self, stage: int, index: int) -> Block:
        stride = 2 if stage > 1 and index == 0 else 1
        planes = self.width * 2 ** (stage - 1)
        return Block(self.kind, planes, stride, self.placement, self.precision, parent=None)
