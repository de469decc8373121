"""Supervised training of a classifier: one compiled program an epoch, data on the device throughout."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, Rows, batch_metrics, check_batch, cross_entropy, run_epoch
from rnp_jax.training.loop import run_epochs
from rnp_jax.types import Apply, Batch, Progress, Tree, Variables


@dataclass(frozen=True)
class TrainConfig:
    """Settings of supervised training.

    Attributes:
      epochs: number of passes over the training set.
      batch_size: images per step; images that do not fill a last batch wait for the next epoch's shuffle.
      learning_rate: peak learning rate of SGD.
      momentum: momentum of SGD.
      weight_decay: weight decay, added to the gradient as in torch's SGD.
      schedule: schedule of the learning rate: ``cosine`` to zero, or ``one_cycle``, a linear rise over the first 30 %
        and then a cosine to zero.
      nesterov: use Nesterov momentum, as in torch's SGD.
      label_smoothing: share of each label that is spread over all classes, from 0 to 1; reported figures use
        the original labels.
    """

    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    nesterov: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2 and learning_rate > 0")
        if not 0 <= self.label_smoothing <= 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}, expected 0 (none) to 1")


class PoisonBatch(Protocol):
    """Poisons a batch inside the training step, for attacks that train with the victim. Pure and hashable."""

    def __call__(self, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images and labels to train on."""
        ...

    def __hash__(self) -> int: ...


class TrainState(NamedTuple):
    """What an epoch changes."""

    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    epoch: jax.Array  # int32 []
    key: jax.Array
    memory: Any = ()  # of a twist


class Moment(NamedTuple):
    """Where a step of training stands when it needs a gradient.

    Attributes:
      loss: of parameters: the mean cross-entropy of ``batch`` in training mode, with (moved statistics, metrics).
      params: the current ones.
      batch_stats: the current ones.
      masks: the network's.
      batch: what is trained on, poisoned and augmented, with marks where the set has them.
      clean: the whole clean training set, where the twist was given it.
      smoothing: share of each label that the loss spreads over all classes.
      memory: what the twist keeps from step to step.
      key: for what is drawn.
    """

    loss: Callable[[Tree], tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]]
    params: Tree
    batch_stats: Tree
    masks: Tree
    batch: Any
    clean: Any
    smoothing: float
    memory: Any
    key: jax.Array


class Twist(Protocol):
    """Takes another gradient than that of the loss. A frozen dataclass: one program serves all values of its floats."""

    def gradient(self, moment: Moment) -> tuple[Tree, tuple[Tree, dict[str, jax.Array]], Any]:
        """The gradient to descend, (moved statistics, metrics summed over the batch), and the memory."""
        ...

    def __hash__(self) -> int: ...


def optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """SGD with coupled weight decay and the schedule over ``steps`` steps."""
    return make_sgd(
        config.learning_rate, config.momentum, config.weight_decay, steps, config.schedule, nesterov=config.nesterov
    )


def make_sgd(
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    steps: int,
    schedule: Literal["cosine", "one_cycle"] = "cosine",
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """``optimizer``, of the settings of ``TrainConfig`` by themselves; the numbers may be traced."""
    if schedule == "cosine":
        shape = optax.cosine_decay_schedule(1.0, steps)
    else:
        rise = max(1, int(0.3 * steps))
        shape = optax.warmup_cosine_decay_schedule(1 / 25, 1.0, rise, max(steps, rise + 1))

    def rate(step: ArrayLike) -> jax.Array:
        return learning_rate * jnp.asarray(shape(jnp.asarray(step, jnp.float32)))

    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum, nesterov))


def train(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: TrainConfig,
    *,
    augment: Augment | None = None,
    poison: PoisonBatch | None = None,
    phase: str = "train",
    progress: Progress | None = None,
    state: TrainState | None = None,
    save: Callable[[TrainState], None] | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """Trains on ``data`` (uint8 [N, H, W, C], int32 [N]) from ``variables``.

    Order within a step: poison, augment, normalise (part of ``apply``). ``state`` continues an earlier run of the same
    settings, ``save`` receives the state after each epoch, and ``progress`` is told of each as one of ``phase``.

    Returns:
      The trained variables, and loss and accuracy [E] in training mode of the epochs run here.

    Raises:
      ConfigError: fewer images than one batch.
    """
    count = len(data.labels)
    check_batch(count, config.batch_size)
    data = Batch(*jax.device_put(tuple(data)))
    reached, history = run_epochs(
        phase,
        config.epochs,
        lambda: start(variables, key, config, count),
        lambda state: train_epoch(apply, config, None, augment, poison, state, variables["masks"], data),
        progress=progress,
        state=state,
        save=save,
        figures=("loss", "accuracy"),
    )
    return {**variables, "params": reached.params, "batch_stats": reached.batch_stats}, history


def start(variables: Variables, key: jax.Array, config: TrainConfig, count: int) -> TrainState:
    """The state before the first epoch over ``count`` images."""
    params = variables["params"]
    opt_state, epoch = _begin(config, config.epochs * (count // config.batch_size), params)
    return TrainState(params, variables["batch_stats"], opt_state, epoch, key)


@jit_settings(1, static=1)
def _begin(config: TrainConfig, steps: int, params: Tree) -> tuple[optax.OptState, jax.Array]:
    return optimizer(config, steps).init(params), jnp.int32(0)


@jit_settings(3, static=2)
def train_epoch(
    apply: Apply,
    config: TrainConfig,
    twist: Twist | None,
    augment: Augment | None,
    poison: PoisonBatch | None,
    state: TrainState,
    masks: Tree,
    data: Rows,
    clean: Any = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One epoch over the whole set: the state after it, and the mean loss and accuracy in training mode.

    With a ``twist`` its steps follow that one's gradient; ``clean`` is what it reads besides the batch.
    """
    tx = optimizer(config, config.epochs * (data.labels.shape[0] // config.batch_size))

    def loss_of(params: Tree, batch_stats: Tree, batch: Rows):
        variables = {"params": params, "batch_stats": batch_stats, "masks": masks}
        logits, moved = apply(variables, batch.images, train=True)
        loss = cross_entropy(logits, batch.labels, config.label_smoothing).mean()
        return loss, (moved, batch_metrics(logits, batch.labels))

    def step(carry, batch: Any, key: jax.Array):
        params, batch_stats, opt_state, memory = carry
        poison_key, augment_key = jax.random.split(key)
        images, labels = batch.images, batch.labels
        images, labels = (images, labels) if poison is None else poison(images, labels, poison_key)
        batch = batch._replace(images=images if augment is None else augment(augment_key, images), labels=labels)
        if twist is None:
            gradient, (batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(params, batch_stats, batch)
        else:
            loss = partial(loss_of, batch_stats=batch_stats, batch=batch)
            given = (batch, clean, config.label_smoothing, memory, jax.random.fold_in(key, 1))
            moment = Moment(loss, params, batch_stats, masks, *given)
            gradient, (batch_stats, metrics), memory = twist.gradient(moment)
        params, opt_state = descend(tx, gradient, opt_state, params)
        return (params, batch_stats, opt_state, memory), metrics

    carry = (state.params, state.batch_stats, state.opt_state, state.memory)
    key = jax.random.fold_in(state.key, state.epoch)
    carry, metrics = run_epoch(step, carry, data, key, batch_size=config.batch_size, remainder=False)
    params, batch_stats, opt_state, memory = carry
    return TrainState(params, batch_stats, opt_state, state.epoch + 1, state.key, memory), metrics
