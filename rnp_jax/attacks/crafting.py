"""What clean-label attacks that compute their images share: the target's images, whole levels, chunks."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import ImageShape, check_images, quantise
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.checks import check_image_shape
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.types import Progress

CHUNK = 64
"""Images crafted by one call: every number of them shares one compilation."""


def check_one_target(goal: Goal) -> int:
    """The target class.

    Raises:
      ConfigError: there is none, under ``all_to_all``.
    """
    if goal.one_target is None:
        raise ConfigError(f"mapping is {goal.mapping}: kept labels need a single target; use all_to_one")
    return goal.one_target


def split_by_target(means: Means) -> tuple[UInt8[np.ndarray, "P H W C"], UInt8[np.ndarray, "Q H W C"]]:
    """The clean images of the target class, and those of all others.

    Raises:
      ConfigError: the goal has no one target.
      DataError: one of the two is empty.
    """
    target = check_one_target(means.goal)
    images, members = np.asarray(means.data.images), np.asarray(means.data.labels) == target
    if members.all() or not members.any():
        raise DataError(
            f"{members.sum()} of {len(members)} training images are of the target class {target}, expected some of it "
            "and some of other classes; choose another target or other images"
        )
    return images[members], images[~members]


def round_within(delta: Float[Array, "*shape"], epsilon: float | jax.Array) -> Float[Array, "*shape"]:
    """A perturbation in grey levels as the nearest whole ones that keep to ±epsilon: 8-bit images take it exactly."""
    most = jnp.floor(epsilon) if isinstance(epsilon, jax.Array) else math.floor(epsilon)
    return jnp.clip(jnp.round(delta), -most, most)


def draw_signs(image_shape: ImageShape, epsilon: float) -> Float[np.ndarray, "H W C"]:
    """A perturbation of ±epsilon in whole grey levels, each sign at random."""
    signs = 2.0 * np.random.default_rng(0).integers(0, 2, check_image_shape(image_shape)) - 1
    return (np.floor(epsilon) * signs).astype(np.float32)


def add_delta(
    images: UInt8[Array, "B H W C"], delta: Float[np.ndarray, "H W C"], scale: float = 1.0
) -> UInt8[Array, "B H W C"]:
    """Every image plus ``scale`` times the perturbation, as 8-bit levels.

    Raises:
      DataError: images of another size than the perturbation's.
    """
    check_images(images, delta.shape)
    return quantise(images.astype(jnp.float32) + scale * jnp.asarray(delta)[None])


def craft_in_chunks(
    craft: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
    arrays: tuple[UInt8[np.ndarray, "P H W C"], ...],
    progress: Progress,
) -> UInt8[np.ndarray, "P H W C"]:
    """Images that ``craft`` makes of each row of ``arrays``, ``CHUNK`` rows a call, the last call filled up.

    ``craft`` returns uint8 [CHUNK, H, W, C] and figures [CHUNK], whose means over a chunk ``progress`` is told.
    """
    count = len(arrays[0])
    made = np.empty_like(arrays[0])
    for number, start in enumerate(range(0, count, CHUNK), 1):
        rows = np.minimum(np.arange(start, start + CHUNK), count - 1)
        seen = min(CHUNK, count - start)
        images, figures = craft(*(array[rows] for array in arrays))
        made[start : start + seen] = np.asarray(images)[:seen]
        means = {name: float(np.asarray(values)[:seen].mean()) for name, values in figures.items()}
        progress("craft", number, math.ceil(count / CHUNK), means)
    return made
