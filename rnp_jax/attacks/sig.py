"""SIG (Barni et al., 2019): a sinusoid along the columns, on images of the target class whose labels stay."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images, quantise
from rnp_jax.attacks.blend import mix
from rnp_jax.checks import LARGEST_SIDE, check_image_shape, check_number
from rnp_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sig(Attack):
    """x' = Q(x + v), v(c) = Δ sin(2πcf / W): the paper's additive signal, with BackdoorBench's constants.

    The paper has Δ = 20; backdoor-toolbox has 30.

    Raises:
      ConfigError: delta outside [0, 255] or a frequency below 1.
    """

    title = "Sinusoidal signal (SIG)"
    looks = "Faint stripes over the whole image; poisoned images keep their labels."
    paper = "Barni et al., 2019"
    clean_label = True

    delta: float = 40.0
    """Amplitude Δ of the signal in grey levels (of 255)."""
    frequency: int = 6
    """Cycles f over the image's width."""

    def __post_init__(self):
        check_number("delta", self.delta, 0, 255)
        check_number("frequency", self.frequency, 1, LARGEST_SIDE, integer=True)

    def init(self, image_shape: ImageShape) -> Params:
        """``signal`` float32 [H, W, C] in grey levels, the same for all rows and channels."""
        shape = check_image_shape(image_shape)
        width = shape[1]
        if 2 * self.frequency > width:
            raise ConfigError(
                f"frequency is {self.frequency}, expected at most {width // 2} cycles over a width of {width} px"
            )
        signal = self.delta * np.sin(2 * np.pi * self.frequency * np.arange(width) / width)
        return {"signal": np.broadcast_to(signal[None, :, None], shape).astype(np.float32)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add the signal to every image."""
        del key
        check_images(images, params["signal"].shape)
        return quantise(images.astype(jnp.float32) + params["signal"][None])


@dataclass(frozen=True, kw_only=True)
class SigRnp(Attack):
    """x' = Q((1 − α)x + αS), S(c) = trunc(A sin(ωc)) mod 256: the signal as the RNP, NAD and ABL releases apply it.

    They blend in a mask stored as unsigned bytes, whose negative half wraps: a near-square wave at both ends of
    the range instead of a sinusoid around zero.

    Raises:
      ConfigError: alpha outside [0, 1], amplitude outside [0, 127] or a frequency that is not positive.
    """

    title = "Sinusoidal signal, as RNP's release has it"
    looks = "Stripes with hard edges over the whole image; poisoned images keep their labels."
    paper = "Barni et al., 2019"
    clean_label = True

    alpha: float = 0.2
    """Weight α of the mask, 0 to 1."""
    amplitude: float = 20.0
    """Amplitude A of the sinusoid in grey levels, before it wraps."""
    angular_frequency: float = 0.8
    """ω in radians a pixel."""

    def __post_init__(self):
        check_number("alpha", self.alpha, 0, 1)
        check_number("amplitude", self.amplitude, 0, 127)
        check_number("angular_frequency", self.angular_frequency, 0, np.pi)

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [H, W, C], the same for all rows and channels."""
        shape = check_image_shape(image_shape)
        wave = np.trunc(self.amplitude * np.sin(self.angular_frequency * np.arange(shape[1]))).astype(np.int32)
        return {"pattern": np.broadcast_to((wave % 256)[None, :, None], shape).astype(np.uint8)}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Mix the wrapped mask into every image."""
        del key
        return mix(images, params["pattern"], self.alpha)
