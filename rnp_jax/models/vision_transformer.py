"""Vision transformers as classifiers, as torchvision publishes them.

Dosovitskiy et al., "An Image Is Worth 16x16 Words" (ICLR 2021). Dropout is left out, even in training mode: a
network is deterministic. Queries, keys and values are three layers here and one tensor in the state dict. Filter masks
(placement ``unit``) act on each block's hidden units and on its value channels; a head has D / heads adjacent channels.
Dimensions: T tokens (the class token first), D width.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.errors import ArchitectureError, DataError
from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import Conv, Dense, LayerNorm, Placement, Precision, Value, attend
from rnp_jax.models.vit import MAX_TOKENS

_EPS = 1e-6
_EXPANSION = 4  # hidden units per channel
_POSITIONS = "encoder.pos_embedding"

HiddenNames = tuple[str, str]
"""Names of a block's two hidden layers."""


class Stem(nn.Module):
    """Turns patches into tokens by one convolution, prepends the class token, and adds positions."""

    width: int
    patch: int
    image_shape: tuple[int, int, int]
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B T D"]:
        """Applies the stem.

        Raises:
          DataError: the images have another size than the positions are for.
        """
        del train  # nothing in it depends on the mode
        if x.shape[1:3] != self.image_shape[:2]:
            raise DataError(
                f"images of {x.shape[1]}x{x.shape[2]}: this transformer's positions are for "
                f"{self.image_shape[0]}x{self.image_shape[1]}; resize the images"
            )
        conv = Conv(self.width, self.patch, self.patch, use_bias=True, precision=self.precision, name="conv_proj")
        patches = conv(x).astype(jnp.float32).reshape(len(x), -1, self.width)
        token = jnp.broadcast_to(Value((self.width,), name="class_token")()[None, None], (len(x), 1, self.width))
        tokens = jnp.concatenate([token, patches], axis=1)
        return tokens + Value(tokens.shape[1:], name=_POSITIONS)()[None]


class Block(nn.Module):
    """One pre-norm block: self-attention, then a hidden layer, each added to its input."""

    width: int
    heads: int
    hidden: HiddenNames
    placement: Placement
    precision: Precision
    eps: float = _EPS

    def _dense(self, name: str, features: int, *, masked: bool = False) -> Dense:
        return Dense(features, masked and self.placement == "unit", precision=self.precision, name=name)

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool) -> Float[Array, "B T D"]:
        """Applies the block."""
        del train  # nothing in it depends on the mode
        first, second = self.hidden
        y = LayerNorm(self.eps, name="ln_1")(x)
        query, key, value = (
            self._dense(f"self_attention.in_proj.{part}", self.width, masked=part == "value")(y)
            for part in ("query", "key", "value")
        )
        y = attend(query, key, value, self.heads, self.precision)
        x = x + self._dense("self_attention.out_proj", self.width)(y).astype(x.dtype)
        y = self._dense(first, _EXPANSION * self.width, masked=True)(LayerNorm(self.eps, name="ln_2")(x))
        return x + self._dense(second, self.width)(activate(self, first, y, "gelu")).astype(x.dtype)


class Norm(nn.Module):
    """The last layer norm; returns only the class token."""

    eps: float = _EPS

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool) -> Float[Array, "B D"]:
        """Applies the layer."""
        del train  # nothing in it depends on the mode
        return LayerNorm(self.eps, name="encoder.ln")(x)[:, 0]


class Head(nn.Module):
    """The linear classifier."""

    num_classes: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B D"], train: bool) -> Float[Array, "B K"]:
        """Applies the head."""
        del train  # nothing in it depends on the mode
        return Dense(self.num_classes, precision=self.precision, name="heads.head")(x)


