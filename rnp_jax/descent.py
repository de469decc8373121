"""One step of an optimiser."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

Params = TypeVar("Params")


def descend(
    tx: optax.GradientTransformation, gradient: Params, opt_state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """Parameters (an array, or a tree of them) and optimiser state after one update."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power in Adam's
        updates, opt_state = tx.update(gradient, opt_state, params)  # pyright: ignore[reportArgumentType]
    return jax.tree.map(jnp.add, params, updates), opt_state
