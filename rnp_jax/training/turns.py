"""Images turned about their centre and then shifted, inside a compiled program."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from rnp_jax.errors import ConfigError


@dataclass(frozen=True)
class Turns:
    """An augmentation; hashable, so it can be a static argument of ``jax.jit``.

    As torchvision's ``RandomRotation`` followed by ``RandomAffine``'s translation, with the nearest pixel and black
    outside: whatever the turn moves out of the frame is lost to the shift.

    Attributes:
      degrees: largest angle, to either side.
      shift: largest shift along each axis, as a share of it; shifts are whole pixels.

    Raises:
      ConfigError: values out of range.
    """

    degrees: float = 180.0
    shift: float = 0.2

    def __post_init__(self):
        if not 0 <= self.degrees <= 180 or not 0 <= self.shift < 1:
            raise ConfigError(f"{self}: expected degrees in [0, 180] and shift in [0, 1)")

    def __call__(self, key: PRNGKeyArray, images: Shaped[Array, "B H W C"]) -> Shaped[Array, "B H W C"]:
        """Each image, turned and shifted by draws of its own."""
        B, *lengths, _ = images.shape
        angle_key, *keys = jax.random.split(key, 3)
        angles = jnp.deg2rad(jax.random.uniform(angle_key, (B,), minval=-self.degrees, maxval=self.degrees))
        shifts = [
            jnp.round(jax.random.uniform(each, (B,), minval=-self.shift, maxval=self.shift) * length)
            for each, length in zip(keys, lengths, strict=True)
        ]
        return jax.vmap(turn_and_shift)(images, angles, jnp.stack(shifts, -1))


def turn_and_shift(
    image: Shaped[Array, "H W C"], angle: Float[Array, ""], shift: Float[Array, "2"]
) -> Shaped[Array, "H W C"]:
    """The image turned counterclockwise by an angle in radians, and then moved by (rows, columns) whole pixels."""
    H, W, _ = image.shape
    down, right = (jnp.arange(length, dtype=jnp.float32) for length in (H, W))
    y, x = jnp.meshgrid(down - shift[0], right - shift[1], indexing="ij")
    framed = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    y, x = y - (H - 1) / 2, x - (W - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = jnp.round(cos * y + sin * x + (H - 1) / 2).astype(jnp.int32)
    columns = jnp.round(-sin * y + cos * x + (W - 1) / 2).astype(jnp.int32)
    inside = framed & (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
    taken = image[jnp.clip(rows, 0, H - 1), jnp.clip(columns, 0, W - 1)]
    return jnp.where(inside[..., None], taken, jnp.zeros((), image.dtype))
