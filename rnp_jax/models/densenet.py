"""DenseNet-BC as torchvision defines it, and TrojanZoo's version with the same layers.

Glossary: w channels of the stem, g = w / 2 channels that each dense layer adds (the paper's growth rate k).

A dense layer reads everything that its block has produced so far, in one tensor, and appends its own channels.
TrojanZoo calls the last layer ``classifier.fc``; its ``_comp`` networks, for 32-pixel images, begin with a bare 3x3
convolution. huyvnphan's, for 32-pixel images too, begin as torchvision's, but with a 3x3 convolution of stride 1.
Dropout in dense layers has rate 0 in all published networks and is left out.

The filters of all batch norms have masks. Only those that normalise one convolution's output are scored: most others
read a concatenation of many layers' channels.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import BatchNorm, Conv, Placement, Precision, avg_pool, max_pool
from rnp_jax.models.resnet import Head

Depths = tuple[int, int, int, int]
_BOTTLENECK = 4  # channels inside a dense layer, in units of g


Beginning = Literal["published", "bare", "small"]
"""A 7x7 convolution of stride 2, batch norm, ReLU, max-pooling; a bare 3x3 convolution; or a 3x3 one and the rest."""


class Stem(nn.Module):
    """What comes before the first dense block."""

    width: int
    beginning: Beginning
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the stem."""
        size, stride = (7, 2) if self.beginning == "published" else (3, 1)
        conv = partial(Conv, placement=self.placement, precision=self.precision)
        x = conv(self.width, size, stride, size // 2, name="features.conv0")(x)
        if self.beginning == "bare":
            return x
        x = BatchNorm(self.placement, precision=self.precision, name="features.norm0")(x, train)
        return max_pool(activate(self, "features.norm0", x), 3, 2, 1)


class DenseLayer(nn.Module):
    """Appends ``growth`` channels to its input, through a 1x1 bottleneck of 4 times as many."""

    growth: int
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W F"]:
        """Applies the layer; F is C + growth."""
        conv = partial(Conv, placement=self.placement, precision=self.precision)
        norm = partial(BatchNorm, self.placement, precision=self.precision)
        out = activate(self, "norm1", norm(name="norm1")(x, train))
        out = conv(_BOTTLENECK * self.growth, 1, name="conv1")(out)
        out = activate(self, "norm2", norm(name="norm2")(out, train))
        out = conv(self.growth, 3, 1, 1, name="conv2")(out)
        return jnp.concatenate((x, out), -1)


class Transition(nn.Module):
    """Halves the channels and the image between two dense blocks."""

    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the transition; F is C // 2."""
        norm = BatchNorm(self.placement, precision=self.precision, name="norm")
        out = activate(self, "norm", norm(x, train))
        out = Conv(x.shape[-1] // 2, 1, placement=self.placement, precision=self.precision, name="conv")(out)
        return avg_pool(out, 2)


class LastNorm(nn.Module):
    """The batch norm and ReLU after the last dense block."""

    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """Applies them."""
        norm = BatchNorm(self.placement, precision=self.precision, name="features.norm5")
        return activate(self, "features.norm5", norm(x, train))


class DenseNet(Chain):
    """A stem, four dense blocks of ``depths`` layers with transitions between them, a last batch norm, and a head."""

    depths: Depths
    width: int
    num_classes: int
    placement: Placement = "bn_scale"
    precision: Precision = "float32"
    beginning: Beginning = "published"
    head: str = "classifier"

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, dense layers and transitions, last batch norm, head."""
        settings = (self.placement, self.precision)
        layer = DenseLayer(max(1, self.width // 2), *settings, parent=None)
        transition = Transition(*settings, parent=None)
        first = ("features.conv0",) if self.beginning == "bare" else ("features.conv0", "features.norm0")
        return (
            Segment(first, Stem(self.width, self.beginning, *settings, parent=None), nested=False),
            *(Segment((name,), layer if "denselayer" in name else transition, nested=True) for name in self._parts()),
            Segment(("features.norm5",), LastNorm(*settings, parent=None), nested=False),
            Segment((self.head,), Head(self.num_classes, self.precision, self.head, parent=None), nested=False),
        )

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms; most of them normalise a concatenation."""
        sites = [] if self.beginning == "bare" else [Site("features.norm0", ("features.conv0",), "relu")]
        for name in self._parts():
            if "denselayer" in name:
                sites += [Site(f"{name}.norm1", (), "relu"), Site(f"{name}.norm2", (f"{name}.conv1",), "relu")]
            else:
                sites.append(Site(f"{name}.norm", (), "relu"))
        return (*sites, Site("features.norm5", (), "relu"))

    @nn.nowrap
    def _parts(self) -> Iterator[str]:
        for block, depth in enumerate(self.depths, 1):
            yield from (f"features.denseblock{block}.denselayer{i}" for i in range(1, depth + 1))
            if block < len(self.depths):
                yield f"features.transition{block}"


def design(depths: Depths, width: int, head: str = "classifier", beginning: Beginning = "published") -> Design:
    """A DenseNet; ``width`` is the published width."""
    stem = "features.conv0.weight"

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> DenseNet:
        return DenseNet(depths, sizes.width, sizes.num_classes, placement, precision, beginning, head)

    def matches(shapes: Shapes) -> bool:
        layers = [
            sum(f"features.denseblock{block}.denselayer{i}.conv1.weight" in shapes for i in range(1, max(depths) + 2))
            for block in range(1, 5)
        ]
        normed, side = "features.norm0.weight" in shapes, shapes[stem][2]
        found = "bare" if not normed else "published" if side == 7 else "small"
        return tuple(layers) == depths and found == beginning

    return Design(build, matches, stem, f"{head}.weight", width, image_side=224 if beginning == "published" else 32)


_PUBLISHED: Mapping[str, tuple[Depths, int]] = MappingProxyType(
    {
        "densenet121": ((6, 12, 24, 16), 64),
        "densenet161": ((6, 12, 36, 24), 96),
        "densenet169": ((6, 12, 32, 32), 64),
        "densenet201": ((6, 12, 48, 32), 64),
    }
)

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{name: design(*published) for name, published in _PUBLISHED.items()},
        **{f"trojanzoo_{name}": design(*published, "classifier.fc") for name, published in _PUBLISHED.items()},
        **{
            f"trojanzoo_{name}_comp": design(*published, "classifier.fc", "bare")
            for name, published in _PUBLISHED.items()
        },
        **{f"huyvnphan_{name}": design(*published, beginning="small") for name, published in _PUBLISHED.items()},
    }
)
