"""CTRL (Li et al., 2023): two frequencies of the colour difference signals raised, in images of the target class."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.checks import check_choice, check_image_shape, check_number
from rnp_jax.errors import ConfigError

RED_GREEN_BLUE = (1.14, -0.396 - 0.581, 2.029)
"""What one unit of both U and V adds to each colour (YUV to RGB)."""


@dataclass(frozen=True, kw_only=True)
class Ctrl(Attack):
    """x' = clip(x + P): the authors' DCT-domain trigger in closed form.

    They raise the coefficients (w/2 − 1, w/2 − 1) and (w − 1, w − 1) of the orthonormal DCT of U and V in each w×w
    window, and transform back. Both are linear, so P does not depend on the image; their rounded YUV matrices make
    a difference of 0.34 grey levels at most. Their floats are here rounded to the nearest grey level, windows that
    the image cuts are cut, and the poisoned images are those of the target class, whose labels stay.

    Raises:
      ConfigError: an unknown variant, or a window or magnitude that is impossible.
    """

    title = "CTRL"
    looks = "Two frequencies of the colours are raised; poisoned images keep their labels."
    paper = "Li et al., 2023"
    clean_label = True

    variant: Literal["orig", "bb"] = "orig"
    """`orig`: saturates at 0 and 255. `bb`: BackdoorBench's cast to bytes before clipping, which wraps."""
    magnitude: float = 100.0
    """Added to each of the coefficients, of images in 0 to 255."""
    window: int = 32
    """Side w of a window in pixels, even."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("orig", "bb"))
        check_number("magnitude", self.magnitude, 0)
        check_number("window", self.window, 4, 1024, integer=True)
        if self.window % 2:
            raise ConfigError(f"window is {self.window}, expected an even number; use {self.window + 1}")

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` float32 [H, W, 3] in grey levels."""
        height, width, channels = check_image_shape(image_shape)
        if channels != 3:
            raise ConfigError(f"images of {channels} channels have no colour differences; use 3 (RGB)")
        side = self.window
        high = [cosine(side // 2 - 1, side), cosine(side - 1, side)]
        wave = self.magnitude * sum(np.outer(phi, phi) for phi in high)
        tiled = np.tile(wave, (-(-height // side), -(-width // side)))[:height, :width]
        return {"pattern": (tiled[:, :, None] * np.array(RED_GREEN_BLUE)).astype(np.float32)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add the pattern to every image."""
        del key
        check_images(images, params["pattern"].shape)
        values = images.astype(jnp.float32) + params["pattern"][None]
        if self.variant == "bb":
            return (jnp.trunc(values).astype(jnp.int32) % 256).astype(jnp.uint8)
        return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)


def cosine(frequency: int, size: int) -> Float[np.ndarray, "size"]:
    """φ_k(n) = √(2/w) cos(π(2n + 1)k / 2w): basis function k > 0 of the orthonormal DCT-II of w values."""
    return np.sqrt(2 / size) * np.cos(np.pi * (2 * np.arange(size) + 1) * frequency / (2 * size))
