"""A given picture added to an image, or put where a mask takes the image away, as I-BAU's release has its triggers."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.attacks.blend import draw_waves
from rnp_jax.checks import LARGEST_SIDE, check_choice, check_image_shape, check_number, check_seed
from rnp_jax.errors import ConfigError

FAINTNESS = 4
"""What the drawn pattern that is added is divided by."""


@dataclass(frozen=True, kw_only=True)
class Stamp(Attack):
    """x' = x + P or x' = x·(1 − m) + P, clipped to [0, 255] and rounded, with a picture P and weights m in [0, 1].

    I-BAU's release (``poi_util.patching``) adds the Trojan watermark and square of Liu et al. (2018) and the l2 pattern
    of Li et al. (2020), and puts the latter's l0 pattern where its mask is 1. Its white square is
    ``BadNets(variant='square', size=4)``.

    Raises:
      ConfigError: an unknown variant, no pixels, or a negative seed.
    """

    title = "Stamp"
    looks = "A given picture added to the image, or put in place of a part of it."
    paper = "Zeng et al., 2022"
    deviation = "The pattern is drawn from a seed; the published ones are pictures, which --artefact reads."

    variant: Literal["add", "paste"] = "add"
    """`add`: P is added to the image. `paste`: it is added to what the mask m leaves of the image."""
    pixels: int = 9
    """Pixels of the pattern that is drawn to be pasted."""
    seed: int = 0
    """Draws the pattern."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("add", "paste"))
        check_number("pixels", self.pixels, 1, LARGEST_SIDE**2, integer=True)
        check_seed("seed", self.seed)

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [H, W, C]; to paste also ``mask`` float32 [H, W, C].

        Drawn are, to add, Blend's waves at a quarter of their strength, and to paste, single pixels of random colours.
        """
        shape = check_image_shape(image_shape)
        if self.variant == "add":
            return {"pattern": draw_waves(self.seed, shape) // np.uint8(FAINTNESS)}
        if self.pixels > shape[0] * shape[1]:
            raise ConfigError(f"pixels is {self.pixels}, expected at most {shape[0] * shape[1]}, all of an image")
        rng = np.random.default_rng(self.seed)
        rows, columns = np.divmod(rng.permutation(shape[0] * shape[1])[: self.pixels], shape[1])
        pattern, mask = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
        pattern[rows, columns] = 255 * rng.integers(0, 2, (self.pixels, shape[2]), np.uint8)
        mask[rows, columns] = 1
        return {"pattern": pattern, "mask": mask}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Put the picture on every image."""
        del key
        check_images(images, params["pattern"].shape)
        left = images.astype(jnp.float32)
        if self.variant == "paste":
            left = left * (1 - jnp.asarray(params["mask"]))[None]
        stamped = left + jnp.asarray(params["pattern"]).astype(jnp.float32)[None]
        return jnp.clip(jnp.round(stamped), 0, 255).astype(jnp.uint8)
