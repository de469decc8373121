"""What every attack is: published constants, an artefact drawn or learned from them, and a pure trigger."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.means import Means
from rnp_jax.errors import DataError

ImageShape: TypeAlias = tuple[int, int, int]
"""Height, width and channels of one image."""

Params: TypeAlias = dict[str, np.ndarray]
"""The trigger artefact: the few named arrays that, with the attack's constants, define its trigger completely."""

ROUNDING_SLACK = 2.0**-10
"""Added before truncation. Keeps a value that is an integer in exact arithmetic from falling one level in float32."""


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A benchmark attack. Subclasses are frozen dataclasses whose fields are the constants of the publication.

    Equal attacks hash equal, so an attack may be a static argument of a jitted function.
    """

    title: ClassVar[str]
    """What a reader calls it."""
    looks: ClassVar[str]
    """What its trigger does to an image, in a sentence or two."""
    paper: ClassVar[str]
    """Authors and year of the publication."""
    clean_label: ClassVar[bool] = False
    """Whether the published protocol poisons images of the target class only and keeps their labels."""
    in_step: ClassVar[bool] = False
    """Whether it poisons every batch inside the victim's training step."""
    learned: ClassVar[bool] = False
    """Whether its artefact is learned with a network, so that its constants alone do not make it."""
    takes_rate: ClassVar[bool] = True
    """Whether a share of the images is poisoned, and how large it is matters."""
    expected_asr: ClassVar[float] = 0.9
    """Below this share of triggered images, a model trained under the published protocol counts as weakly attacked."""
    deviation: ClassVar[str] = ""
    """Where exactness is impossible: what differs from the publication."""

    @property
    def cover_ratio(self) -> float:
        """Images altered by ``cover``, with their true labels, for each poisoned one."""
        return 0.0

    @property
    def appends(self) -> bool:
        """Whether its own way to train a victim adds poisoned images to the set."""
        return False

    @abstractmethod
    def init(self, image_shape: ImageShape) -> Params:
        """Draw the trigger artefact for images of this shape. The same constants give the same arrays.

        What an attack learns has its names, shapes and dtypes here, and its values from ``fit``.

        Raises:
          ConfigError: the constants cannot make a trigger of this shape.
        """

    def fit(self, params: Params, means: Means) -> Params:
        """Learn the artefact, where it is not drawn."""
        del means
        return params

    def craft(self, params: Params, images: UInt8[np.ndarray, "P H W C"], means: Means) -> UInt8[np.ndarray, "P H W C"]:
        """What is done to each image to be poisoned on its own, before ``implant``: nothing, unless overridden."""
        del params, means
        return images

    @abstractmethod
    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Put the trigger on every image. Pure and jittable; ``key`` feeds triggers that vary by image.

        Raises:
          DataError: the images are not uint8, or not of the shape the artefact was drawn for.
        """

    def implant(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """What poisoned training images look like: triggered, unless overridden. Pure and jittable."""
        return self.trigger(params, images, key)

    def cover(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """What training images look like that are altered and keep their true label: implanted, unless overridden."""
        return self.implant(params, images, key)

    @classmethod
    def learns(cls) -> bool:
        """Whether its artefact, or its poisoned images, need more than its constants."""
        return cls.fit is not Attack.fit or cls.craft is not Attack.craft


def quantise(values: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Clip to [0, 255] and truncate, as the attacks that poison stored 8-bit images do."""
    return jnp.clip(values + ROUNDING_SLACK, 0, 255).astype(jnp.uint8)


def check_images(images: jax.Array | np.ndarray, shape: tuple[int, ...]) -> None:
    """Require uint8 images [B, H, W, C] whose dimensions after B start with ``shape``.

    Raises:
      DataError: another dtype, rank or size.
    """
    if images.ndim != 4 or images.dtype != jnp.uint8:
        raise DataError(
            f"images are {images.dtype} {list(images.shape)}, expected uint8 [B, H, W, C]; "
            "convert floats in [0, 1] by (images * 255).round().astype('uint8')"
        )
    found = images.shape[1 : 1 + len(shape)]
    if found != shape:
        raise DataError(
            f"images are {list(found)}, but the trigger artefact is {list(shape)}; "
            "draw one for this size with init(image_shape), or resize the images"
        )
