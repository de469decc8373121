"""Fine-tuning: ordinary training of all weights on the clean images, the filter masks fixed."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rnp_jax.defenses.phase import Phase, Progress, check_finite, run_phase
from rnp_jax.errors import ConfigError
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy
from rnp_jax.types import Apply, Batch, Tree, Variables


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of fine-tuning.

    Attributes:
      epochs: number of passes over the clean images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: learning rate of SGD in the first epoch.
      momentum: momentum of SGD.
      weight_decay: weight decay, added to the gradient before momentum.
      schedule: schedule of the learning rate: ``constant``, or ``cosine`` down to zero, one step per epoch.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    shuffle: bool = True

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2 and learning_rate > 0")


@dataclass(frozen=True)
class _Finetuning(Phase):
    config: FinetuneConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config

        def rate(step: ArrayLike) -> jax.Array:
            if config.schedule == "constant":
                return jnp.float32(config.learning_rate)
            epoch = (jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)
            return config.learning_rate / 2 * (1 + jnp.cos(jnp.pi * epoch / config.epochs))

        return optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(rate, momentum=config.momentum))

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = {"params": trained, "batch_stats": batch_stats, "masks": fixed}
        logits, moved = self.apply(variables, batch.images, train=True)
        return cross_entropy(logits, batch.labels).mean(), (moved, batch_metrics(logits, batch.labels))


@dataclass(frozen=True)
class PenalizedTuning(Phase):
    """Fine-tuning with a penalty on the last layer; its fixed tree holds ``masks`` and what the penalty reads.

    Attributes:
      tuning: the phase of fine-tuning that the penalty is added to.
      head: name of the last linear layer.
      alpha: weight of the penalty.
    """

    tuning: Phase
    head: str
    alpha: float

    @abstractmethod
    def penalty(self, kernel: Float[Array, "D K"], fixed: Tree) -> jax.Array:
        """What ``alpha`` weighs, of the last layer's kernel."""

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """That of fine-tuning."""
        return self.tuning.optimizer(steps_per_epoch)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        """That of fine-tuning with the penalty added, whose mean over the batch is noted."""
        loss, (moved, metrics) = self.tuning.loss(trained, fixed["masks"], batch_stats, batch)
        loss += self.alpha * self.penalty(trained[self.head]["kernel"], fixed)
        return loss, (moved, {**metrics, "loss": batch.labels.shape[0] * loss})

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        """That of fine-tuning."""
        return self.tuning.update(trained, updates, fixed["masks"])


def start_finetuning(apply: Apply, config: FinetuneConfig, augment: Augment | None = None) -> Phase:
    """The phase of ``finetune``, for those who run it themselves. Equal ones share compiled programs."""
    return _Finetuning("finetune", apply, config.epochs, config.batch_size, config.shuffle, augment, config)


def finetune(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: FinetuneConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """Tunes all weights on ``data`` (uint8 [N, H, W, C], int32 [N]), batch norm in training mode.

    Returns:
      The tuned variables, and loss and accuracy [E] in training mode.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    phase = start_finetuning(apply, config, augment)
    params, batch_stats, history, _ = run_phase(
        phase, variables["params"], variables["masks"], variables["batch_stats"], data, key, progress
    )
    check_finite("fine-tuning", history)
    return {**variables, "params": params, "batch_stats": batch_stats}, history
