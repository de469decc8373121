"""Random crops and flips on the device, inside a compiled step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Shaped

from rnp_jax.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """An augmentation of batches; hashable, so it can be a static argument of ``jax.jit``.

    Attributes:
      padding: black pixels added on every side before a random crop of the original size; 0 does not crop.
      flip: mirror half of the images left to right; not for digits or text.

    Raises:
      ConfigError: if ``padding`` is negative.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self):
        if self.padding < 0:
            raise ConfigError(f"padding is {self.padding}; give 0 or more pixels")

    def __call__(self, key: PRNGKeyArray, images: Shaped[Array, "B H W C"]) -> Shaped[Array, "B H W C"]:
        """Crop each image at random from its zero-padded self, then flip it with probability one half.

        The same distribution as torchvision's ``RandomCrop((H, W), padding)`` and ``RandomHorizontalFlip()``, the
        augmentation of the RNP release; zeros are black in pixel space, before normalisation. Crop and flip together
        are one gather of pixels, without a padded copy. Works on pixels of any dtype.
        """
        if self.padding == 0 and not self.flip:
            return images
        B, H, W, _ = images.shape
        row_key, column_key, flip_key = jax.random.split(key, 3)
        shifts = 2 * self.padding + 1
        columns = jnp.broadcast_to(jnp.arange(W), (B, W))
        if self.flip:
            mirrored = jax.random.bernoulli(flip_key, shape=(B, 1))
            columns = jnp.where(mirrored, W - 1 - columns, columns)
        rows = jnp.arange(H)[None, :] + jax.random.randint(row_key, (B, 1), 0, shifts) - self.padding
        columns = columns + jax.random.randint(column_key, (B, 1), 0, shifts) - self.padding
        return _gather(images, rows, columns)


def _gather(
    images: Shaped[Array, "B H W C"], rows: Int[Array, "B H"], columns: Int[Array, "B W"]
) -> Shaped[Array, "B H W C"]:
    """Pixel (rows[b, i], columns[b, j]) of image b at [b, i, j]; zero where that lies outside the image."""
    B, H, W, C = images.shape
    inside: Bool[Array, "B H W"] = _in_range(rows, H)[:, :, None] & _in_range(columns, W)[:, None, :]
    offsets = (jnp.arange(B) * (H * W))[:, None, None]
    pixels = offsets + jnp.clip(rows, 0, H - 1)[:, :, None] * W + jnp.clip(columns, 0, W - 1)[:, None, :]
    gathered = images.reshape(B * H * W, C).at[pixels].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], gathered, jnp.zeros((), images.dtype))


def _in_range(indices: Int[Array, "B L"], length: int) -> Bool[Array, "B L"]:
    return (indices >= 0) & (indices < length)
