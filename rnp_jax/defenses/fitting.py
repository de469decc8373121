"""Training on a set that nobody trusts: the descent that the defenses of the training set share.

SGD with coupled weight decay and batch norm in training mode, whose learning rate falls to a tenth at given epochs.
Each method decides what becomes of the cross-entropies of a batch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rnp_jax.defenses.method import Task
from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended
from rnp_jax.defenses.tuning import tune
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy
from rnp_jax.types import Apply, Batch, Tree, Variables


@dataclass(frozen=True)
class FitConfig:
    """Settings of one phase of training.

    Attributes:
      epochs: number of passes over the images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: learning rate of SGD in the first epoch.
      milestones: epochs (from 0) at which the learning rate falls to a tenth.
      momentum: momentum of SGD.
      nesterov: use Nesterov momentum, as in torch's SGD.
      weight_decay: weight decay, added to the gradient before momentum.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    milestones: tuple[int, ...] = ()
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2 and learning_rate > 0")

    def make_optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """SGD whose learning rate depends on the epoch that a step is of."""
        falls = jnp.asarray([epoch * steps_per_epoch for epoch in self.milestones], jnp.int32)

        def rate(step: ArrayLike) -> jax.Array:
            return self.learning_rate * 0.1 ** (jnp.asarray(step) >= falls).sum().astype(jnp.float32)

        sgd = optax.sgd(rate, momentum=self.momentum, nesterov=self.nesterov)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), sgd)


@dataclass(frozen=True)
class Fitting(Phase):
    """Training of all weights; its fixed tree holds ``masks``, and what ``combine`` reads beside them."""

    config: FitConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """As the settings say."""
        return self.config.make_optimizer(steps_per_epoch)

    def combine(self, losses: Float[Array, "B"], fixed: Tree, batch: Batch) -> jax.Array:
        """What is minimised, of the cross-entropies of a batch's images: their mean."""
        del fixed, batch
        return losses.mean()

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        """What ``combine`` makes of the batch; the loss that is noted is the cross-entropy."""
        variables = {"params": trained, "batch_stats": batch_stats, "masks": fixed["masks"]}
        logits, moved = self.apply(variables, batch.images, train=True)
        objective = self.combine(cross_entropy(logits, batch.labels), fixed, batch)
        return objective, (moved, batch_metrics(logits, batch.labels))


def start_fitting(name: str, apply: Apply, config: FitConfig, augment: Augment | None = None) -> Fitting:
    """Ordinary training. Equal phases share compiled programs."""
    return Fitting(name, apply, config.epochs, config.batch_size, True, augment, config)


def fit(
    task: Task, phase: Fitting, start: Variables, key: jax.Array, data: Batch | None = None, **read: Tree
) -> Variables:
    """Runs a phase from ``start`` on the task's images, or on ``data``; ``read`` is what ``combine`` reads.

    Raises:
      DefenseError: its loss became infinite or not a number.
    """
    return tune(task, phase, start, {"masks": start["masks"], **read}, key, data)


def start_weights(task: Task, key: jax.Array) -> Variables:
    """The weights that a new network starts from: those that are given, or fresh ones."""
    return task.network.init(key) if task.variables is None else task.variables


def check_set(data: Batch, num_classes: int) -> None:
    """Requires images with labels of the network.

    Raises:
      DataError: there are none, or some have no label of it.
    """
    count, labels = len(data.images), np.asarray(data.labels)
    if labels.shape != (count,) or count == 0 or labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"{count} images with labels of shape {labels.shape}: expected one or more images, with labels from 0 "
            f"to {num_classes - 1}"
        )


def check_batches(count: int, images: str, phases: dict[str, FitConfig]) -> None:
    """Requires that no batch of these phases has a single image, over which batch norm has no variance.

    Args:
      count: how many images there are.
      images: what they are, in words.
      phases: settings by the name of their option.

    Raises:
      ConfigError: one of them has.
    """
    for name, config in phases.items():
        if count % config.batch_size == 1 or count < 2:
            raise ConfigError(
                f"{name}.batch_size {config.batch_size} leaves one of the {count} {images} in a batch of its own, over "
                "which batch norm has no variance: choose another batch size, or other shares"
            )


def conclude_anew(task: Task, variables: Variables, rule: str, **found: object) -> Defended:
    """A new network of the task's architecture, with what is known of the images (fields of ``Defended``)."""
    choice = Choice(rule=rule, pruned=0)
    return Defended(variables, {}, "weights", NO_CANDIDATES, choice, network=task.network, **found)  # pyright: ignore[reportArgumentType]
