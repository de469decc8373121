"""Training that knows that the defender will unlearn: against RNP, TSBD and ULRL.

In every step k steps of gradient ascent on a clean batch give θ′, what the defender's first step would make of θ, and
the victim then descends along

    CE(θ) + μ · P(θ, θ′)

whose gradient goes through the ascent. P is one of three:

- ``filters``, against TSBD: Var_k(c_k) / mean_k(c_k)², where c_k = Σ_j |θ′_kj − θ_kj| is the change of a filter k among
  those of all layers, without shortcuts. Nothing stands out in the ranking.
- ``head``, against ULRL: the same of the rows of the last layer.
- ``forget``, against RNP: relu(CE(clean; θ′) − CE(poisoned; θ′)), the second over the poisoned images of the batch. RNP
  lives on a backdoor that outlasts the clean task. This is 0 once the poisoned images are forgotten as much.

Not published: this project's, as an adaptive attacker would do. Variances are over squared means because the changes
shrink with the clean loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.checks import check_choice, check_number
from rnp_jax.defenses.kernels import filter_kernels, is_shortcut
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import is_off
from rnp_jax.training.adaptation import Adaptation, Course, check_marks
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.supervised import Moment, TrainState, Twist
from rnp_jax.types import Batch, Tree


@dataclass(frozen=True)
class UnlearnAware(Adaptation):
    """Settings of the penalty.

    Attributes:
      weight: weight μ of the penalty; 0 trains plainly (the control).
      hides: what looks alike after unlearning: ``filters`` (against TSBD); ``head``, the rows of the last layer
        (against ULRL); or ``forget``, the losses of poisoned and clean images (against RNP).
      steps: number k of steps of gradient ascent.
      learning_rate: learning rate of the ascent, which has no momentum.
      batch_size: number of clean images in the ascent, drawn anew in each step.
    """

    weight: float = 1.0
    hides: Literal["filters", "head", "forget"] = "forget"
    steps: int = 2
    learning_rate: float = 0.01
    batch_size: int = 64

    def __post_init__(self):
        check_number("weight", self.weight, 0)
        check_choice("hides", self.hides, ("filters", "head", "forget"))
        check_number("steps", self.steps, 1, 100, integer=True)
        check_number("batch_size", self.batch_size, 2, integer=True)
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate {self.learning_rate}: expected a number above 0")

    def epoch(self, course: Course, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """An epoch with the penalty; the figure ``penalty`` is without its weight.

        Raises:
          ConfigError: fewer clean images than a batch of the ascent; ``forget`` without images poisoned beforehand.
        """
        count = len(course.clean.labels)
        if not is_off(self.weight) and self.batch_size > count:
            raise ConfigError(
                f"--adaptive.unlearn-aware.batch-size {self.batch_size}: expected at most {count}, the number of clean "
                "images"
            )
        if not is_off(self.weight) and self.hides == "forget":
            check_marks(course)
        return super().epoch(course, state)

    def twist(self, network: Network) -> Twist | None:
        """The penalty's gradient on top."""
        return None if is_off(self.weight) else _Foreseeing(network, self)


@dataclass(frozen=True)
class _Foreseeing:
    network: Network
    config: UnlearnAware

    def gradient(self, moment: Moment) -> tuple[Tree, tuple[Tree, dict[str, jax.Array]], Tree]:
        clean = self._draw(moment)

        def clean_loss(params: Tree) -> jax.Array:
            variables = {"params": params, "batch_stats": moment.batch_stats, "masks": moment.masks}
            return cross_entropy(self.network(variables, clean.images, train=True)[0], clean.labels).mean()

        def objective(params: Tree):
            loss, (moved, metrics) = moment.loss(params)
            unlearned = ascend(clean_loss, params, self.config.steps, self.config.learning_rate)
            penalty = self._penalty(moment, clean_loss, params, unlearned)
            metrics = {**metrics, "penalty": penalty * moment.batch.labels.shape[0]}
            return loss + self.config.weight * penalty, (moved, metrics)

        gradient, rest = jax.grad(objective, has_aux=True)(moment.params)
        return gradient, rest, moment.memory

    def _draw(self, moment: Moment) -> Batch:
        """A clean batch, not augmented."""
        size = self.config.batch_size
        index = jax.random.choice(moment.key, moment.clean.labels.shape[0], (size,), replace=False)
        return Batch(moment.clean.images[index], moment.clean.labels[index])

    def _penalty(
        self, moment: Moment, clean_loss: Callable[[Tree], jax.Array], params: Tree, unlearned: Tree
    ) -> jax.Array:
        if self.config.hides == "forget":
            outlasts = jax.nn.relu(clean_loss(unlearned) - self._poisoned_loss(moment, unlearned))
            return jnp.where(moment.batch.marks.any(), outlasts, 0)
        if self.config.hides == "head":
            return spread(changes(params[self.network.head]["kernel"], unlearned[self.network.head]["kernel"]))
        before, after = (
            filter_kernels(self.network, {"params": tree, "masks": moment.masks}) for tree in (params, unlearned)
        )
        names = [name for name in before if not is_shortcut(name)]
        return spread(jnp.concatenate([changes(before[name], after[name]) for name in names]))

    def _poisoned_loss(self, moment: Moment, params: Tree) -> jax.Array:
        """Mean cross-entropy of the batch's poisoned images, normalised with all of the batch."""
        variables = {"params": params, "batch_stats": moment.batch_stats, "masks": moment.masks}
        losses = cross_entropy(self.network(variables, moment.batch.images, train=True)[0], moment.batch.labels)
        marks = moment.batch.marks.astype(jnp.float32)
        return (losses * marks).sum() / jnp.maximum(marks.sum(), 1)


def ascend(loss: Callable[[Tree], jax.Array], params: Tree, steps: int, rate: float | jax.Array) -> Tree:
    """The parameters after steps of gradient ascent; differentiable."""

    def climb(params: Tree, _: None) -> tuple[Tree, None]:
        return jax.tree.map(lambda value, slope: value + rate * slope, params, jax.grad(loss)(params)), None

    return jax.lax.scan(climb, params, None, length=steps)[0]


def changes(before: Float[Array, "... F"], after: Float[Array, "... F"]) -> Float[Array, "F"]:
    """Σ_j |θ′_kj − θ_kj| of each filter or row k, which lies along the last axis."""
    return jnp.abs(after - before).sum(tuple(range(before.ndim - 1)))


def spread(values: Float[Array, "F"]) -> Float[Array, ""]:
    """Variance over squared mean; 0 where the mean is 0."""
    square = jnp.square(values.mean())
    positive = square > 0
    return jnp.where(positive, values.var() / jnp.where(positive, square, 1), 0)
