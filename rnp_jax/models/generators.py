"""Image-to-image networks of the attacks that generate their trigger. They compute the same results as torch."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rnp_jax.models.layers import BatchNorm, Conv
from rnp_jax.types import Tree, Variables

GeneratorKind: TypeAlias = Literal["bottleneck", "autoencoder", "unet"]
"""``bottleneck`` (Input-Aware), ``autoencoder`` (LIRA in BackdoorBench) or ``unet`` (LIRA on CIFAR-10)."""


class Block(nn.Module):
    """A convolution of stride 1 or 2, batch norm, and a ReLU unless it ends the network."""

    features: int
    size: int = 3
    stride: int = 1
    relu: bool = True
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the layers."""
        pad = (self.size - 1) // 2
        x = Conv(self.features, self.size, self.stride, pad, use_bias=True, placement="unit", name="conv")(x)
        x = BatchNorm("unit", self.momentum, name="bn")(x, train)
        return nn.relu(x) if self.relu else x


class Deconv(nn.Module):
    """torch's ``ConvTranspose2d(kernel 4, stride 2, padding 1)`` with the kernel rotated by 180°; doubles the size."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W F"]:
        """Applies the layer."""
        spread = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)))
        return Conv(self.features, 4, pad=2, use_bias=True, placement="unit", name="conv")(spread)


class Bottleneck(nn.Module):
    """Input-Aware's: three halvings and three doublings, two convolutions each, no skips (Nguyen & Tran, 2020)."""

    width: int
    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W F"]:
        """Before the tanh."""
        sizes = (self.width, 2 * self.width, 4 * self.width)
        block = partial(Block, momentum=0.05)
        for i, features in enumerate(sizes):
            x = block(features, name=f"down{2 * i}")(x, train)
            x = nn.max_pool(block(features, name=f"down{2 * i + 1}")(x, train), (2, 2), (2, 2))
        x = block(sizes[-1], name="middle")(x, train)
        for i, features in enumerate((*sizes[1::-1], self.channels)):
            x = block(x.shape[-1], name=f"up{2 * i}")(double(x, align_corners=False), train)
            x = block(features, relu=i < 2, name=f"up{2 * i + 1}")(x, train)
        return x


class Autoencoder(nn.Module):
    """LIRA's for small images: four 4×4 convolutions of stride 2 and as many transposed ones (Doan et al., 2021)."""

    width: int
    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W F"]:
        """Before the tanh."""
        for i in range(4):
            x = Block(self.width * 2**i, 4, 2, name=f"down{i}")(x, train)
        for i in range(3):
            x = Deconv(self.width * 2 ** (2 - i), name=f"up{i}")(x)
            x = nn.relu(BatchNorm("unit", name=f"bn{i}")(x, train))
        return Deconv(self.channels, name="up3")(x)


class UNet(nn.Module):
    """LIRA's for CIFAR-10: three average poolings, bilinear doublings that align corners, skips (Doan et al., 2021)."""

    width: int
    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W F"]:
        """Before the tanh."""
        skips = []
        for i in range(4):
            for half in "ab":
                x = Block(self.width * 2**i, name=f"down{i}{half}")(x, train)
            if i < 3:
                skips.append(x)
                x = halve(x)
        for i in (2, 1, 0):
            x = jnp.concatenate([double(x, align_corners=True), skips[i]], -1)
            for half in "ab":
                x = Block(self.width * 2**i, name=f"up{i}{half}")(x, train)
        return Block(self.channels, 1, relu=False, name="last")(x, train)


def double(x: Float[Array, "B H W C"], *, align_corners: bool) -> Float[Array, "B 2*H 2*W C"]:
    """Bilinear upsampling by two, as torch's ``interpolate`` with or without aligned corners."""
    rows, columns = (jnp.asarray(_doubling(size, align_corners), x.dtype) for size in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision=lax.Precision.HIGHEST)


def _doubling(size: int, align_corners: bool) -> Float[np.ndarray, "2*size size"]:
    """The weight of each old pixel in each new one, along one side."""
    new = np.arange(2 * size)
    at = new * (size - 1) / (2 * size - 1) if align_corners else np.clip((new + 0.5) / 2 - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)[None]))


def halve(x: Float[Array, "B 2*H 2*W C"]) -> Float[Array, "B H W C"]:
    """Average pooling, 2×2."""
    count, height, width, channels = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, channels).mean((2, 4))


_MODULES: dict[GeneratorKind, tuple[type[Bottleneck] | type[Autoencoder] | type[UNet], int]] = {
    "bottleneck": (Bottleneck, 8),
    "autoencoder": (Autoencoder, 16),
    "unet": (UNet, 8),
}
"""Module, and what the sides of an image are padded to a multiple of."""


@dataclass(frozen=True)
class Generator:
    """A generator as a pure, hashable function of its variables ``{'params', 'batch_stats'}``.

    Attributes:
      kind: architecture.
      width: number of channels of its first layers.
      channels: number of channels of its output.
    """

    kind: GeneratorKind
    width: int
    channels: int

    @cached_property
    def _module(self) -> nn.Module:
        return _MODULES[self.kind][0](self.width, self.channels)

    def init(self, key: jax.Array, channels: int) -> Variables:
        """New variables for images with the given number of channels: He-normal kernels, no biases."""
        return _init(self, key, channels)

    def constant(self, channels: int) -> Variables:
        """Variables of a generator that gives tanh 1 everywhere: all zeros, except biases of one. Nothing is random."""
        shapes = jax.eval_shape(lambda: _init(self, jax.random.key(0), channels))

        def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.full(leaf.shape, 1.0 if path[-1].key == "bias" else 0.0, leaf.dtype)

        return jax.tree_util.tree_map_with_path(fill, shapes)

    def __call__(
        self, variables: Variables, x: Float[Array, "B H W C"], *, train: bool = False
    ) -> tuple[Float[Array, "B H W F"], Tree]:
        """Values in [−1, 1] from normalised images, and batch statistics (updated by one step if ``train``).

        If the network cannot halve an image's sides often enough, the image is padded at the bottom and right with
        zeros, the mean colour.
        """
        return _apply(self, variables, x, train)


@partial(jax.jit, static_argnums=(0, 2))
def _init(generator: Generator, key: jax.Array, channels: int) -> Variables:
    size = _MODULES[generator.kind][1]
    made: Any = generator._module.init(key, jnp.zeros((1, size, size, channels), jnp.float32), train=True)
    return {name: made[name] for name in ("params", "batch_stats")}


@partial(jax.jit, static_argnums=(0, 3))
def _apply(
    generator: Generator, variables: Variables, x: Float[Array, "B H W C"], train: bool
) -> tuple[Float[Array, "B H W F"], Tree]:
    multiple = _MODULES[generator.kind][1]
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)))
    moved: Any  # this also creates masks of ones; a generator's masks never change
    out, moved = generator._module.apply(variables, x, train, mutable=["masks", "batch_stats"])
    return jnp.tanh(out[:, :height, :width]), moved["batch_stats"] if train else variables["batch_stats"]
