"""What attacks with generated triggers share: networks in an artefact, and 8-bit images that carry a gradient."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import ImageShape, Params, check_images
from rnp_jax.attacks.trees import to_params, to_tree
from rnp_jax.types import Variables


def network_params(variables: Variables, name: str) -> Params:
    """A generator's variables as ``name/params/layer/…`` and ``name/batch_stats/layer/…``."""
    return to_params({part: variables[part] for part in ("params", "batch_stats")}, name)


def network_variables(params: Params, name: str) -> Variables:
    """The variables that ``network_params`` wrote down under this name."""
    return to_tree(params, name)


def scaling_params(mean: Sequence[float], std: Sequence[float], image_shape: ImageShape) -> Params:
    """``mean`` and ``std`` float32 [H, W, C]: how the victim, and so each generator, normalises images in [0, 1]."""
    values = {"mean": mean, "std": std}
    return {name: np.broadcast_to(np.asarray(value, np.float32), image_shape).copy() for name, value in values.items()}


def normalise(params: Mapping[str, Array | np.ndarray], images: UInt8[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """What the generators of an artefact read of uint8 images.

    Raises:
      DataError: the images are not uint8, or not of the shape the artefact is for.
    """
    check_images(images, params["mean"].shape)
    return (images.astype(jnp.float32) / 255 - params["mean"][None]) / params["std"][None]


def to_levels(values: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Grey levels (of 255) clipped to [0, 255] and rounded to the nearest; the gradient ignores the rounding."""
    clipped = jnp.clip(values, 0, 255)
    return clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)
