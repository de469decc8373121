"""ConvNeXt, as torchvision publishes it.

Liu et al., "A ConvNet for the 2020s" (CVPR 2022). Stochastic depth is left out, even in training mode: a network is
deterministic. There is no batch norm: filter masks act on each block's hidden units (placement ``unit``) or on the
channels of its depthwise convolution (``conv_output``).
"""

from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.errors import DataError
from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import Conv, Dense, LayerNorm, Placement, Precision, Value, flatten

_EPS = 1e-6
_EXPANSION = 4  # hidden units per channel
_LAYER_SCALE = 1e-6  # at the start of training
_SMALLEST = 32  # pixels that a stem of stride 4 and three halvings leave one position of

Depths = tuple[int, int, int, int]


class Stem(nn.Module):
    """Patches of 4x4 pixels, normalised."""

    width: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the stem.

        Raises:
          DataError: the images are too small to be halved three times after the stem.
        """
        del train  # nothing in it depends on the mode
        if min(x.shape[1:3]) < _SMALLEST:
            raise DataError(
                f"images of {x.shape[1]}x{x.shape[2]}: ConvNeXt needs {_SMALLEST} pixels or more on each side; "
                "resize the images"
            )
        x = Conv(self.width, 4, 4, use_bias=True, precision=self.precision, name="features.0.0")(x)
        return LayerNorm(_EPS, name="features.0.1")(x.astype(jnp.float32))


class Block(nn.Module):
    """A depthwise 7x7 convolution, layer norm and a hidden layer, scaled and added to the input."""

    width: int
    placement: Placement
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"], train: bool) -> Float[Array, "B H W F"]:
        """Applies the block."""
        del train  # nothing in it depends on the mode
        width, hidden, precision = self.width, _EXPANSION * self.width, self.precision
        y = Conv(width, 7, 1, 3, width, use_bias=True, placement=self.placement, precision=precision, name="block.0")(x)
        y = LayerNorm(_EPS, name="block.2")(y)
        y = Dense(hidden, self.placement == "unit", precision=precision, name="block.3")(y)
        y = Dense(width, precision=precision, name="block.5")(activate(self, "block.3", y, "gelu")).astype(x.dtype)
        return x + Value((width,), _LAYER_SCALE, name="layer_scale")()[None, None, None] * y


class Downsampling(nn.Module):
    """Layer norm and a 2x2 convolution of stride 2, between two stages."""

    width: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the layers."""
        del train  # nothing in it depends on the mode
        x = LayerNorm(_EPS, name="0")(x)
        return Conv(self.width, 2, 2, use_bias=True, precision=self.precision, name="1")(x).astype(jnp.float32)


class Norm(nn.Module):
    """Global average pooling and the last layer norm."""

    eps: float = _EPS

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"], train: bool) -> Float[Array, "B 1 1 F"]:
        """Applies the layer."""
        del train  # nothing in it depends on the mode
        return LayerNorm(self.eps, name="classifier.0")(x.mean((1, 2), keepdims=True))


class Head(nn.Module):
    """The linear classifier."""

    num_classes: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B 1 1 F"], train: bool) -> Float[Array, "B K"]:
        """Applies the head."""
        del train  # nothing in it depends on the mode
        return Dense(self.num_classes, precision=self.precision, name="classifier.2")(flatten(x))


class ConvNeXt(Chain):
    """A stem, four stages of ``depths`` blocks of widths w, 2w, 4w, 8w with downsampling between them, and a head."""

    depths: Depths
    width: int
    num_classes: int
    placement: Placement = "unit"
    precision: Precision = "float32"
    last_eps: float = _EPS

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, blocks and downsamplings, the last layer norm, the classifier."""
        stem = Stem(self.width, self.precision, parent=None)
        row = [Segment(("features.0.0", "features.0.1"), stem, nested=False)]
        for stage, depth in enumerate(self.depths):
            width = self.width * 2**stage
            if stage:
                downsampling = Downsampling(width, self.precision, parent=None)
                row.append(Segment((f"features.{2 * stage}",), downsampling, nested=True))
            row += [
                Segment((name,), Block(width, self.placement, self.precision, parent=None), nested=True)
                for name in list_blocks(stage, depth)
            ]
        return (
            *row,
            Segment(("classifier.0",), Norm(self.last_eps, parent=None), nested=False),
            Segment(("classifier.2",), Head(self.num_classes, self.precision, parent=None), nested=False),
        )

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The layers with filter masks; none in the placements for batch norm."""
        blocks = [name for stage, depth in enumerate(self.depths) for name in list_blocks(stage, depth)]
        if self.placement == "unit":
            return tuple(Site(f"{name}.block.3", (f"{name}.block.3",), "gelu") for name in blocks)
        if self.placement == "conv_output":
            return tuple(Site(f"{name}.block.0", (f"{name}.block.0",), None) for name in blocks)
        return ()


def list_blocks(stage: int, depth: int) -> list[str]:
    """torchvision's names of a stage's blocks; what lies between two stages has an even number."""
    return [f"features.{2 * stage + 1}.{i}" for i in range(depth)]


PUBLISHED: Mapping[str, tuple[Depths, int]] = MappingProxyType(
    {
        "convnext_tiny": ((3, 3, 9, 3), 96),
        "convnext_small": ((3, 3, 27, 3), 96),
        "convnext_base": ((3, 3, 27, 3), 128),
        "convnext_large": ((3, 3, 27, 3), 192),
    }
)
"""Depths and width."""


def design(depths: Depths, width: int, last_eps: float = _EPS) -> Design:
    """A ConvNeXt of these depths, published at this width. Other widths belong to the first design of these depths.

    ``last_eps`` is the last layer norm's.
    """
    widths = [each for published, each in PUBLISHED.values() if published == depths] or [width]

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> ConvNeXt:
        return ConvNeXt(depths, sizes.width, sizes.num_classes, placement, precision, last_eps)

    def matches(shapes: Shapes) -> bool:
        found = shapes["features.0.0.weight"][0]
        return _count_blocks(shapes) == depths and (found if found in widths else widths[0]) == width

    return Design(build, matches, "features.0.0.weight", "classifier.2.weight", width, image_side=224, placement="unit")


def _count_blocks(shapes: Shapes) -> tuple[int, ...]:
    scales = [key.split(".") for key in shapes if key.startswith("features.") and key.endswith(".layer_scale")]
    return tuple(sum(parts[1] == stage for parts in scales) for stage in "1357")


DESIGNS: Mapping[str, Design] = MappingProxyType({name: design(*sizes) for name, sizes in PUBLISHED.items()})
