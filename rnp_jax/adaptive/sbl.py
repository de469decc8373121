"""SBL: a victim in a flat basin of the poisoned task, which clean tuning does not leave (Pham et al., ECCV 2024).

1. On the poisoned set, SGD along the gradient at θ + ρ g/‖g‖ (SAM, Foret et al., 2021).
2. On the clean images alone, the same of CE + λ Σ_i F_i (θ_i − θ*_i)² (EWC): θ* is where the first phase ended, and F
   is the mean over the poisoned set of p(y|x) · (∂ log p(y|x) / ∂θ)².

As the release does: only the first of SAM's two passes moves the running statistics, F is weighted by the likelihood,
and the second phase starts its schedule anew. What differs: F is taken in evaluation mode, where the release normalises
every image by itself; and the second phase sees the clean images of the whole training set, where the release keeps 5 %
of the data for it. Where an attack poisons batches in the step, F is taken on the clean set.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnp_jax.checks import check_number
from rnp_jax.defenses.ft_sam import climb
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import is_off
from rnp_jax.training.adaptation import Adaptation, Course, run_twisted
from rnp_jax.training.epoch import Marked
from rnp_jax.training.supervised import Moment, TrainConfig, TrainState, Twist, start
from rnp_jax.types import Apply, Batch, Tree, Variables

_CHUNK = 64  # images whose gradients are held at once


class Anchor(NamedTuple):
    """What the second phase holds on to: θ* and F, zeros until then."""

    params: Tree
    fisher: Tree


@dataclass(frozen=True)
class Sbl(Adaptation):
    """Settings of SBL; the defaults are the release's. --train sets the first phase.

    Attributes:
      rho: radius ρ of SAM; 0 trains without.
      second_epochs: epochs of the second phase; 0 leaves it out (the control: the first phase alone). With rho 0 as
        well, training is plain.
      second_rate: peak learning rate of the second phase, with the schedule of the first.
      ewc_weight: weight λ of the distance from where the first phase ended.
    """

    rho: float = 0.05
    second_epochs: int = 100
    second_rate: float = 0.001
    ewc_weight: float = 1.0

    def __post_init__(self):
        check_number("rho", self.rho, 0)
        check_number("second_epochs", self.second_epochs, 0, 10**6, integer=True)
        check_number("ewc_weight", self.ewc_weight, 0)
        if not self.second_rate > 0:
            raise ConfigError(f"second_rate {self.second_rate}: expected a number above 0")

    def epochs(self, config: TrainConfig) -> int:
        """Of both phases."""
        return config.epochs + self.second_epochs

    def start(
        self, network: Network, variables: Variables, key: jax.Array, config: TrainConfig, count: int
    ) -> TrainState:
        """As plain training, with room for the anchor."""
        nothing = jax.tree.map(jnp.zeros_like, variables["params"])
        memory = Anchor(nothing, nothing) if self.second_epochs else ()
        return super().start(network, variables, key, config, count)._replace(memory=memory)

    def twist(self, network: Network) -> Twist | None:
        """SAM, in the first phase."""
        del network
        return None if is_off(self.rho) else _Flat(self.rho, 0.0)

    def epoch(self, course: Course, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """One epoch of either phase."""
        if int(state.epoch) < course.config.epochs:
            return super().epoch(course, state)
        config = replace(course.config, epochs=self.second_epochs, learning_rate=self.second_rate)
        if int(state.epoch) == course.config.epochs:
            state = _turn(course, state, config)
        clean = Marked(*course.clean, jnp.zeros(len(course.clean.labels), bool))
        second = course._replace(config=config, poison=None, data=clean)
        return run_twisted(second, state, _Flat(self.rho, self.ewc_weight), clean)


def _turn(course: Course, state: TrainState, config: TrainConfig) -> TrainState:
    """The state where the second phase begins."""
    variables = {**course.variables, "params": state.params, "batch_stats": state.batch_stats}
    fisher = estimate_fisher(course.network, variables, Batch(course.data.images, course.data.labels))
    fresh = start(variables, state.key, config, len(course.clean.labels))
    return fresh._replace(epoch=state.epoch, memory=Anchor(state.params, fisher))


@dataclass(frozen=True)
class _Flat:
    rho: float
    ewc_weight: float

    def gradient(self, moment: Moment) -> tuple[Tree, tuple[Tree, dict[str, jax.Array]], Tree]:
        def objective(params: Tree):
            loss, rest = moment.loss(params)
            if not is_off(self.ewc_weight):
                loss += self.ewc_weight * distance(params, moment.memory)
            return loss, rest

        gradient, rest = jax.grad(objective, has_aux=True)(moment.params)
        if is_off(self.rho):
            return gradient, rest, moment.memory
        step = climb(moment.params, gradient, self.rho, adaptive=False)
        gradient, _ = jax.grad(objective, has_aux=True)(jax.tree.map(jnp.add, moment.params, step))
        return gradient, rest, moment.memory


def distance(params: Tree, anchor: Anchor) -> jax.Array:
    """Σ_i F_i (θ_i − θ*_i)²."""
    parts = jax.tree.map(lambda here, there, weight: (weight * jnp.square(here - there)).sum(), params, *anchor)
    return jnp.stack(jax.tree.leaves(parts)).sum()


def estimate_fisher(apply: Apply, variables: Variables, data: Batch) -> Tree:
    """F: the mean over the images of p(y|x) times the squared gradient of log p(y|x), in evaluation mode."""
    count = len(data.labels)
    size = min(_CHUNK, count)
    sums = jax.tree.map(jnp.zeros_like, variables["params"])
    for begin in range(0, count, size):
        index = jnp.arange(begin, begin + size)
        weights = (index < count).astype(jnp.float32)  # the last chunk is filled up, so that all share one program
        chunk = Batch(data.images[index % count], data.labels[index % count])
        sums = jax.tree.map(jnp.add, sums, _square_gradients(apply, variables, chunk, weights))
    return jax.tree.map(lambda total: total / count, sums)


def _squares(apply: Apply, variables: Variables, chunk: Batch, weights: jax.Array) -> Tree:
    def log_likelihood(params: Tree, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, _ = apply({**variables, "params": params}, image[None])
        found = jax.nn.log_softmax(logits)[0, label]
        return found, found

    each = jax.vmap(jax.grad(log_likelihood, has_aux=True), (None, 0, 0))
    slopes, logs = each(variables["params"], chunk.images, chunk.labels)
    shares = weights * jnp.exp(logs)
    return jax.tree.map(lambda slope: jnp.tensordot(shares, jnp.square(slope), 1), slopes)


_square_gradients = jax.jit(_squares, static_argnums=0)
