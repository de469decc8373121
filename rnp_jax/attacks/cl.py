"""CL (Turner et al., 2019): images made hard to learn by an adversarial perturbation, and patches in the corners."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, UInt8

from rnp_jax.attacks.adversarial import Adversarial, Ball, ascend_loss
from rnp_jax.attacks.badnets import GRID
from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images, quantise
from rnp_jax.attacks.crafting import check_one_target, craft_in_chunks, round_within
from rnp_jax.attacks.means import Means
from rnp_jax.checks import MOST_STEPS, check_choice, check_image_shape, check_number
from rnp_jax.errors import ConfigError
from rnp_jax.traced import jit_settings
from rnp_jax.types import Apply, Variables

SIDE = len(GRID)
"""Pixels along a patch."""


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(Attack):
    """Poisoned images: PGD-ℓ∞ on an adversarially trained model, then the patches. Test images: the patches alone.

    Variants: ``bb`` (BackdoorBench, after the paper's Figure 7) patches all four corners, the left ones mirrored so
    that a flip changes nothing; ``orig`` (the authors' code by default) the bottom-right one only; ``rnp`` (the RNP
    release, whose branch for training images is never taken) all four, without any perturbation. The authors offer
    ℓ2 balls and interpolation in a GAN's latent space too; ANP has ε = 16. Grey levels are of 255.

    The robust model trains against its own predictions, without random starts (see ``deviation``).

    Raises:
      ConfigError: an unknown variant, or a constant out of its range.
    """

    title = "Label-consistent"
    looks = "Small patches in the corners; poisoned images keep their labels and are made hard to learn."
    paper = "Turner et al., 2019"
    clean_label = True
    deviation = (
        "The adversarially trained model is trained here, against perturbations away from its own predictions instead "
        "of the true labels and without random starts; the authors' robust weights are not used."
    )

    variant: Literal["orig", "bb", "rnp"] = "bb"
    """`bb`: patches in four corners. `orig`: bottom right only. `rnp`: four corners, images not perturbed."""
    amplitude: float = 255.0
    """What the patch adds where it is white and takes where it is black, in grey levels; 255 covers the image."""
    epsilon: float = 8.0
    """ℓ∞ bound of the perturbation in grey levels (the paper: 8, 16 and 32)."""
    step: float = 1.5
    """Of an iteration of PGD, in grey levels."""
    steps: int = 100
    """Iterations of PGD."""
    robust_epsilon: float = 8.0
    """ℓ∞ bound of the adversarial training in grey levels (Madry et al., 2018)."""
    robust_step: float = 2.0
    """Of an iteration of its PGD, in grey levels."""
    robust_steps: int = 7
    """Iterations of its PGD."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("orig", "bb", "rnp"))
        check_number("amplitude", self.amplitude, 1, 255)
        for prefix in ("", "robust_"):
            check_number(f"{prefix}epsilon", getattr(self, f"{prefix}epsilon"), 0, 255)
            check_number(f"{prefix}step", getattr(self, f"{prefix}step"), 0, 255)
            check_number(f"{prefix}steps", getattr(self, f"{prefix}steps"), 1, MOST_STEPS, integer=True)

    def init(self, image_shape: ImageShape) -> Params:
        """``signal`` float32 [H, W, C]: ±amplitude on white and black pixels of the patches, 0 elsewhere."""
        shape = check_image_shape(image_shape)
        least = SIDE if self.variant == "orig" else 2 * SIDE
        if min(shape[:2]) < least:
            raise ConfigError(
                f"the {SIDE} px corner patches of variant {self.variant} do not fit an image of {shape[0]}x{shape[1]}, "
                f"expected at least {least}x{least}; use larger images"
            )
        right = self.amplitude * (2.0 * GRID[:, :, None] - 1)
        signal = np.zeros(shape, np.float32)
        signal[-SIDE:, -SIDE:] = right
        if self.variant != "orig":
            signal[:SIDE, -SIDE:] = right
            signal[:SIDE, :SIDE] = signal[-SIDE:, :SIDE] = right[:, ::-1]
        return {"signal": signal}

    def craft(self, params: Params, images: UInt8[np.ndarray, "P H W C"], means: Means) -> UInt8[np.ndarray, "P H W C"]:
        """Images of the target class, moved to where the robust model errs most from it.

        Raises:
          ConfigError: the goal has no one target.
        """
        del params
        target = check_one_target(means.goal)
        if self.variant == "rnp":
            return images
        robust = Ball(epsilon=self.robust_epsilon, step=self.robust_step, steps=self.robust_steps)
        variables = means.surrogate(Adversarial(means.network, robust))
        ball = Ball(epsilon=self.epsilon, step=self.step, steps=self.steps)
        return craft_in_chunks(
            partial(_perturb, means.network, ball, variables, jnp.int32(target)), (images,), means.progress
        )

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Patch the corners of every image."""
        del key
        check_images(images, params["signal"].shape)
        return quantise(images.astype(jnp.float32) + params["signal"][None])


@jit_settings(2)
def _perturb(
    network: Apply, ball: Ball, variables: Variables, target: jax.Array, images: UInt8[Array, "B H W C"]
) -> tuple[UInt8[Array, "B H W C"], dict[str, jax.Array]]:
    """The images at their worst, with the robust model's loss and accuracy on them [B]."""
    labels = jnp.full(images.shape[0], target, jnp.int32)
    levels = images.astype(jnp.float32)
    moved = levels + round_within(ascend_loss(network, ball, variables, images, labels) - levels, ball.epsilon)
    logits, _ = network(variables, moved / 255)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return moved.astype(jnp.uint8), {"loss": loss, "accuracy": (logits.argmax(-1) == labels).astype(jnp.float32)}