class VisionTransformer(Chain):
    """Square patches of ``patch`` pixels, ``depth`` blocks of ``heads`` heads, a classifier of the class token."""

    patch: int
    depth: int
    heads: int
    hidden: HiddenNames
    width: int
    num_classes: int
    image_shape: tuple[int, int, int]
    placement: Placement = "unit"
    precision: Precision = "float32"
    eps: float = _EPS

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Tokens, blocks, the last layer norm, the classifier."""
        stem = Stem(self.width, self.patch, self.image_shape, self.precision, parent=None)
        blocks = tuple(
            Segment(
                (name,),
                Block(self.width, self.heads, self.hidden, self.placement, self.precision, self.eps, parent=None),
                nested=True,
            )
            for name in self._blocks()
        )
        return (
            Segment(("conv_proj", "class_token", _POSITIONS), stem, nested=False),
            *blocks,
            Segment(("encoder.ln",), Norm(self.eps, parent=None), nested=False),
            Segment(("heads.head",), Head(self.num_classes, self.precision, parent=None), nested=False),
        )

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """In the placement ``unit``, each block's value channels, which attention reads, and its hidden units."""
        if self.placement != "unit":
            return ()
        sites = []
        for name in self._blocks():
            value, units = f"{name}.self_attention.in_proj.value", f"{name}.{self.hidden[0]}"
            sites += [Site(value, (value,), None), Site(units, (units,), "gelu")]
        return tuple(sites)

    @nn.nowrap
    def _blocks(self) -> list[str]:
        return [_block(i) for i in range(self.depth)]


def _block(index: int) -> str:
    return f"encoder.layers.encoder_layer_{index}"


def design(
    patch: int, depth: int, heads: int, width: int, hidden: HiddenNames = ("mlp.0", "mlp.3"), eps: float = _EPS
) -> Design:
    """A transformer published at this width; any other width that is a multiple of the heads works too.

    ``eps`` is that of all layer norms.
    """

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> VisionTransformer:
        _check(sizes, patch, heads)
        return VisionTransformer(
            patch, depth, heads, hidden, sizes.width, sizes.num_classes, sizes.image_shape, placement, precision, eps
        )

    def matches(shapes: Shapes) -> bool:
        last, beyond = f"{_block(depth - 1)}.{hidden[0]}.weight", f"{_block(depth)}.ln_1.weight"
        return last in shapes and beyond not in shapes and tuple(shapes["conv_proj.weight"][2:]) == (patch, patch)

    def image_side(shapes: Shapes) -> int:
        return patch * _count_patches(shapes)

    return Design(
        build, matches, "conv_proj.weight", "heads.head.weight", width, image_side=image_side, placement="unit"
    )


def _check(sizes: Sizes, patch: int, heads: int) -> None:
    (height, width, _), channels = sizes.image_shape, sizes.width
    if channels % heads:
        raise ArchitectureError(f"width {channels} of the tokens: expected a multiple of the {heads} heads")
    if height != width or height % patch or height == 0:
        raise ArchitectureError(
            f"images of {height}x{width}: expected squares whose side is a multiple of the patch's {patch} pixels"
        )
    if (height // patch) ** 2 + 1 > MAX_TOKENS:
        raise ArchitectureError(f"images of {height}x{width} have more than {MAX_TOKENS} patches of {patch} pixels")


def _count_patches(shapes: Shapes) -> int:
    """Number of patches along one side, from the number of positions."""
    shape = tuple(shapes.get(_POSITIONS, ()))
    tokens = shape[1] if len(shape) == 3 else 0
    side = math.isqrt(max(0, tokens - 1))
    if side == 0 or side**2 + 1 != tokens:
        raise ArchitectureError(
            f"{_POSITIONS}: {shape or 'missing'}, expected (1, 1 + n², D): the class token and n x n patches"
        )
    return side


LEGACY_HIDDEN: HiddenNames = ("mlp.linear_1", "mlp.linear_2")
"""What torchvision called them when it first published transformers."""

_PUBLISHED = {  # patch, depth, heads, width
    "vit_b_16": (16, 12, 12, 768),
    "vit_b_32": (32, 12, 12, 768),
    "vit_l_16": (16, 24, 16, 1024),
    "vit_l_32": (32, 24, 16, 1024),
    "vit_h_14": (14, 32, 16, 1280),
}

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{name: design(*sizes) for name, sizes in _PUBLISHED.items()},
        **{f"{name}_legacy": design(*sizes, LEGACY_HIDDEN) for name, sizes in _PUBLISHED.items()},
    }
)
"""By name; those called legacy have the layer names of state dicts written before torchvision renamed them."""
