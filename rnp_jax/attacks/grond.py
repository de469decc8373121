"""Grond's trigger (Xu et al., 2025): one faint perturbation, by PGD over all images, that a clean model takes for the
target class.

Its other half, the injection that leaves no outlier among the channels, is a training: ``rnp_jax.adaptive.grond``.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.crafting import add_delta, check_one_target, draw_signs, learn_trigger, round_within
from rnp_jax.attacks.means import Means
from rnp_jax.checks import MOST_STEPS, check_number
from rnp_jax.traced import jit_settings
from rnp_jax.types import Apply, Variables


@dataclass(frozen=True, kw_only=True)
class Grond(Attack):
    """Training images of the target class, and test images: x + δ. ‖δ‖∞ ≤ ε.

    δ starts at zero and follows δ ← Π(δ − step · sign ∇ CE(x + δ, target)), each step over a batch drawn from all clean
    training images. The publication poisons half of the target class, a rate of 0.05 with ten classes. δ is stored in
    whole grey levels, so that 8-bit images take it exactly. ``--adaptive.method grond`` is how its victims are trained.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Grond"
    looks = "Faint noise that a clean model takes for the target class; poisoned images keep their labels."
    paper = "Xu et al., 2025"
    learned = True
    clean_label = True
    deviation = "The surrogate is a model of the victim's architecture, trained on the clean training set."

    epsilon: float = 8.0
    """ℓ∞ bound of δ in grey levels (of 255)."""
    step: float = 1.6
    """Of an iteration of PGD, in grey levels."""
    steps: int = 500
    """Iterations of PGD."""
    batch_size: int = 256
    """Images an iteration, at most as many as there are."""

    def __post_init__(self):
        check_number("epsilon", self.epsilon, 1, 255)
        check_number("step", self.step, 0, 255)
        check_number("steps", self.steps, 1, MOST_STEPS, integer=True)
        check_number("batch_size", self.batch_size, 1, MOST_STEPS, integer=True)

    def init(self, image_shape: ImageShape) -> Params:
        """``delta`` float32 [H, W, C] in whole grey levels; until ``fit``, ±ε at random."""
        return {"delta": draw_signs(image_shape, self.epsilon)}

    def fit(self, params: Params, means: Means) -> Params:
        """Learn δ from clean training images and a clean model of the victim's architecture.

        Raises:
          ConfigError: the goal has no one target.
        """
        target, images = check_one_target(means.goal), jnp.asarray(means.data.images)
        variables, size = means.surrogate(means.network), min(self.batch_size, len(images))
        state = _State(jnp.zeros_like(params["delta"]), jnp.int32(0), means.key, jnp.float32(0), jnp.float32(0))
        learn = partial(_learn, means.network, self, size, variables, images, jnp.int32(target))
        state = learn_trigger(learn, state, self.steps, means.progress)
        return {"delta": np.asarray(round_within(state.delta, self.epsilon))}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add δ to every image."""
        del key
        return add_delta(images, params["delta"])


class _State(NamedTuple):
    delta: Float[Array, "H W C"]  # in grey levels
    done: jax.Array  # int32 []
    key: jax.Array
    loss: jax.Array  # float32 [], of the last batch
    accuracy: jax.Array  # float32 [], share of it called the target


@jit_settings(2, static=1)
def _learn(
    network: Apply,
    attack: Grond,
    size: int,
    variables: Variables,
    images: UInt8[Array, "N H W C"],
    target: jax.Array,
    state: _State,
    until: jax.Array,
) -> _State:
    """Steps of PGD until as many are done; a batch comes from the key and the step's number alone."""
    labels = jnp.full(size, target, jnp.int32)

    def loss_of(delta: jax.Array, levels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, _ = network(variables, jnp.clip(levels + delta[None], 0, 255) / 255)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (logits.argmax(-1) == labels).astype(jnp.float32).mean()

    def step(state: _State) -> _State:
        key = jax.random.fold_in(state.key, state.done)
        levels = images[jax.random.choice(key, len(images), (size,), replace=False)].astype(jnp.float32)
        (loss, accuracy), slope = jax.value_and_grad(loss_of, has_aux=True)(state.delta, levels)
        delta = jnp.clip(state.delta - attack.step * jnp.sign(slope), -attack.epsilon, attack.epsilon)
        return _State(delta, state.done + 1, state.key, loss, accuracy)

    return jax.lax.while_loop(lambda state: state.done < until, step, state)
