"""Swin transformers as classifiers, as torchvision, timm and Hugging Face publish them.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV 2021). Tokens stay on their
grid, and attend to those of the same window; every second block moves the windows by half their size. Dropout and
stochastic depth are left out, even in training mode. Queries, keys and values are three layers here. Filter masks
(placement ``unit``) act on each block's hidden units and on its value channels, as in ``vision_transformer``.
Glossary: W side of a window, N windows, T = W² tokens of a window.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax.errors import ArchitectureError
from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.convnext import Depths, list_blocks
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.layers import Conv, Dense, LayerNorm, Placement, Precision, Value, attend
from rnp_jax.models.naming import Names

_PATCH, _WINDOW, _EXPANSION = 4, 7, 4
_APART = -100.0  # added to scores between tokens that only the shift has brought together


class Stem(nn.Module):
    """Patches of 4x4 pixels, normalised."""

    width: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the stem."""
        del train  # nothing in it depends on the mode
        x = Conv(self.width, _PATCH, _PATCH, use_bias=True, precision=self.precision, name="features.0.0")(x)
        return LayerNorm(name="features.0.2")(x.astype(jnp.float32))


class Block(nn.Module):
    """Attention within windows, then a hidden layer, each added to its input."""

    width: int
    heads: int
    shifted: bool
    window: int
    placement: Placement
    precision: Precision

    def _dense(self, name: str, features: int, *, masked: bool = False) -> Dense:
        return Dense(features, masked and self.placement == "unit", precision=self.precision, name=name)

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"], train: bool) -> Float[Array, "B H W F"]:
        """Applies the block."""
        del train  # nothing in it depends on the mode
        x = x + self._attended(LayerNorm(name="norm1")(x)).astype(x.dtype)
        y = self._dense("mlp.0", _EXPANSION * self.width, masked=True)(LayerNorm(name="norm2")(x))
        return x + self._dense("mlp.3", self.width)(activate(self, "mlp.0", y, "gelu")).astype(x.dtype)

    def _attended(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W F"]:
        height, width = x.shape[1:3]
        size = self.window
        padded = [side + -side % size for side in (height, width)]
        shifts = [size // 2 if self.shifted and side > size else 0 for side in padded]
        x = jnp.pad(x, ((0, 0), (0, padded[0] - height), (0, padded[1] - width), (0, 0)))
        tokens = _cut(jnp.roll(x, [-shift for shift in shifts], (1, 2)), size)
        query, key, value = (
            self._dense(f"attn.in_proj.{part}", self.width, masked=part == "value")(tokens)
            for part in ("query", "key", "value")
        )
        y = attend(query, key, value, self.heads, self.precision, self._bias(padded, shifts))
        y = _join(self._dense("attn.proj", self.width)(y), (padded[0], padded[1]), size)
        return jnp.roll(y, shifts, (1, 2))[:, :height, :width]

    def _bias(self, sides: list[int], shifts: list[int]) -> Float[Array, "1 N h T T"]:
        """What is added to the scores: the bias of each relative position, and a wall between what the shift joined."""
        size, table = self.window, Value(((2 * self.window - 1) ** 2, self.heads), name=_TABLE)()
        bias = table[_relative_positions(size)].transpose(2, 0, 1)
        return bias[None, None] + jnp.asarray(_walls(sides, size, shifts))[None, :, None]


_TABLE = "attn.relative_position_bias_table"


_Image = TypeVar("_Image", jax.Array, np.ndarray)


def _cut(x: _Image, size: int) -> _Image:
    """The image [B, H, W, F] in windows [B, N, T, F], row by row."""
    batch, height, width, features = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, features)
    return x.swapaxes(2, 3).reshape(batch, -1, size * size, features)


def _join(x: Float[Array, "B N T F"], sides: tuple[int, int], size: int) -> Float[Array, "B H W F"]:
    """The inverse of ``_cut``."""
    height, width = sides
    x = x.reshape(x.shape[0], height // size, width // size, size, size, x.shape[-1])
    return x.swapaxes(2, 3).reshape(x.shape[0], height, width, x.shape[-1])


def _regions(side: int, size: int, shift: int) -> np.ndarray:
    """Which part of the image each row of a shifted one is from: the middle, the last window's, or the other edge."""
    regions = np.zeros(side, int)
    if shift:
        regions[-size:-shift], regions[-shift:] = 1, 2
    return regions


def _walls(sides: Sequence[int], size: int, shifts: Sequence[int]) -> np.ndarray:
    """What is added to the scores of each window's pairs of tokens [N, T, T]."""
    rows, columns = (_regions(side, size, shift) for side, shift in zip(sides, shifts, strict=True))
    windows = _cut((rows[:, None] * 3 + columns[None])[None, :, :, None], size)[0, :, :, 0]
    return np.where(windows[:, :, None] != windows[:, None], _APART, 0.0).astype(np.float32)


def _relative_positions(size: int) -> np.ndarray:
    """Row of the table for each pair of tokens of a window [T, T]."""
    rows, columns = (each.reshape(-1) for each in np.indices((size, size)))
    down, right = (each[:, None] - each[None] + size - 1 for each in (rows, columns))
    return down * (2 * size - 1) + right


def list_constants(segments: Sequence[Segment], names: Names) -> dict[str, np.ndarray]:
    """The constants that torchvision's modules expect of a file; none for other networks and other sources' names."""
    if names != TORCHVISION_NAMES:
        return {}
    blocks = [(segment.layers[0], segment.module) for segment in segments]
    return {
        f"{name}.attn.relative_position_index": _relative_positions(block.window).reshape(-1)
        for name, block in blocks
        if isinstance(block, Block)
    }


def check_constants(tensors: Mapping[str, np.ndarray]) -> None:
    """Checks the constants that files keep beside Swin's weights: torch reads them, and no network here does.

    Raises:
      ArchitectureError: they are not what the sizes of windows and images make them.
    """
    for key in tensors:
        part, expected = key.rpartition(".")[2], None
        if part == "relative_position_index":
            expected = _relative_positions(math.isqrt(math.isqrt(tensors[key].size)))
        elif part == "attn_mask":
            number, tokens = (*tensors[key].shape, 0, 0)[:2]
            size = math.isqrt(tokens)
            expected = _walls((math.isqrt(number) * size,) * 2, size, (size // 2,) * 2)
        if expected is not None and not np.array_equal(tensors[key].reshape(-1), expected.reshape(-1)):
            raise ArchitectureError(
                f"{key}: not the constant that follows from the size of the windows, so the file is not what its names "
                "say; do not trust it"
            )


class Merging(nn.Module):
    """Puts four neighbours' channels together and halves their number, between two stages."""

    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"], train: bool) -> Float[Array, "B Ho Wo Fo"]:
        """Applies the layers."""
        del train  # nothing in it depends on the mode
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        x = LayerNorm(name="norm")(x)
        out = Dense(x.shape[-1] // 2, use_bias=False, precision=self.precision, name="reduction")
        return out(x).astype(jnp.float32)


class Norm(nn.Module):
    """The last layer norm, and the mean over all tokens."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"], train: bool) -> Float[Array, "B F"]:
        """Applies the layer."""
        del train  # nothing in it depends on the mode
        return LayerNorm(name="norm")(x).mean((1, 2))


class Head(nn.Module):
    """The linear classifier."""

    num_classes: int
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[Array, "B F"], train: bool) -> Float[Array, "B K"]:
        """Applies the head."""
        del train  # nothing in it depends on the mode
        return Dense(self.num_classes, precision=self.precision, name="head")(x)


class Swin(Chain):
    """A stem, four stages of ``depths`` blocks of widths w, 2w, 4w, 8w with merging between them, and a head.

    ``heads`` are those of the first stage; each further one has twice as many.
    """

    depths: Depths
    heads: int
    window: int
    width: int
    num_classes: int
    placement: Placement = "unit"
    precision: Precision = "float32"

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, blocks and mergings, the last layer norm, the classifier."""
        stem = Stem(self.width, self.precision, parent=None)
        row = [Segment(("features.0.0", "features.0.2"), stem, nested=False)]
        for stage, depth in enumerate(self.depths):
            if stage:
                row.append(Segment((f"features.{2 * stage}",), Merging(self.precision, parent=None), nested=True))
            sizes = (self.width * 2**stage, self.heads * 2**stage)
            for i, name in enumerate(list_blocks(stage, depth)):
                block = Block(*sizes, i % 2 == 1, self.window, self.placement, self.precision, parent=None)
                row.append(Segment((name,), block, nested=True))
        return (
            *row,
            Segment(("norm",), Norm(parent=None), nested=False),
            Segment(("head",), Head(self.num_classes, self.precision, parent=None), nested=False),
        )

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """In the placement ``unit``, each block's value channels, which attention reads, and its hidden units."""
        if self.placement != "unit":
            return ()
        sites = []
        for stage, depth in enumerate(self.depths):
            for name in list_blocks(stage, depth):
                value, units = f"{name}.attn.in_proj.value", f"{name}.mlp.0"
                sites += [Site(value, (value,), None), Site(units, (units,), "gelu")]
        return tuple(sites)


TORCHVISION_NAMES: Names = (("features.{}.{}.attn.in_proj", "features.{}.{}.attn.qkv"),)


def design(depths: Depths, heads: int, width: int, names: Names = TORCHVISION_NAMES, window: int = _WINDOW) -> Design:
    """A Swin transformer published at this width; any other width that is a multiple of the heads works too."""

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> Swin:
        if sizes.width % heads:
            raise ArchitectureError(f"width {sizes.width} of the tokens: expected a multiple of the {heads} heads")
        return Swin(depths, heads, window, sizes.width, sizes.num_classes, placement, precision)

    def matches(shapes: Shapes) -> bool:
        counts = tuple(sum(f"{name}.{_TABLE}" in shapes for name in list_blocks(i, 1 + max(depths))) for i in range(4))
        table = shapes.get(f"features.1.0.{_TABLE}", ())
        return counts == depths and tuple(table) == ((2 * window - 1) ** 2, heads)

    return Design(
        build, matches, "features.0.0.weight", "head.weight", width, image_side=224, placement="unit", names=names
    )


PUBLISHED: Mapping[str, tuple[Depths, int, int]] = MappingProxyType(  # depths, heads of the first stage, width
    {
        "swin_t": ((2, 2, 6, 2), 3, 96),
        "swin_s": ((2, 2, 18, 2), 3, 96),
        "swin_b": ((2, 2, 18, 2), 4, 128),
    }
)
LARGE: tuple[Depths, int, int] = ((2, 2, 18, 2), 6, 192)
"""Not torchvision's."""

DESIGNS: Mapping[str, Design] = MappingProxyType({name: design(*sizes) for name, sizes in PUBLISHED.items()})
