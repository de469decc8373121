"""BppAttack (Wang et al., 2022): images of few grey levels, optionally dithered."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.checks import check_image_shape, check_number


@dataclass(frozen=True, kw_only=True)
class Bpp(Attack):
    """x' = q(x), each value moved to the nearest of L levels k·255 / (L − 1).

    Cover images are the authors' negatives, clip(x_j + q(x_k) − x_k): another image's quantisation error, on which
    the victim shall not react. They draw k from the whole training set; here x_k is the image before x_j among the
    cover images of its shuffled batch, and a lone cover image stays as it is. The authors keep floats; here levels are
    rounded to whole grey levels, by 1/2 at most. They train with as many poisoned as negative images, at rate 0.2;
    BackdoorBench at 0.1. Both leave dithering off. The authors' README has 32 levels for CIFAR-10, their code 8.

    Raises:
      ConfigError: levels outside [2, 256], or a negative ratio.
    """

    title = "BppAttack"
    looks = "The image with few grey levels."
    paper = "Wang et al., 2022"
    in_step = True

    levels: int = 8
    """Grey levels L that are left of 256."""
    dither: bool = False
    """Whether quantisation errors are diffused to the pixels that follow (Floyd & Steinberg, 1976)."""
    negatives: float = 1.0
    """Negative images, with their true labels, for each poisoned one."""

    def __post_init__(self):
        check_number("levels", self.levels, 2, 256, integer=True)
        check_number("negatives", self.negatives, 0)

    @property
    def cover_ratio(self) -> float:
        """Negative images for each poisoned one."""
        return self.negatives

    def init(self, image_shape: ImageShape) -> Params:
        """``levels`` uint8 [L], ascending from 0 to 255."""
        check_image_shape(image_shape)
        return {"levels": np.round(np.arange(self.levels) * 255 / (self.levels - 1)).astype(np.uint8)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Quantise every image."""
        del key
        check_images(images, ())
        values = images.astype(jnp.float32)
        steps = dither(values, self.levels) if self.dither else nearest_step(values, self.levels)
        return jnp.asarray(params["levels"])[steps.astype(jnp.int32)]

    def cover(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add to each image the quantisation error of the one before it (to the first, the last one's)."""
        quantised = self.trigger(params, images, key)
        if images.shape[0] == 1:
            return images
        error = jnp.roll(quantised.astype(jnp.int32) - images.astype(jnp.int32), 1, axis=0)
        return jnp.clip(images.astype(jnp.int32) + error, 0, 255).astype(jnp.uint8)


def nearest_step(values: Float[Array, "*shape"], levels: int) -> Float[Array, "*shape"]:
    """Index, 0 to L − 1, of the level nearest to each grey value; of whole grey values none lies halfway."""
    return jnp.clip(jnp.round(values * (levels - 1) / 255), 0, levels - 1)


def dither(values: Float[Array, "B H W C"], levels: int) -> Float[Array, "B H W C"]:
    """Indices of levels by error diffusion in raster order: 7/16 →, 3/16 ↙, 5/16 ↓, 1/16 ↘, nothing past the edges."""

    def column(right: jax.Array, value: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        wanted = value + right
        step = nearest_step(wanted, levels)
        error = wanted - step * 255 / (levels - 1)
        return error * 7 / 16, (step, error)

    def row(above: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, (steps, errors) = lax.scan(column, jnp.zeros_like(value[0]), value + above)
        padded = jnp.pad(errors, ((1, 1), (0, 0), (0, 0)))
        return (3 * padded[2:] + 5 * errors + padded[:-2]) / 16, steps

    rows = values.transpose(1, 2, 0, 3)
    _, steps = lax.scan(row, jnp.zeros_like(rows[0]), rows)
    return steps.transpose(2, 0, 1, 3)
