"""StegaStamp's networks (Tancik et al., 2020), which hide bits in images, as ISSBA uses them; any width works."""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rnp_jax.models.convolution import Window, conv2d
from rnp_jax.types import Tree

MAX_MAP = 32
"""Largest side of the map that the secret is spread over, in pixels; larger images get it resized."""

_zeros = nn.initializers.zeros  # for all parameters; ``Steganography.init`` draws the weights


class _Convolution(nn.Module):
    """Convolution with a bias; an even kernel reads one more pixel below and to the right."""

    features: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B Ho Wo F"]:
        kernel = self.param("kernel", _zeros, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", _zeros, (self.features,), jnp.float32)
        pad = ((self.size - 1) // 2, self.size // 2)
        y = conv2d(x, kernel, window=Window(self.stride, (pad, pad)), precision=lax.Precision.HIGHEST)
        return y + bias[None, None, None]


class Encoder(nn.Module):
    """U-Net of five levels, ``width`` · (1, 1, 2, 4, 8) channels, from an image and a secret to a residual."""

    width: int
    map_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], secrets: Float[Array, "B S"]) -> Float[Array, "B H W C"]:
        """The residual that hides each secret in its image; images in [0, 1], secrets of zeros and ones."""
        bits = secrets.shape[1]
        spread = self.param("secret_kernel", _zeros, (bits, *self.map_shape))
        bias = self.param("secret_bias", _zeros, self.map_shape)
        planes = nn.relu(jnp.tensordot(secrets - 0.5, spread, 1, precision=lax.Precision.HIGHEST) + bias[None])
        planes = jax.image.resize(planes, images.shape, "nearest")
        x = jnp.concatenate([planes, images - 0.5], -1)
        levels = [nn.relu(_Convolution(self.width, name="down0")(x))]
        for i, factor in enumerate((1, 2, 4, 8), 1):
            levels.append(nn.relu(_Convolution(factor * self.width, stride=2, name=f"down{i}")(levels[-1])))
        y = levels.pop()
        for i, factor in zip((3, 2, 1, 0), (4, 2, 1, 1), strict=True):
            up = nn.relu(_Convolution(factor * self.width, 2, name=f"up{i}")(_double(y, levels[i])))
            joined = [levels[i], up] if i else [levels[i], up, x]
            y = nn.relu(_Convolution(factor * self.width, name=f"merge{i}")(jnp.concatenate(joined, -1)))
        return _Convolution(images.shape[-1], 1, name="residual")(y)


class Decoder(nn.Module):
    """Convolutions of ``width`` · (2, 2, 4, 4, 8) channels, three of them strided, and a linear layer."""

    width: int
    bits: int

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B S"]:
        """Logits of the bits hidden in images in [0, 1]."""
        dense = nn.Dense(self.bits, precision=lax.Precision.HIGHEST, kernel_init=_zeros, name="bits")
        x = images - 0.5
        for i, (factor, stride) in enumerate(((2, 2), (2, 1), (4, 2), (4, 1), (8, 2))):
            x = nn.relu(_Convolution(factor * self.width, stride=stride, name=f"conv{i}")(x))
        return dense(x.reshape(x.shape[0], -1))


class Critic(nn.Module):
    """Convolutions of 8, 16, 32 and 64 channels, all strided, and one of a single channel, which is averaged."""

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B"]:
        """How much images in [0, 1] of any size look as if they hide something; the score has no fixed scale."""
        x = images - 0.5
        for i, features in enumerate((8, 16, 32, 64)):
            x = nn.relu(_Convolution(features, stride=2, name=f"conv{i}")(x))
        return _Convolution(1, name="score")(x).mean((1, 2, 3))


