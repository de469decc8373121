"""Input-Aware, or Dynamic (Nguyen & Tran, 2020): each image's own pattern, at places of its own, both generated."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.generated import network_params, network_variables, normalise, scaling_params, to_levels
from rnp_jax.checks import MOST_STEPS, check_image_shape, check_number
from rnp_jax.errors import ConfigError
from rnp_jax.models.generators import Generator
from rnp_jax.traced import structural


@dataclass(frozen=True, kw_only=True)
class InputAware(Attack):
    """x' = x + (p − x)·m, p = ½ + ½ G(x) in [0, 1], m = ½ + ½ tanh(10 M(x)) for all channels, G and M in [−1, 1].

    M is learned first, then G together with the victim (``training.input_aware``), which also sees images with another
    image's trigger and their true labels. The authors' x' is a float; here it is rounded to the nearest grey level,
    in training too, where the gradient ignores the rounding. Published are 600 epochs of the victim (BackdoorBench:
    100) with rate 0.1. Learning rates fall by 10 at the shares of training where the release has them: 2/5 and 4/5 of
    M's, 1/3, 1/2, 2/3 and 5/6 of G's.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Input-aware"
    looks = "A pattern of its own on each image, made by a generator."
    paper = "Nguyen & Tran, 2020"
    learned = True
    deviation = "Triggered images are rounded to 8 bits, in training too (with a straight-through gradient)."

    width: int = 32
    """Channels of the first layers of G and M."""
    mask_epochs: int = 25
    """Epochs that M is trained for, before all others."""
    mask_density: float = 0.032
    """Mean of a mask that costs nothing."""
    norm_weight: float = 100.0
    """Weight of the masks' density above that, relu(m − density)."""
    diversity_weight: float = 1.0
    """Weight of the diversity loss ‖x − x̃‖ / ‖p − p̃‖ of pairs of images and of their patterns (or masks)."""
    cross_ratio: float = structural(1.0)
    """Images with another image's trigger and their true labels, for each poisoned one."""
    learning_rate: float = 0.01
    """Of G and M, by Adam."""
    accumulate: bool = True
    """Whether G's gradients add up over all steps, never set to zero, as in the release and in BackdoorBench."""

    def __post_init__(self):
        check_number("width", self.width, 1, 256, integer=True)
        check_number("mask_epochs", self.mask_epochs, 1, MOST_STEPS, integer=True)
        check_number("mask_density", self.mask_density, 0, 1)
        check_number("norm_weight", self.norm_weight, 0)
        check_number("diversity_weight", self.diversity_weight, 0)
        check_number("cross_ratio", self.cross_ratio, 0)
        check_number("learning_rate", self.learning_rate, 0)
        if not isinstance(self.accumulate, bool):
            raise ConfigError(f"accumulate is {self.accumulate!r}, expected true or false")

    def networks(self, channels: int) -> tuple[Generator, Generator]:
        """G and M, for images of so many channels."""
        return Generator("bottleneck", self.width, channels), Generator("bottleneck", self.width, 1)

    def init(self, image_shape: ImageShape) -> Params:
        """``generator/…`` and ``mask/…``, the networks' arrays, and ``mean``, ``std`` float32 [H, W, C].

        The untrained ones paint everything bright.
        """
        shape = check_image_shape(image_shape)
        generator, mask = (network.constant(shape[-1]) for network in self.networks(shape[-1]))
        return {
            **network_params(generator, "generator"),
            **network_params(mask, "mask"),
            **scaling_params([0.0], [1.0], shape),
        }

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Blend each image's own pattern in where its own mask is on."""
        del key
        x = normalise(params, images)
        generator, mask = self.networks(images.shape[-1])
        pattern, _ = generator(network_variables(params, "generator"), x)
        where, _ = mask(network_variables(params, "mask"), x)
        return blend(images, to_pattern(pattern), to_mask(where)).astype(jnp.uint8)


def to_pattern(output: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """The pattern in [0, 1] that G's output means."""
    return 0.5 + 0.5 * output


def to_mask(output: Float[Array, "B H W 1"]) -> Float[Array, "B H W 1"]:
    """The near-binary mask that M's output means: the release's ½ + ½ tanh(20 z − 10) of z = ½ + ½ output."""
    return 0.5 + 0.5 * jnp.tanh(10 * output)


def blend(
    images: UInt8[Array, "B H W C"], pattern: Float[Array, "B H W C"], mask: Float[Array, "B H W 1"]
) -> Float[Array, "B H W C"]:
    """Grey levels of the images with the pattern (in [0, 1]) where the mask is 1."""
    levels = images.astype(jnp.float32)
    return to_levels(levels + (255 * pattern - levels) * mask)
