"""What clean-label attacks that compute their images share: the target's images, whole levels, chunks."""

import math
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import ImageShape, check_images, quantise
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.checks import check_image_shape
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.fetching import fetch_late
from rnp_jax.types import Progress

CHUNK = 64
"""Images crafted by one call: every number of them shares one compilation."""
REPORTED = 50
"""Steps between two reports of progress."""


class Learnt(Protocol):
    """What a step changes of a trigger that is learnt: a named tuple of arrays."""

    @property
    def done(self) -> jax.Array:
        """Steps done, int32 []."""
        ...

    @property
    def loss(self) -> jax.Array:
        """Of the last step, float32 []."""
        ...

    @property
    def accuracy(self) -> jax.Array:
        """Share of its images that are called the target, float32 []."""
        ...


State = TypeVar("State", bound=Learnt)


def learn_trigger(learn: Callable[[State, jax.Array], State], state: State, most: int, progress: Progress) -> State:
    """The state after ``most`` steps, or once ``learn`` ends earlier.

    ``learn`` goes on until so many steps are done, int32 []. The host fetches figures while the next steps run.
    """

    def run() -> Iterator[tuple[int, jax.Array, jax.Array, jax.Array]]:
        nonlocal state
        for until in [*range(REPORTED, most, REPORTED), most]:
            state = learn(state, jax.device_put(np.int32(until)))
            yield until, state.done, state.loss, state.accuracy

    for until, done, loss, accuracy in fetch_late(run()):
        progress("trigger", int(done), most, {"loss": float(loss), "accuracy": float(accuracy)})
        if done < until:
            break
    return state


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
    starts = range(0, count, CHUNK)
    chunks = (
        craft(*(array[np.minimum(np.arange(start, start + CHUNK), count - 1)] for array in arrays)) for start in starts
    )
    for number, (start, (images, figures)) in enumerate(zip(starts, fetch_late(chunks), strict=True), 1):
        seen = min(CHUNK, count - start)
        made[start : start + seen] = images[:seen]
        progress("craft", number, len(starts), {name: float(values[:seen].mean()) for name, values in figures.items()})
    return made
