"""Vision transformers as frozen feature extractors: the image tower of CLIP, and ViT.

Dosovitskiy et al., "An Image Is Worth 16x16 Words" (ICLR 2021); Radford et al., "Learning Transferable Visual Models
From Natural Language Supervision" (ICML 2021), whose tower has a layer norm before the first block, no bias in the
patch embedding, and a projection of the class token. Nothing here is trained, so there are no masks.
Dimensions: T tokens (the class token first), D width, F features.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rnp_jax.errors import ArchitectureError
from rnp_jax.models.layers import Precision, attend
from rnp_jax.types import Tree

Family = Literal["clip", "vit"]
Activation = Literal["gelu", "quick_gelu", "gelu_new", "gelu_pytorch_tanh"]

MAX_TOKENS, MAX_DEPTH = 4096, 128
"""Limits: the memory of attention grows as the square of the tokens, compilation time with the number of blocks."""

_MATMUL = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}


@dataclass(frozen=True)
class VitShape:
    """The sizes and settings of a vision transformer that a configuration file states.

    Attributes:
      family: ``clip`` or ``vit``.
      width: number of channels of a token, D.
      depth: number of blocks.
      heads: number of attention heads; it divides D.
      hidden: units of each block's hidden layer.
      patch: (height, width) of a patch, in pixels.
      image_shape: (H, W, C) that the position embedding is for.
      activation: activation of the hidden layer, by its published name.
      epsilon: epsilon of every layer norm.
      attention_bias: whether query, key and value have biases.
      projection: F after CLIP's visual projection; None if the features are the normalised class token itself.

    Raises:
      ArchitectureError: the sizes are invalid, or beyond ``MAX_TOKENS`` or ``MAX_DEPTH``.
    """

    family: Family
    width: int
    depth: int
    heads: int
    hidden: int
    patch: tuple[int, int]
    image_shape: tuple[int, int, int]
    activation: Activation
    epsilon: float
    attention_bias: bool = True
    projection: int | None = None

    def __post_init__(self):
        sizes = (self.width, self.depth, self.heads, self.hidden, *self.patch, *self.image_shape, self.projection or 1)
        if min(sizes) < 1 or self.width % self.heads:
            raise ArchitectureError(f"{self}: sizes must be 1 or more, and the width a multiple of the heads")
        if not all(self.grid):
            raise ArchitectureError(f"images of {self.image_shape[:2]} are smaller than a patch of {self.patch}")
        if self.tokens > MAX_TOKENS or self.depth > MAX_DEPTH:
            raise ArchitectureError(
                f"{self.tokens} tokens and {self.depth} blocks: at most {MAX_TOKENS} and {MAX_DEPTH} are supported"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches along height and width; pixels beyond the last whole patch are not read."""
        return self.image_shape[0] // self.patch[0], self.image_shape[1] // self.patch[1]

    @property
    def tokens(self) -> int:
        """Number of tokens, T."""
        return math.prod(self.grid) + 1

    @property
    def dim(self) -> int:
        """Number of features, F."""
        return self.projection or self.width


class Block(nn.Module):
    """One pre-norm block: self-attention, then a hidden layer, each added to its input."""

    shape: VitShape
    precision: Precision

    @nn.nowrap
    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.shape.epsilon, use_fast_variance=False, name=name)

    @nn.nowrap
    def _dense(self, name: str, features: int, use_bias: bool = True) -> nn.Dense:
        return _dense(features, self.precision, use_bias, name)

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Applies the block."""
        y = self._norm("norm1")(x)
        query, key, value = (
            self._dense(name, self.shape.width, self.shape.attention_bias)(y) for name in ("query", "key", "value")
        )
        y = attend(query, key, value, self.shape.heads, self.precision)
        x = x + self._dense("out", self.shape.width)(y).astype(x.dtype)
        y = _activate(self._dense("fc1", self.shape.hidden)(self._norm("norm2")(x)), self.shape.activation)
        return x + self._dense("fc2", self.shape.width)(y).astype(x.dtype)


class Vit(nn.Module):
    """A vision transformer that computes the features of the class token."""

    shape: VitShape
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """Features of normalised images."""
        shape, clip = self.shape, self.shape.family == "clip"
        x = _dense(shape.width, self.precision, not clip, "patch_embedding")(_patches(x, shape)).astype(jnp.float32)
        token = self.param("class_token", nn.initializers.normal(0.02), (shape.width,), jnp.float32)
        position = self.param("position", nn.initializers.normal(0.02), (shape.tokens, shape.width), jnp.float32)
        token = jnp.broadcast_to(token[None, None], (x.shape[0], 1, shape.width))
        x = jnp.concatenate([token, x], axis=1) + position[None]
        if clip:
            x = nn.LayerNorm(shape.epsilon, use_fast_variance=False, name="pre_norm")(x)
        for i in range(shape.depth):
            x = Block(shape, self.precision, name=f"block{i}")(x)
        x = nn.LayerNorm(shape.epsilon, use_fast_variance=False, name="norm")(x[:, 0])
        if shape.projection is not None:
            x = _dense(shape.projection, self.precision, False, "projection")(x)
        return x.astype(jnp.float32)


def vit_features(
    shape: VitShape, params: Tree, images: Float[Array, "B H W C"], precision: Precision = "float32"
) -> Float[Array, "B F"]:
    """Features of normalised images, float32.

    ``clip``: the class token after the last layer norm, projected if there is a projection. The released models scale
    it to length 1 and compare it with text. ``vit``: the class token after the last layer norm, which a classifier
    reads.
    """
    features: Any = Vit(shape, precision).apply({"params": params}, images)
    return features


def _dense(features: int, precision: Precision, use_bias: bool, name: str) -> nn.Dense:
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    return nn.Dense(features, use_bias=use_bias, dtype=dtype, precision=_MATMUL[precision], name=name)


def _patches(x: jax.Array, shape: VitShape) -> jax.Array:
    """Images [B, H, W, C] cut into rows of pixels [B, T - 1, patch height · patch width · C]."""
    (rows, columns), (height, width) = shape.grid, shape.patch
    x = x[:, : rows * height, : columns * width].reshape(-1, rows, height, columns, width, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], rows * columns, -1)


def _activate(x: jax.Array, activation: Activation) -> jax.Array:
    if activation == "quick_gelu":
        return x * nn.sigmoid(1.702 * x)
    return nn.gelu(x, approximate=activation != "gelu")
