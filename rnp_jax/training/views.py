"""Random views of images for contrastive and semi-supervised learning, on the device, inside a compiled step."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from rnp_jax.errors import ConfigError
from rnp_jax.traced import is_off

_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
_YIQ = np.array([_GREY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])  # NTSC: luma and two axes of chroma


@dataclass(frozen=True)
class Views:
    """SimCLR's augmentation of small images (Chen et al., ICML 2020, appendix B.9); hashable, so static under ``jit``.

    Against the released code: a crop box wider or taller than the image is cut to it instead of drawn again; the four
    colour changes come in a fixed order (brightness, contrast, saturation, hue) and are clipped once; hue turns about
    the grey axis of YIQ instead of HSV's circle, which makes all four one affine map of a pixel's colour.

    Attributes:
      scale: smallest and largest area of the crop, as shares of the image.
      aspect: largest aspect ratio of the crop: width over height lies between 1/aspect and aspect, uniformly on a log
        scale.
      flip: mirror half of the images left to right; not for digits or text.
      jitter: strength s of the colour changes: brightness, contrast and saturation change by factors in 1 ± 0.8·s, hue
        by ±0.2·s turns.
      jitter_probability: share of the images whose colours change.
      grayscale: share of the images that turn grey. Without three channels, only brightness and contrast change.

    Raises:
      ConfigError: values out of range.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    aspect: float = 4 / 3
    flip: bool = True
    jitter: float = 0.5
    jitter_probability: float = 0.8
    grayscale: float = 0.2

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or self.aspect < 1:
            raise ConfigError(f"{self}: expected 0 < scale[0] <= scale[1] <= 1 and aspect >= 1")
        if not 0 <= self.jitter <= 1.25:
            raise ConfigError(f"jitter is {self.jitter}; give a strength from 0 to 1.25; at 1.25, factors reach zero")
        for name in ("jitter_probability", "grayscale"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a probability from 0 to 1")

    def __call__(self, key: PRNGKeyArray, images: Shaped[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """One view of each image (uint8, or float in [0, 1]), float32 in [0, 1]."""
        crop_key, colour_key = jax.random.split(key)
        pixels = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images.astype(jnp.float32)
        pixels = self._crop(crop_key, pixels)
        if is_off(self.jitter) and (is_off(self.grayscale) or pixels.shape[-1] != 3):
            return pixels
        return self._recolour(colour_key, pixels)

    def _crop(self, key: PRNGKeyArray, pixels: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        B, H, W, _ = pixels.shape
        area_key, aspect_key, top_key, left_key, flip_key = jax.random.split(key, 5)
        area = jax.random.uniform(area_key, (B,), minval=self.scale[0], maxval=self.scale[1])
        bound = jnp.log(self.aspect)
        root = jnp.exp(jax.random.uniform(aspect_key, (B,), minval=-bound, maxval=bound) / 2)
        height, width = jnp.minimum(jnp.sqrt(area) / root, 1), jnp.minimum(jnp.sqrt(area) * root, 1)
        top, left = (jax.random.uniform(key, (B,)) * (1 - size) for key, size in ((top_key, height), (left_key, width)))
        if self.flip:
            mirrored = jax.random.bernoulli(flip_key, shape=(B,))
            left, width = jnp.where(mirrored, left + width, left), jnp.where(mirrored, -width, width)
        return resample(pixels, _taps(top, height, H), _taps(left, width, W))

    def _recolour(self, key: PRNGKeyArray, pixels: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        B, *_, C = pixels.shape
        factor_key, hue_key, apply_key, grey_key = jax.random.split(key, 4)
        applied = jax.random.bernoulli(apply_key, self.jitter_probability, (B,)).astype(jnp.float32)
        spread = jax.random.uniform(factor_key, (3, B), minval=-0.8, maxval=0.8) * self.jitter
        brightness, contrast, saturation = 1 + spread * applied[None]
        turns = jax.random.uniform(hue_key, (B,), minval=-0.2, maxval=0.2) * self.jitter * applied
        if C == 3:
            grey = jax.random.bernoulli(grey_key, self.grayscale, (B,)).astype(jnp.float32)
            matrix, luma = _chroma_matrix(saturation * (1 - grey), turns), jnp.array(_GREY)
        else:
            matrix, luma = jnp.broadcast_to(jnp.eye(C), (B, C, C)), jnp.full((C,), 1 / C)
        mean = (pixels.mean((1, 2)) * luma[None]).sum(-1)
        matrix = matrix * (brightness * contrast)[:, None, None]
        offset = brightness * (1 - contrast) * mean
        # Written out by channel: a batch of 3 x 3 products is slow, and this fuses.
        mixed = sum(pixels[..., i, None] * matrix[:, None, None, :, i] for i in range(C))
        return jnp.clip(mixed + offset[:, None, None, None], 0, 1)


def resample(
    pixels: Float[Array, "B H W C"], rows: Float[Array, "B h H"], columns: Float[Array, "B w W"]
) -> Float[Array, "B h w C"]:
    """Weighted sums of each image's rows and columns, by matrices of its own."""
    out = jnp.einsum("bij,bjwc->biwc", rows, pixels, precision=lax.Precision.HIGHEST)
    return jnp.einsum("bkj,bhjc->bhkc", columns, out, precision=lax.Precision.HIGHEST)


def _taps(begin: Float[Array, "B"], extent: Float[Array, "B"], length: int) -> Float[Array, "B length length"]:
    """Bilinear weights that stretch [begin, begin + extent] (shares of an axis; negative: mirrored) over the axis.

    Pixel i covers [i, i + 1] of the axis, as torch's ``align_corners=False`` has it; beyond the image lies its edge.
    """
    centres = jnp.arange(length, dtype=jnp.float32) + 0.5
    position = begin[:, None] * length + centres[None] * extent[:, None] - 0.5
    position = jnp.clip(position, 0, length - 1)
    return jnp.maximum(1 - jnp.abs(position[:, :, None] - jnp.arange(length, dtype=jnp.float32)[None, None]), 0)


def _chroma_matrix(saturation: Float[Array, "B"], turns: Float[Array, "B"]) -> Float[Array, "B 3 3"]:
    """RGB to RGB: chroma scaled, and turned by a share of the full circle; luma stays."""
    inverse = np.linalg.inv(_YIQ)
    luma, basis = np.outer(inverse[:, 0], _YIQ[0]), inverse[:, 1:]
    straight = basis @ _YIQ[1:]
    crossed = basis @ np.array([[0.0, -1.0], [1.0, 0.0]]) @ _YIQ[1:]
    angle = 2 * math.pi * turns
    weights = jnp.stack([jnp.ones_like(angle), saturation * jnp.cos(angle), saturation * jnp.sin(angle)])
    matrices = jnp.asarray(np.stack([luma, straight, crossed]), jnp.float32)
    return (weights[:, :, None, None] * matrices[:, None]).sum(0)
