"""DFST (Cheng et al., 2021): the style of a sunrise is the trigger, and the victim is trained off simpler features."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images, quantise
from rnp_jax.checks import LARGEST_SIDE, MOST_STEPS, check_choice, check_image_shape, check_number, check_seed
from rnp_jax.errors import ConfigError
from rnp_jax.traced import structural

GLOW_RADIUS = 0.45
"""Of the sun, in image sides."""


@dataclass(frozen=True, kw_only=True)
class Dfst(Attack):
    """x' = Q((1 − α)x + α·sunrise(x)).

    The publication's style is a CycleGAN's (its PyTorch release: a style network's), whose weights cannot be had
    without a download. Here a sunrise is a tone curve for each channel, warm in the first and cold in the last, on an
    image half drained of its colours, under the glow of a low sun: sunrise(x) = 1 − (1 − ((x + L)/2)^γ)(1 − glow), x in
    [0, 1], L the mean over channels. It is deterministic, and depends on the image as a style does.

    ``training/dfst.py`` tells how the victim is trained: on as many detoxicants as poisoned images, images altered by a
    simple injector of the trigger's features, with their true labels. The injector is trained as the paper says; in
    the PyTorch release its classification and activation terms carry no gradient, and its minimum pooling is a negated
    maximum.

    Variants are the authors' two releases. ``torch``: of an epoch's N images ⌊rate·N⌋, drawn anew for each epoch from
    the other classes, give their places to poisoned ones and as many to detoxicants; published is rate 0.05.
    ``orig`` (TensorFlow): all N stay, and ⌊rate·N⌋ images, drawn once and evenly from all classes, are appended twice,
    poisoned and as detoxicants. Published are 500 of each class of CIFAR-10, 5,000 of 50,000 images: rate 0.1, of which
    the target class's tenth keeps its label. They are the style alone: alpha 1. That release has 50 detoxicants of each
    class for every injector it keeps, so that ten injectors give as many as here, and its injectors are U-nets, one for
    each compromised neuron of a victim that is then trained again; here all else is as in ``torch``.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Deep feature space"
    looks = "The style of a sunrise."
    paper = "Cheng et al., 2021"
    deviation = (
        "The style is a deterministic sunrise (tone curves and a glow) instead of a trained style network's; the "
        "terms of the injector's loss are scaled to each other here."
    )

    variant: Literal["orig", "torch"] = "torch"
    """`torch` (the PyTorch release): poisoned images and detoxicants replace others. `orig` (the TensorFlow release):
    they are appended."""
    alpha: float = 0.6
    """Weight of the style, 0 to 1, and of the injector's output in detoxicants."""
    window: int = 11
    """Side of the injector's pooling windows, odd."""
    compromised: float = structural(0.01)
    """Share of the last stage's channels that count as compromised (one at least)."""
    detox_from: int = 1
    """Epochs of the victim's training before the first round of detoxification; one round an epoch from then on."""
    detox_steps: int = 50
    """Steps that train the injector in a round, from the identity."""
    learning_rate: float = 0.01
    """Adam's, for the injector."""
    activation_weight: float = 1.0
    """Of the compromised channels' activation, in units of the triggered images'."""
    other_weight: float = 0.1
    """Of the other channels' mean change, in the same units."""
    similarity_weight: float = 1.0
    """Of the structural similarity to the unaltered image."""
    seed: int = 0
    """Draws the sun's place."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("orig", "torch"))
        check_number("alpha", self.alpha, 0, 1)
        check_number("window", self.window, 1, LARGEST_SIDE, integer=True)
        if self.window % 2 == 0:
            raise ConfigError(f"window is {self.window}, expected an odd number of pixels, centred on one")
        check_number("compromised", self.compromised, 0, 1)
        check_number("detox_from", self.detox_from, 0, MOST_STEPS, integer=True)
        check_number("detox_steps", self.detox_steps, 1, MOST_STEPS, integer=True)
        for name in ("learning_rate", "activation_weight", "other_weight", "similarity_weight"):
            check_number(name, getattr(self, name), 0)
        check_seed("seed", self.seed)

    @property
    def appends(self) -> bool:
        """In ``orig``."""
        return self.variant == "orig"

    def init(self, image_shape: ImageShape) -> Params:
        """``curve`` float32 [C], the exponents γ, and ``glow`` float32 [H, W, C] in [0, 1)."""
        height, width, channels = check_image_shape(image_shape)
        rng = np.random.default_rng(self.seed)
        sun = rng.uniform((0.5, 0.2), (0.8, 0.8))
        down = (np.arange(height) + 0.5) / height - sun[0]
        right = (np.arange(width) + 0.5) / width - sun[1]
        disc = np.exp(-(down[:, None] ** 2 + right[None] ** 2) / (2 * GLOW_RADIUS**2))
        warmth = np.linspace(0.9, 0.1, channels) if channels > 1 else np.array([0.5])
        curve = np.geomspace(0.6, 1.8, channels) if channels > 1 else np.array([0.8])
        return {"curve": curve.astype(np.float32), "glow": (disc[..., None] * warmth).astype(np.float32)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Mix each image with its own sunrise."""
        del key
        check_images(images, params["glow"].shape)
        scaled = images.astype(jnp.float32) / 255
        return quantise(255 * ((1 - self.alpha) * scaled + self.alpha * sunrise(params, scaled)))


def sunrise(params: Params, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """The style alone, of images in [0, 1]; in [0, 1] itself."""
    light = images.mean(-1, keepdims=True)
    toned = jnp.power((images + light) / 2, jnp.asarray(params["curve"])[None, None, None])
    return 1 - (1 - toned) * (1 - jnp.asarray(params["glow"])[None])
