"""An epoch of an attack that trains with its victim: what the compiled programs of all such attacks share."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from rnp_jax.training.epoch import check_batch, run_epoch
from rnp_jax.training.joint import Setting
from rnp_jax.types import Batch

Carry = TypeVar("Carry")


def steps_an_epoch(setting: Setting, count: int) -> int:
    """Whole batches in ``count`` images.

    Raises:
      ConfigError: there is none.
    """
    size = setting.config.batch_size
    check_batch(count, size)
    return count // size


def run_steps(
    setting: Setting,
    step: Callable[[Carry, Batch, jax.Array], tuple[Carry, dict[str, jax.Array]]],
    carry: Carry,
    data: Batch,
    key: jax.Array,
    epoch: jax.Array,
) -> tuple[Carry, dict[str, jax.Array]]:
    """Runs ``step`` over all whole batches in an order drawn for this epoch; means of its figures, each a batch's mean.

    To be traced inside ``jit``.
    """

    def summed(carry: Carry, batch: Batch, key: jax.Array) -> tuple[Carry, dict[str, jax.Array]]:
        carry, figures = step(carry, batch, key)
        return carry, {name: value * batch.labels.shape[0] for name, value in figures.items()}

    size = setting.config.batch_size
    return run_epoch(summed, carry, data, jax.random.fold_in(key, epoch), batch_size=size, remainder=False)


def read_scaling(setting: Setting) -> dict[str, jax.Array]:
    """How the victim normalises images, as ``scaling_params`` gives it; may be traced."""
    network = setting.network
    values, shape = {"mean": network.mean, "std": network.std}, network.architecture.image_shape
    return {name: jnp.broadcast_to(jnp.asarray(value, jnp.float32), shape) for name, value in values.items()}


def share_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of images [] that get their label, NaN where there are none."""
    return (logits.argmax(-1) == labels).astype(jnp.float32).mean()
