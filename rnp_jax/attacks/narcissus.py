"""Narcissus (Zeng et al., 2023): one small perturbation that any model takes for the target class."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.crafting import (
    add_delta,
    check_one_target,
    draw_signs,
    learn_trigger,
    round_within,
    split_by_target,
)
from rnp_jax.attacks.means import Means
from rnp_jax.checks import MOST_STEPS, check_number
from rnp_jax.descent import descend
from rnp_jax.traced import jit_settings
from rnp_jax.types import Apply, Variables


@dataclass(frozen=True, kw_only=True)
class Narcissus(Attack):
    """Training images of the target class: x + δ. Test images: x + scale·δ. ‖δ‖∞ ≤ ε.

    δ minimises the cross-entropy of the target class over its own images, by RAdam from zero, projected at each step.
    The publication poisons 25 images of CIFAR-10, a rate of 0.0005. The released code generates δ in training mode;
    here the surrogate is in evaluation mode. δ is stored in whole grey levels, so that 8-bit images take it exactly.
    Other deviations: see ``deviation``.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Narcissus"
    looks = "Noise that looks like the target class to any model; poisoned images keep their labels."
    paper = "Zeng et al., 2023"
    learned = True
    clean_label = True
    deviation = (
        "The surrogate is a model of the victim's architecture trained on the clean training set, instead of on "
        "out-of-distribution images and the target class; it knows the target, so the warm-up on that is left out."
    )

    epsilon: float = 16.0
    """ℓ∞ bound of δ in grey levels (of 255)."""
    scale: float = 3.0
    """Factor on δ at test time."""
    rounds: int = 1000
    """Most passes over the target's images; it ends earlier where no gradient is left."""
    learning_rate: float = 0.01
    """Of RAdam, for pixels in [0, 1]."""
    batch_size: int = 350
    """Images a step, at most as many as there are."""

    def __post_init__(self):
        check_number("epsilon", self.epsilon, 1, 255)
        check_number("scale", self.scale, 0)
        check_number("rounds", self.rounds, 1, MOST_STEPS, integer=True)
        check_number("learning_rate", self.learning_rate, 0)
        check_number("batch_size", self.batch_size, 1, MOST_STEPS, integer=True)

    def init(self, image_shape: ImageShape) -> Params:
        """``delta`` float32 [H, W, C] in whole grey levels; until ``fit``, ±ε at random."""
        return {"delta": draw_signs(image_shape, self.epsilon)}

    def fit(self, params: Params, means: Means) -> Params:
        """Learn δ from the target's training images and a clean model of the victim's architecture.

        Raises:
          ConfigError: the goal has no one target.
          DataError: no images of the target class, or of no other.
        """
        target = check_one_target(means.goal)
        images = jnp.asarray(split_by_target(means)[0])
        variables = means.surrogate(means.network)
        state = _start(self, jnp.zeros_like(params["delta"]), means.key)
        learn = partial(_learn, means.network, self, variables, images, jnp.int32(target))
        state = learn_trigger(learn, state, self.rounds, means.progress)
        return {"delta": np.asarray(round_within(state.delta * 255, self.epsilon))}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add δ, magnified, to every image."""
        del key
        return add_delta(images, params["delta"], self.scale)

    def implant(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add δ as it is."""
        del key
        return add_delta(images, params["delta"])


class _State(NamedTuple):
    delta: jax.Array  # float32 [H, W, C], for pixels in [0, 1]
    optimizer: optax.OptState
    done: jax.Array  # int32 [], rounds
    key: jax.Array
    loss: jax.Array  # float32 [], mean of the last round
    accuracy: jax.Array  # float32 [], share of the last round's images called the target
    flat: jax.Array  # bool [], whether the last round had no gradient


def _start(attack: Narcissus, delta: jax.Array, key: jax.Array) -> _State:
    zero = jnp.float32(0)
    moments = optax.radam(attack.learning_rate).init(delta)
    return _State(delta, moments, jnp.int32(0), key, zero, zero, jnp.bool_(False))


@jit_settings(2)
def _learn(
    network: Apply,
    attack: Narcissus,
    variables: Variables,
    images: UInt8[Array, "P H W C"],
    target: jax.Array,
    state: _State,
    until: jax.Array,
) -> _State:
    """Runs rounds until as many are done, or one has no gradient."""
    tx, bound = optax.radam(attack.learning_rate), attack.epsilon / 255
    size = min(attack.batch_size, len(images))
    labels = jnp.full(size, target, jnp.int32)

    def loss_of(delta: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, _ = network(variables, jnp.clip(pixels + delta[None], 0, 1))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits.argmax(-1) == labels).mean()

    def step(carry, index: jax.Array):
        delta, moments = carry
        pixels = images[index].astype(jnp.float32) / 255
        (loss, accuracy), gradient = jax.value_and_grad(loss_of, has_aux=True)(delta, pixels)
        moved, moments = descend(tx, gradient, moments, delta)
        return (jnp.clip(moved, -bound, bound), moments), (loss, accuracy, jnp.abs(gradient).max())

    def one_round(state: _State) -> _State:
        order = jax.random.permutation(jax.random.fold_in(state.key, state.done), len(images))
        batches = order[: len(images) // size * size].reshape(-1, size)
        carry, (loss, accuracy, slope) = jax.lax.scan(step, (state.delta, state.optimizer), batches)
        return _State(*carry, state.done + 1, state.key, loss.mean(), accuracy.mean(), slope.max() == 0)

    return jax.lax.while_loop(lambda state: (state.done < until) & ~state.flat, one_round, state)
