"""LIRA (Doan et al., 2021): faint noise that a generator makes for each image, learned together with a classifier."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.generated import network_params, network_variables, normalise, scaling_params, to_levels
from rnp_jax.checks import MOST_STEPS, check_choice, check_image_shape, check_number
from rnp_jax.errors import ConfigError
from rnp_jax.models.generators import Generator


@dataclass(frozen=True, kw_only=True)
class Lira(Attack):
    """x' = clip(x + ε·σ_c·T(x)) with T in [−1, 1] and σ_c the victim's normalising deviation of channel c.

    T is learned against a classifier f that learns to obey it; then it is frozen, and the victim is trained on
    α·CE(x, y) + (1 − α)·CE(x', t), with every image of every batch triggered: the poison rate has no part in it
    (``training.lira``). The release learns at ε = 0.1 and poisons at 0.01, BackdoorBench has 0.01 throughout, and both
    evaluate floats: 0.01·σ_c is at most 2/3 of a grey level. Images are 8-bit here, rounded to the nearest level in
    training too (the gradient ignores the rounding), so the default is 0.1 throughout, which is 6 levels. Clean and
    triggered images pass through f together; passed one after the other, as in the release, batch norm tells them
    apart by statistics that no single image has.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "LIRA"
    looks = "Faint noise that a generator makes for each image."
    paper = "Doan et al., 2021"
    learned = True
    takes_rate = False
    deviation = (
        "Triggered images are rounded to 8 bits, in training too (with a straight-through gradient), final_epsilon is "
        "0.1 where the release poisons floats at 0.01, and clean and triggered images share batch statistics."
    )

    variant: Literal["orig", "bb"] = "bb"
    """`orig` (the release): T is a U-net. `bb` (BackdoorBench): an autoencoder, and f also descends on T's loss, whose
    gradient is not cleared."""
    width: int = 16
    """Channels of T's first layers; published are 16 for `bb` and 64 for `orig`."""
    epsilon: float = 0.1
    """Strength ε while T is learned, in normalised units."""
    final_epsilon: float = 0.1
    """Strength ε of the trigger: when the victim is trained, and at test."""
    alpha: float = 0.5
    """Weight α of clean images in the loss, 0 to 1."""
    generator_epochs: int = 50
    """Epochs of learning T, before the victim's."""
    generator_learning_rate: float = 1e-4
    """Of T, by Adam."""
    learning_rate: float = 0.01
    """Of f while T is learned, by SGD with momentum 0.9."""
    fine_tune: bool = True
    """Whether the victim starts as f, fine-tuned as the authors say, or as new, as their released commands do it."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("orig", "bb"))
        check_number("width", self.width, 1, 256, integer=True)
        check_number("epsilon", self.epsilon, 0)
        check_number("final_epsilon", self.final_epsilon, 0)
        check_number("alpha", self.alpha, 0, 1)
        check_number("generator_epochs", self.generator_epochs, 1, MOST_STEPS, integer=True)
        check_number("generator_learning_rate", self.generator_learning_rate, 0)
        check_number("learning_rate", self.learning_rate, 0)
        if not isinstance(self.fine_tune, bool):
            raise ConfigError(f"fine_tune is {self.fine_tune!r}, expected true or false")

    def generator(self, channels: int) -> Generator:
        """T, for images of so many channels."""
        return Generator("unet" if self.variant == "orig" else "autoencoder", self.width, channels)

    def init(self, image_shape: ImageShape) -> Params:
        """``generator/…``, the arrays of T, and ``mean``, ``std`` float32 [H, W, C]. The untrained T brightens."""
        shape = check_image_shape(image_shape)
        variables = self.generator(shape[-1]).constant(shape[-1])
        return {**network_params(variables, "generator"), **scaling_params([0.0], [1.0], shape)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add each image's own noise."""
        del key
        x = normalise(params, images)
        noise, _ = self.generator(images.shape[-1])(network_variables(params, "generator"), x)
        return add_noise(images, noise, self.final_epsilon * jnp.asarray(params["std"])).astype(jnp.uint8)


def add_noise(
    images: UInt8[Array, "B H W C"], noise: Float[Array, "B H W C"], strength: Float[Array, "H W C"]
) -> Float[Array, "B H W C"]:
    """Grey levels of the images with noise in [−1, 1], of strength ε·σ_c (of 1) a pixel, added."""
    return to_levels(images.astype(jnp.float32) + 255 * strength[None] * noise)
