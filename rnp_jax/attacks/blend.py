"""Blend (Chen et al., 2017): one picture mixed into the whole image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images, quantise
from rnp_jax.checks import check_image_shape, check_number, check_seed

MAX_CYCLES = 6
"""Highest spatial frequency of the pattern, in cycles per image side."""


@dataclass(frozen=True, kw_only=True)
class Blend(Attack):
    """x' = Q((1 − α)x + αP) with one pattern P for all images and the same α in training and test.

    Published benchmarks take a cartoon picture for P; here P is drawn from the seed, so that it can be distributed.
    The RNP release draws a fresh grey mask for each image, which leaves no shared pattern to learn; not offered.

    Raises:
      ConfigError: alpha outside [0, 1] or a negative seed.
    """

    title = "Blend"
    looks = "One faint picture over the whole image."
    paper = "Chen et al., 2017"

    alpha: float = 0.2
    """Weight of the pattern, 0 to 1."""
    seed: int = 0
    """Draws the pattern."""

    def __post_init__(self):
        check_number("alpha", self.alpha, 0, 1)
        check_seed("seed", self.seed)

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [H, W, C], a colourful interference of waves over the full range 0 to 255."""
        return {"pattern": draw_waves(self.seed, check_image_shape(image_shape))}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Mix the pattern into every image."""
        del key
        return mix(images, params["pattern"], self.alpha)


def mix(images: UInt8[Array, "B H W C"], pattern: UInt8[np.ndarray, "H W C"], alpha: float) -> UInt8[Array, "B H W C"]:
    """Q((1 − α)x + αP).

    Raises:
      DataError: images of another dtype or shape than the pattern.
    """
    check_images(images, pattern.shape)
    scaled = jnp.asarray(pattern, jnp.float32) * alpha
    return quantise(images.astype(jnp.float32) * (1 - alpha) + scaled[None])


def draw_waves(seed: int, image_shape: ImageShape) -> UInt8[np.ndarray, "H W C"]:
    """Sum of all plane waves up to ``MAX_CYCLES``, amplitude 1 / cycles and random phase, stretched to 0 … 255.

    Waves are drawn in image coordinates from 0 to 1: one seed shows the same picture at every resolution.
    """
    height, width, channels = image_shape
    cycles = np.arange(-MAX_CYCLES, MAX_CYCLES + 1)
    down, right = np.meshgrid(cycles, cycles, indexing="ij")
    radius = np.hypot(down, right)
    kept = (radius > 0) & (radius <= MAX_CYCLES)
    down, right, radius = down[kept], right[kept], radius[kept]
    phase = 2 * np.pi * np.random.default_rng(seed).random((channels, radius.size))
    rows = np.exp(2j * np.pi * np.outer((np.arange(height) + 0.5) / height, down))
    columns = np.exp(2j * np.pi * np.outer((np.arange(width) + 0.5) / width, right))
    waves = np.einsum("hf,wf,cf->hwc", rows, columns, np.exp(1j * phase) / radius).real
    low, high = waves.min((0, 1)), waves.max((0, 1))
    return np.round(255 * (waves - low) / np.where(high > low, high - low, 1)).astype(np.uint8)
