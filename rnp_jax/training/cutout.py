"""Cutout: a black square at a random place of each image (DeVries and Taylor, 2017), inside a compiled step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Shaped

from rnp_jax.errors import ConfigError
from rnp_jax.training.epoch import Augment


@dataclass(frozen=True)
class Cutout:
    """An augmentation; hashable, so it can be a static argument of ``jax.jit``.

    The released code that defenses copy blackens 2·⌊size / 2⌋ pixels a side, one too few where ``size`` is odd. Here it
    is ``size`` pixels. As there, the square's centre lies anywhere in the image, and what lies outside is cut off.

    Attributes:
      size: side of the square, in pixels; 0 leaves the images as they are.
      first: augmentation that is applied before.

    Raises:
      ConfigError: if ``size`` is negative.
    """

    size: int
    first: Augment | None = None

    def __post_init__(self):
        if self.size < 0:
            raise ConfigError(f"cutout {self.size}: expected the side of a square in pixels, or 0 for none")

    def __call__(self, key: PRNGKeyArray, images: Shaped[Array, "B H W C"]) -> Shaped[Array, "B H W C"]:
        """The images, augmented, each with a black square."""
        first_key, *keys = jax.random.split(key, 3)
        images = images if self.first is None else self.first(first_key, images)
        if self.size == 0:
            return images
        rows, columns = (
            _cover(each, images.shape[0], length, self.size)
            for each, length in zip(keys, images.shape[1:3], strict=True)
        )
        hole = rows[:, :, None, None] & columns[:, None, :, None]
        return jnp.where(hole, jnp.zeros((), images.dtype), images)


def _cover(key: PRNGKeyArray, count: int, length: int, size: int) -> Array:
    """Of each image, which places of an axis lie in the square [B, L]."""
    begin = jax.random.randint(key, (count, 1), 0, length) - size // 2
    places = jnp.arange(length)[None]
    return (places >= begin) & (places < begin + size)
