"""Adaptive-Blend (Qi et al., 2023): poisoned images show half of the picture, and some of those keep their labels."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.blend import draw_waves, mix
from rnp_jax.checks import check_image_shape, check_number, check_seed
from rnp_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ABlend(Attack):
    """Trained with x' = Q(x + α·M⊙(P − x)), M a random choice of an image's square pieces; tested with all of P.

    Cover images are made like poisoned ones. Published with 0.3 % poisoned images and as many cover images. The
    authors' P is a cartoon picture; here it is drawn from the seed, as in Blend. backdoor-toolbox's README has
    α = 0.15 in training and 0.2 in the test.

    Raises:
      ConfigError: a constant out of its range, or more pieces masked than there are.
    """

    title = "Adaptive-Blend"
    looks = "One faint picture over the whole image; poisoned training images show pieces of it."
    paper = "Qi et al., 2023"
    expected_asr = 0.7  # at the published rate of 0.3 % about three in four images are misclassified
    deviation = "The blended picture is drawn from a seed; the published one is a cartoon."

    alpha: float = 0.2
    """Weight of the pattern in the test, 0 to 1."""
    alpha_train: float = 0.2
    """Its weight in poisoned and cover images."""
    pieces: int = 4
    """Pieces along each side of the image."""
    masked: int = 8
    """Pieces of each poisoned or cover image, of pieces², that do not show the pattern."""
    covers: float = 1.0
    """Cover images for each poisoned one."""
    seed: int = 0
    """Draws the pattern."""

    def __post_init__(self):
        check_number("alpha", self.alpha, 0, 1)
        check_number("alpha_train", self.alpha_train, 0, 1)
        check_number("pieces", self.pieces, 1, 64, integer=True)
        check_number("masked", self.masked, 0, self.pieces**2 - 1, integer=True)
        check_number("covers", self.covers, 0)
        check_seed("seed", self.seed)

    @property
    def cover_ratio(self) -> float:
        """Cover images for each poisoned one."""
        return self.covers

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [H, W, C], as Blend's of the same seed."""
        shape = check_image_shape(image_shape)
        if self.pieces > min(shape[:2]):
            raise ConfigError(
                f"pieces is {self.pieces}, expected at most one per pixel of an image of {shape[0]}x{shape[1]}"
            )
        return {"pattern": draw_waves(self.seed, shape)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Mix the whole pattern into every image."""
        del key
        return mix(images, params["pattern"], self.alpha)

    def implant(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Mix it into the pieces that each image's own draw leaves."""
        mixed = mix(images, params["pattern"], self.alpha_train)
        batch, height, width, _ = images.shape
        shown = jax.random.uniform(key, (batch, self.pieces**2)).argsort(1) >= self.masked
        mask = enlarge(shown.reshape(batch, self.pieces, self.pieces), height, width)
        return jnp.where(mask[..., None], mixed, images)


def enlarge(pieces: Bool[Array, "B p p"], height: int, width: int) -> Bool[Array, "B H W"]:
    """Each pixel's piece; pieces differ by a pixel where p does not divide a side."""
    rows, columns = (jnp.arange(size) * pieces.shape[1] // size for size in (height, width))
    return pieces[:, rows][:, :, columns]
