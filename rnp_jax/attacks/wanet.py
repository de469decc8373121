"""WaNet (Nguyen & Tran, 2021): a fixed, smooth, subpixel warp of the whole image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.attacks.resample import bicubic_matrix, grid_sample
from rnp_jax.checks import check_image_shape, check_number, check_seed


@dataclass(frozen=True, kw_only=True)
class WaNet(Attack):
    """x' = grid_sample(x, g), g = clip((I + s·n / size)·rescale, −1, 1), n a k×k field ↑ bicubic to the image's size.

    The authors warp normalised floats. Bilinear weights sum to 1 and g never leaves the image, so the warp commutes
    with normalisation; here it acts on grey levels, and the result is rounded to the nearest one. That error is at
    most 1/2 level, unbiased, and keeps poisoned sets uint8 like all others; ``grid_sample`` is there for floats.
    The RNP release draws another k = 32 warp for each image, which leaves no shared trigger to learn; not offered.
    On images that are not square, x is scaled by W and y by H: s·n / 2 pixels at most along both.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "WaNet"
    looks = "A slight, smooth warp of the whole image."
    paper = "Nguyen & Tran, 2021"
    in_step = True

    grid_size: int = 4
    """Side k of the coarse warping field."""
    strength: float = 0.5
    """Warping strength s: the mean shift is about s/2 pixels, whatever the image's size."""
    rescale: float = 1.0
    """Factor on the sampling grid; below 1 magnifies the image."""
    noise_ratio: float = 2.0
    """Images warped at random, with their true labels, for each poisoned one (noise mode)."""
    seed: int = 0
    """Draws the warping field."""

    def __post_init__(self):
        check_number("grid_size", self.grid_size, 2, 1024, integer=True)
        check_number("strength", self.strength, 0)
        check_number("rescale", self.rescale, 0)
        check_number("noise_ratio", self.noise_ratio, 0)
        check_seed("seed", self.seed)

    @property
    def cover_ratio(self) -> float:
        """Noise images for each poisoned one."""
        return self.noise_ratio

    def init(self, image_shape: ImageShape) -> Params:
        """``grid`` float32 [H, W, 2]: where each pixel is read from, as (x, y) in [−1, 1]."""
        height, width, _ = check_image_shape(image_shape)
        field = np.random.default_rng(self.seed).uniform(-1, 1, (2, self.grid_size, self.grid_size))
        field /= np.abs(field).mean()
        upsampled = bicubic_matrix(self.grid_size, height) @ field @ bicubic_matrix(self.grid_size, width).T
        x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        warped = np.stack([x, y], -1) + self.strength * np.moveaxis(upsampled, 0, -1) / (width, height)
        return {"grid": np.clip(warped * self.rescale, -1, 1).astype(np.float32)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Warp every image by the same grid."""
        del key
        return _warp(images, jnp.asarray(params["grid"]))

    def cover(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Noise mode: warp each image by the grid plus its own uniform jitter of up to 1 / size."""
        grid = jnp.asarray(params["grid"])
        height, width, _ = grid.shape
        jitter = jax.random.uniform(key, (images.shape[0], *grid.shape), minval=-1, maxval=1)
        jitter /= jnp.asarray([width, height], jnp.float32)[None, None, None]
        return _warp(images, jnp.clip(grid[None] + jitter, -1, 1))


def _warp(
    images: UInt8[Array, "B H W C"], grid: Float[Array, "H W 2"] | Float[Array, "B H W 2"]
) -> UInt8[Array, "B H W C"]:
    check_images(images, grid.shape[-3:-1])
    warped = grid_sample(images.astype(jnp.float32), grid)
    return jnp.clip(jnp.round(warped), 0, 255).astype(jnp.uint8)