@dataclass(frozen=True)
class Steganography:
    """An encoder, its decoder and their critic as pure functions of their parameters.

    Attributes:
      image_shape: (H, W, C) of the training images; the encoder works on any height and width.
      bits: length of a secret, S.
      width: number of channels of the first level; 32 in StegaStamp.
    """

    image_shape: tuple[int, int, int]
    bits: int
    width: int

    def init(self, key: jax.Array) -> Tree:
        """New parameters ``{'encoder', 'decoder'}`` as host arrays: He-normal weights, biases of zero."""
        return _draw(_zero_params(self, ("encoder", "decoder")), key)

    def init_critic(self, key: jax.Array, bound: float) -> Tree:
        """Parameters of a new critic as host arrays, drawn as for the pair and clipped to ± ``bound``."""
        drawn = _draw(_zero_params(self, ("critic",)), key)["critic"]
        return jax.tree.map(lambda leaf: leaf.clip(-bound, bound), drawn)

    def zeros(self) -> Tree:
        """Parameters of an encoder that hides nothing, as host arrays: all zero."""
        return _zero_params(self, ("encoder",))["encoder"]

    def hide(
        self, encoder: Tree, images: Float[Array, "B H W C"], secrets: Float[Array, "B S"]
    ) -> Float[Array, "B H W C"]:
        """Residuals, to be added to the images (in [0, 1])."""
        return jnp.asarray(_encoder(self).apply({"params": encoder}, images, secrets))

    def read(self, decoder: Tree, images: Float[Array, "B H W C"]) -> Float[Array, "B S"]:
        """Logits of the hidden bits."""
        return jnp.asarray(Decoder(self.width, self.bits).apply({"params": decoder}, images))

    def judge(self, critic: Tree, images: Float[Array, "B H W C"]) -> Float[Array, "B"]:
        """The critic's score of images in [0, 1]: high if it finds that something is hidden."""
        return jnp.asarray(Critic().apply({"params": critic}, images))


def _encoder(pair: Steganography) -> Encoder:
    height, width, channels = pair.image_shape
    return Encoder(pair.width, (min(height, MAX_MAP), min(width, MAX_MAP), channels))


def _zero_params(pair: Steganography, names: tuple[str, ...]) -> Tree:
    """All-zero parameters of the named networks, as host arrays; nothing is computed on a device."""
    images = jax.ShapeDtypeStruct((1, *pair.image_shape), jnp.float32)
    secrets = jax.ShapeDtypeStruct((1, pair.bits), jnp.float32)
    networks: dict[str, tuple[nn.Module, tuple[jax.ShapeDtypeStruct, ...]]] = {
        "encoder": (_encoder(pair), (images, secrets)),
        "decoder": (Decoder(pair.width, pair.bits), (images,)),
        "critic": (Critic(), (images,)),
    }
    key = jax.eval_shape(jax.random.key, 0)
    shapes: Any = {name: jax.eval_shape(networks[name][0].init, key, *networks[name][1])["params"] for name in names}
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _draw(zeros: Tree, key: jax.Array) -> Tree:
    """He-normal weights and biases of zero, in the shapes of a tree of parameters.

    All weights are cut from one draw; it compiles in a hundredth of the time that one draw per layer takes.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(zeros)
    normal = np.asarray(jax.random.normal(key, (sum(leaf.size for _, leaf in leaves),)))
    parts = np.split(normal, np.cumsum([leaf.size for _, leaf in leaves])[:-1])
    return jax.tree.unflatten(
        structure,
        [
            part.reshape(leaf.shape) * _scale(path[-1].key, leaf.shape)
            for (path, leaf), part in zip(leaves, parts, strict=True)
        ],
    )


def _scale(name: str, shape: tuple[int, ...]) -> np.float32:
    """Standard deviation of a parameter's initial values: He's, or 0 for a bias."""
    if not name.endswith("kernel"):
        return np.float32(0)
    inputs = shape[0] if name == "secret_kernel" else math.prod(shape[:-1])
    return np.float32(math.sqrt(2 / inputs))


def _double(x: Float[Array, "B h w F"], like: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
    """Nearest neighbour at twice the size, cut to the height and width of another array."""
    return x.repeat(2, 1).repeat(2, 2)[:, : like.shape[1], : like.shape[2]]
