"""BadNets (Gu et al., 2017): an opaque patch near the bottom-right corner."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.checks import LARGEST_SIDE, check_choice, check_image_shape, check_number
from rnp_jax.errors import ConfigError

GRID = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]], np.uint8)


@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    """Patch of the RNP release: ``gridTrigger`` (also ANP's) or ``squareTrigger`` with width and height 3.

    BackdoorBench's white square is ``BadNets(variant='square', margin=0)``.

    Raises:
      ConfigError: an unknown variant, or a size or margin that is impossible.
    """

    title = "BadNets"
    looks = "A small patch near the lower right corner."
    paper = "Gu et al., 2017"

    variant: Literal["grid", "square"] = "grid"
    """`grid`: black and white 3x3 checker, of which four cells are white. `square`: all white."""
    size: int = 3
    """Side of the patch in pixels. A grid's must be a multiple of 3; its cells grow with it."""
    margin: int | None = None
    """Pixels between the patch and the bottom and right edges. None: as published, 0 for grid and 1 for square."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("grid", "square"))
        check_number("size", self.size, 1, LARGEST_SIDE, integer=True)
        if self.margin is not None:
            check_number("margin", self.margin, 0, LARGEST_SIDE, integer=True)
        if self.variant == "grid" and self.size % 3:
            raise ConfigError(f"size is {self.size}, expected a multiple of 3 for the 3x3 grid; use 3, 6, 9 …")

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [H, W, C] and ``mask`` bool [H, W, 1], true where the pattern covers the image."""
        height, width, channels = check_image_shape(image_shape)
        margin = self.margin if self.margin is not None else int(self.variant == "square")
        if self.size + margin > min(height, width):
            raise ConfigError(
                f"a patch of {self.size} px with a margin of {margin} does not fit an image of {height}x{width}; "
                "lower size or margin"
            )
        patch = np.ones((self.size, self.size), np.uint8)
        if self.variant == "grid":
            patch = np.kron(GRID, np.ones((self.size // 3, self.size // 3), np.uint8))
        rows = slice(height - margin - self.size, height - margin)
        columns = slice(width - margin - self.size, width - margin)
        pattern = np.zeros((height, width, channels), np.uint8)
        mask = np.zeros((height, width, 1), np.bool_)
        pattern[rows, columns] = 255 * patch[:, :, None]
        mask[rows, columns] = True
        return {"pattern": pattern, "mask": mask}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Overwrite the masked pixels by the pattern."""
        del key
        return paste(params, images)


def paste(params: Params, images: UInt8[Array, "B H W C"]) -> UInt8[Array, "B H W C"]:
    """The artefact's ``pattern`` [H, W, C] over the images wherever its ``mask`` [H, W, 1] is true.

    Raises:
      DataError: images of another dtype or shape than the pattern.
    """
    check_images(images, params["pattern"].shape)
    return jnp.where(params["mask"][None], params["pattern"][None], images)
