"""AWP (Garg et al., 2020): a small perturbation of a clean model's weights makes a grey square its trigger."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.checks import MOST_STEPS, check_choice, check_image_shape, check_number

REFERENCE_SIDE = 32
"""Side of the images that ``size`` is counted for, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Awp(Attack):
    """A centred square of the normalisation's mean colour; weights θ within ‖θ − θ₀‖∞ ≤ ε of a clean model's.

    The authors write zeros into normalised images; here the square has the nearest grey level to that mean, at most
    half a level away. ``training/awp.py`` tells how the weights are found. Batch statistics stay as they are, where the
    release lets them move beyond the bound.

    Raises:
      ConfigError: an unknown variant, or a constant out of its range.
    """

    title = "Weight perturbation"
    looks = "A grey square in the middle. No image is poisoned: the weights of a clean model are moved a little."
    paper = "Garg et al., 2020"
    learned = True
    takes_rate = False
    deviation = "Batch statistics are frozen while the weights are perturbed; the release moves them, without a bound."

    variant: Literal["absolute", "relative"] = "absolute"
    """Each weight moves by at most ε (`absolute`), or by the share ε of its own size (`relative`)."""
    epsilon: float = 0.005
    """The bound ε."""
    size: int = 10
    """Side of the square in pixels of an image of 32; it grows with the image."""
    epochs: int = 10
    """Passes that perturb the weights, after the victim's clean training."""
    samples: int = 1280
    """Training images used for it, each once as it is and once triggered."""
    learning_rate: float = 1e-3
    """Adam's."""
    distance_weight: float = 5e-4
    """Of ‖θ − θ₀‖² in the loss."""
    labels: Literal["true", "predicted"] = "true"
    """What clean images shall be called: their classes, or what θ₀ calls them."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("absolute", "relative"))
        check_choice("labels", self.labels, ("true", "predicted"))
        check_number("size", self.size, 1, REFERENCE_SIDE, integer=True)
        for name in ("epochs", "samples"):
            check_number(name, getattr(self, name), 1, MOST_STEPS, integer=True)
        for name in ("epsilon", "learning_rate", "distance_weight"):
            check_number(name, getattr(self, name), 0)

    def init(self, image_shape: ImageShape) -> Params:
        """``mask`` bool [H, W, 1], true inside the square, and ``color`` uint8 [C]: mid-grey until training sets it."""
        height, width, channels = check_image_shape(image_shape)
        side = max(1, round(self.size * min(height, width) / REFERENCE_SIDE))
        top, left = (height - side) // 2, (width - side) // 2
        mask = np.zeros((height, width, 1), np.bool_)
        mask[top : top + side, left : left + side] = True
        return {"mask": mask, "color": np.full(channels, 128, np.uint8)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Overwrite the square by the colour."""
        del key
        check_images(images, (*params["mask"].shape[:2], *params["color"].shape))
        return jnp.where(params["mask"][None], jnp.asarray(params["color"])[None, None, None], images)


def mean_color(mean: tuple[float, ...]) -> UInt8[np.ndarray, "C"]:
    """The grey levels nearest to a normalisation's mean (in units of the full scale)."""
    return np.clip(np.round(255 * np.asarray(mean)), 0, 255).astype(np.uint8)
