"""Adaptive-Patch (Qi et al., 2023): one of four faint patches in training, two opaque ones in the test."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images, quantise
from rnp_jax.checks import LARGEST_SIDE, check_image_shape, check_number, check_seed
from rnp_jax.errors import ConfigError

OPACITIES = (0.5, 0.2, 0.5, 0.3)
"""Of the four patches in training."""
TESTED = (0, 2)
"""Which of them the test shows, opaque: the authors' first and third."""


@dataclass(frozen=True, kw_only=True)
class AdapPatch(Attack):
    """Trained with x' = Q(x + α_k·M_k⊙(P_k − x)), patch k for every fourth image; tested with two opaque patches.

    Cover images are made like poisoned ones. Published with 0.3 % poisoned images and twice as many cover images.
    The authors' patches are two pictures in a corner, four small checkers and a square; here they are squares of
    random full-range colours, one in each corner: lower right, lower left, upper left, upper right.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Adaptive-Patch"
    looks = "Patches of noise in two corners; poisoned training images show a faint one in one corner."
    paper = "Qi et al., 2023"
    deviation = "The four patches are drawn from a seed, one in each corner; the published ones are pictures."

    size: int = 8
    """Side of a patch in pixels."""
    strength: float = 1.0
    """Factor on the published opacities (0.5, 0.2, 0.5, 0.3) of poisoned and cover images, 0 to 2."""
    covers: float = 2.0
    """Cover images for each poisoned one."""
    seed: int = 0
    """Draws the patches."""

    def __post_init__(self):
        check_number("size", self.size, 1, LARGEST_SIDE, integer=True)
        check_number("strength", self.strength, 0, 2)
        check_number("covers", self.covers, 0)
        check_seed("seed", self.seed)

    @property
    def cover_ratio(self) -> float:
        """Cover images for each poisoned one."""
        return self.covers

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [4, H, W, C], a patch each, and ``mask`` bool [4, H, W, 1], true where it lies."""
        height, width, channels = check_image_shape(image_shape)
        if 2 * self.size > min(height, width):
            raise ConfigError(f"four patches of {self.size} px overlap on an image of {height}x{width}; lower size")
        colours = np.random.default_rng(self.seed).integers(0, 2, (4, self.size, self.size, channels), np.uint8)
        pattern = np.zeros((4, height, width, channels), np.uint8)
        mask = np.zeros((4, height, width, 1), np.bool_)
        near, far = slice(self.size), slice(-self.size, None)
        for k, place in enumerate([(far, far), (far, near), (near, near), (near, far)]):
            pattern[k][place] = 255 * colours[k]
            mask[k][place] = True
        return {"pattern": pattern, "mask": mask}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Overwrite two corners by their patches."""
        del key
        check_images(images, params["pattern"].shape[1:])
        for k in TESTED:
            images = jnp.where(params["mask"][k][None], params["pattern"][k][None], images)
        return images

    def implant(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Mix one patch into each image, the four in turn."""
        del key
        check_images(images, params["pattern"].shape[1:])
        opacities = self.strength * np.array(OPACITIES, np.float32)
        weights = opacities[:, None, None, None] * params["mask"].astype(np.float32)
        patches = weights * params["pattern"].astype(np.float32)
        turn = jnp.arange(images.shape[0]) % len(OPACITIES)
        return quantise(images.astype(jnp.float32) * (1 - jnp.asarray(weights)[turn]) + jnp.asarray(patches)[turn])
