"""Resizes images to an extractor's size on the device, as the published image processors do on the host."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

Resample = Literal["linear", "cubic", "lanczos3"]
"""Interpolation, by its name in ``jax.image.resize``, always with antialiasing: Pillow's bilinear, bicubic (Keys'
a = −0.5) and Lanczos filters."""


@dataclass(frozen=True)
class Geometry:
    """Resizes images, then crops the centre. As in Pillow, pixels are rounded to 8 bits after each axis, width first.

    Attributes:
      image_shape: (H, W, C) of the result.
      size: (height, width) after resizing, or the length of the shorter side, which keeps the proportions.
      resample: the interpolation. Images that already have the right size are not changed.
    """

    image_shape: tuple[int, int, int]
    size: tuple[int, int] | int
    resample: Resample = "linear"

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image is resized to."""
        if not isinstance(self.size, int):
            return self.size
        short, long = sorted((height, width))
        other = int(self.size * long / short)
        return (self.size, other) if height <= width else (other, self.size)

    def __call__(self, images: UInt8[Array, "B h w c"]) -> UInt8[Array, "B H W C"]:
        """Applies the geometry; a single channel is repeated if more are needed."""
        height, width, channels = self.image_shape
        batch, *given, own = images.shape
        if own != channels:
            images = jnp.broadcast_to(images, (*images.shape[:3], channels))
        target = self.target(*given)
        for shape in ((batch, given[0], target[1], channels), (batch, *target, channels)):
            if shape != images.shape:
                resized = jax.image.resize(images.astype(jnp.float32), shape, self.resample)
                images = jnp.clip(jnp.floor(resized + 0.5), 0, 255).astype(jnp.uint8)
        top, left = (target[0] - height) // 2, (target[1] - width) // 2
        return images[:, top : top + height, left : left + width]


@partial(jax.jit, static_argnums=0)
def bring_to(geometry: Geometry, images: UInt8[Array, "B h w c"]) -> UInt8[Array, "B H W C"]:
    """Applies a geometry in a compiled program of its own."""
    return geometry(images)
