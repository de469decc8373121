"""RNP step 1, neuron-level unlearning: maximise the clean loss over every parameter (Li et al., ICML 2023, eq. 2).

As the release does: batch norm in training mode, SGD with coupled weight decay, learning rate times 0.1 at epochs 10
and 20, stop once the epoch's running accuracy falls to 0.20. Its gradient clipping has no effect and is left out.
Batch norm frozen, relative steps and the stop by a step's loss are this project's. The last is for few images: an epoch
of five steps is long enough to leave every useful weight behind before its accuracy is looked at.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rnp_jax import masks
from rnp_jax.defenses.phase import Phase, Progress, run_phase
from rnp_jax.errors import ConfigError
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy
from rnp_jax.types import Apply, Batch, Tree, Variables


@dataclass(frozen=True)
class UnlearnConfig:
    """Settings of unlearning; the defaults are the release's.

    Attributes:
      max_epochs: largest number of epochs, if ``stop_accuracy`` is not reached earlier.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: learning rate of SGD, multiplied by 0.1 at each of ``milestones``.
      momentum: momentum of SGD.
      weight_decay: weight decay, added to the gradient before momentum.
      milestones: epochs (from 0) at which the learning rate falls.
      stop_accuracy: running training-mode accuracy of an epoch at or below which unlearning stops.
      stop_loss: loss of a step, in training mode and as a multiple of ln K with K classes, at or above which unlearning
        stops at once; None looks at the epoch's accuracy alone, as the release does.
      shuffle: shuffle the images every epoch; False keeps the given order.
      batch_norm: ``train`` normalises by each batch and updates the running statistics, as the release does; ``frozen``
        normalises by the checkpoint's statistics and leaves them as they are.
      relative: scale each tensor's gradient to the tensor's own norm before decay and momentum (the layer-wise rates of
        LARS, You et al. 2017). ``learning_rate`` is then the share by which the weights move per step, even for a model
        whose loss is near 0. A tensor of zeros does not move.
    """

    max_epochs: int = 21
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = (10, 20)
    stop_accuracy: float = 0.2
    stop_loss: float | None = None
    shuffle: bool = True
    batch_norm: Literal["train", "frozen"] = "train"
    relative: bool = False

    def __post_init__(self):
        if self.batch_norm not in ("train", "frozen"):
            raise ConfigError(f"batch_norm {self.batch_norm!r}: expected train or frozen")
        if self.max_epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0 or not 0 <= self.stop_accuracy < 1:
            raise ConfigError(
                f"{self}: expected max_epochs >= 1, batch_size >= 2, learning_rate > 0 and stop_accuracy in [0, 1)"
            )
        if self.stop_loss is not None and not self.stop_loss > 0:
            raise ConfigError(f"stop_loss {self.stop_loss}: expected a number above 0, or none")


@dataclass(frozen=True)
class Unlearned:
    """The unlearned model.

    Attributes:
      variables: with moved batch statistics.
      history: loss and accuracy [E], in training mode, each the mean over an epoch's steps.
      reached: whether the stop accuracy or the stop loss was reached.
    """

    variables: Variables
    history: dict[str, np.ndarray]
    reached: bool


@dataclass(frozen=True)
class _Unlearning(Phase):
    config: UnlearnConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config
        falls = jnp.asarray([epoch * steps_per_epoch for epoch in config.milestones], jnp.int32)

        def rate(step: ArrayLike) -> jax.Array:
            return config.learning_rate * 0.1 ** (jnp.asarray(step) >= falls).sum().astype(jnp.float32)

        steps = [optax.add_decayed_weights(config.weight_decay), optax.sgd(rate, momentum=config.momentum)]
        return optax.chain(optax.stateless(_scale_to_norms), *steps) if config.relative else optax.chain(*steps)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = {"params": trained, "batch_stats": batch_stats, "masks": fixed}
        logits, moved = self.apply(variables, batch.images, train=self.config.batch_norm == "train")
        metrics = batch_metrics(logits, batch.labels)
        metrics["chance"] = metrics["loss"] / jnp.log(logits.shape[-1])
        return -cross_entropy(logits, batch.labels).mean(), (moved, metrics)

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        gated = jax.tree.map(jnp.multiply, updates, masks.neuron_gate(updates, fixed))
        return jax.tree.map(jnp.add, trained, gated)

    def halts(self, metrics: dict[str, jax.Array]) -> jax.Array | None:
        return None if self.config.stop_loss is None else metrics["chance"] >= self.config.stop_loss

    def stops(self, metrics: dict[str, jax.Array]) -> jax.Array:
        return (metrics["accuracy"] <= self.config.stop_accuracy) | super().stops(metrics)


def _scale_to_norms(gradient: optax.Updates, params: optax.Params | None) -> optax.Updates:
    def scale(slope: jax.Array, weights: jax.Array) -> jax.Array:
        norm = jnp.linalg.norm(slope.ravel())
        return slope * jnp.where(norm > 0, jnp.linalg.norm(weights.ravel()) / jnp.where(norm > 0, norm, 1), 0)

    return jax.tree.map(scale, gradient, params)


def start_unlearning(apply: Apply, config: UnlearnConfig, augment: Augment | None = None) -> Phase:
    """The phase of ``unlearn``, for those who run its steps themselves. Equal ones share compiled programs."""
    return _Unlearning("unlearn", apply, config.max_epochs, config.batch_size, config.shuffle, augment, config)


def unlearn(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: UnlearnConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> Unlearned:
    """Unlearns ``data`` (uint8 [N, H, W, C], int32 [N]); neurons whose ``neuron`` mask is 0 do not move."""
    phase = start_unlearning(apply, config, augment)
    params, batch_stats, history, reached = run_phase(
        phase, variables["params"], variables["masks"], variables["batch_stats"], data, key, progress
    )
    return Unlearned({**variables, "params": params, "batch_stats": batch_stats}, history, reached)
