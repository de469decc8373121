"""MixMatch: training on labelled and unlabelled images together (Berthelot et al., NeurIPS 2019).

One compiled program an epoch, data on the device throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.traced import jit_settings, structural
from rnp_jax.training.epoch import Augment
from rnp_jax.training.loop import run_epochs
from rnp_jax.training.supervised import make_sgd
from rnp_jax.types import Apply, Batch, Progress, Tree, Variables

METRICS = ("loss", "accuracy", "labelled_loss", "unlabelled_loss")


@dataclass(frozen=True)
class MixMatchConfig:
    """Settings of MixMatch.

    Attributes:
      epochs: number of epochs, by default passes over the larger of the two sets; the smaller one is repeated.
      batch_size: labelled images per step, and as many unlabelled ones.
      learning_rate: initial learning rate of SGD, which falls to zero along a cosine; Adam's stays as it is.
      momentum: momentum of SGD.
      weight_decay: weight decay, added to the gradient as in torch's SGD; Adam has none.
      temperature: temperature T of sharpening.
      beta: parameter of the distribution Beta(beta, beta) from which MixUp draws λ.
      lambda_u: weight of the unlabelled loss after its rise.
      ramp_epochs: number of epochs over which that weight rises linearly from 0.
      num_augmentations: augmentations of each unlabelled image whose predictions give its guessed label.
      ema_decay: decay per step of the averaged weights that are returned; 0 returns the weights themselves.
      optimizer: the optimiser, sgd or adam.
      iterations: number of steps per epoch; 0 makes an epoch a pass over the larger set.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    temperature: float = structural(0.5)
    beta: float = 0.75
    lambda_u: float = 15.0
    ramp_epochs: float = 5.0
    num_augmentations: int = 2
    ema_decay: float = 0.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    iterations: int = 0

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0 or self.num_augmentations < 1:
            raise ConfigError(
                f"{self}: expected epochs >= 1, batch_size >= 2, learning_rate > 0 and num_augmentations >= 1"
            )
        if self.temperature <= 0 or self.beta <= 0 or self.lambda_u < 0 or self.ramp_epochs <= 0:
            raise ConfigError(f"{self}: expected temperature, beta and ramp_epochs above 0, and lambda_u of 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay is {self.ema_decay}; give 0 for none, or a share below 1 such as 0.999")
        if self.optimizer not in ("sgd", "adam") or self.iterations < 0:
            raise ConfigError(
                f"optimizer {self.optimizer!r}, iterations {self.iterations}: expected sgd or adam, and 0 or more"
            )

    def count_steps(self, labelled: int, unlabelled: int) -> int:
        """Steps of an epoch over so many images."""
        return self.iterations or -(-max(labelled, unlabelled) // self.batch_size)

    def make_optimizer(self, steps: int) -> optax.GradientTransformation:
        """The optimiser over ``steps`` steps of an epoch."""
        if self.optimizer == "adam":
            return optax.adam(self.learning_rate)
        return make_sgd(self.learning_rate, self.momentum, self.weight_decay, self.epochs * steps)


class MixMatchState(NamedTuple):
    """What an epoch changes."""

    params: Tree
    average: Tree  # of ``params`` over the steps
    batch_stats: Tree
    opt_state: optax.OptState
    epoch: jax.Array  # int32 []
    key: jax.Array


def sharpen(probabilities: Float[Array, "B K"], temperature: float) -> Float[Array, "B K"]:
    """p^(1/T), normalised (eq. 7)."""
    powers = (probabilities / probabilities.max(-1, keepdims=True)) ** (1 / temperature)
    return powers / powers.sum(-1, keepdims=True)


def mix_up(
    first: Float[Array, "B ..."], second: Float[Array, "B ..."], weight: Float[Array, "B"]
) -> Float[Array, "B ..."]:
    """weight·first + (1 − weight)·second, one weight each (eqs. 10 and 11)."""
    weight = weight.reshape(-1, *[1] * (first.ndim - 1))
    return weight * first + (1 - weight) * second


def mixmatch_losses(
    logits: Float[Array, "B_plus_U K"], targets: Float[Array, "B_plus_U K"], labelled: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy of the first ``labelled`` rows (eq. 3), mean squared error of the others (eq. 4)."""
    cross_entropy = optax.softmax_cross_entropy(logits[:labelled], targets[:labelled]).mean()
    difference = jax.nn.softmax(logits[labelled:]) - targets[labelled:]
    return cross_entropy, jnp.square(difference).mean()


def mixmatch(
    apply: Apply,
    variables: Variables,
    labelled: Batch,
    unlabelled: UInt8[np.ndarray, "U H W C"],
    key: jax.Array,
    config: MixMatchConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
    state: MixMatchState | None = None,
    save: Callable[[MixMatchState], None] | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """Trains from ``variables`` on ``labelled`` (uint8 [N, H, W, C], int32 [N]) and ``unlabelled`` images.

    Labels are guessed in training mode without moving batch statistics; one forward pass then holds all mixed images,
    so that batch norm sees one batch instead of the released code's interleaved ones. ``state`` continues an earlier
    run of the same settings, ``save`` receives the state after each epoch, and ``progress`` is told of each as one of
    ``mixmatch``.

    Returns:
      The trained variables, and loss, labelled and unlabelled loss, and accuracy on mixed labelled images (against
      the label that outweighs) [E] of the epochs run here.

    Raises:
      ConfigError: no labelled or no unlabelled images.
    """
    if len(labelled.labels) == 0 or len(unlabelled) == 0:
        raise ConfigError(
            f"{len(labelled.labels)} labelled and {len(unlabelled)} unlabelled images: MixMatch needs some of each; "
            "without unlabelled ones, train supervised"
        )
    counts = len(labelled.labels), len(unlabelled)
    sets = Batch(*jax.device_put(tuple(labelled))), jax.device_put(unlabelled)
    reached, history = run_epochs(
        "mixmatch",
        config.epochs,
        lambda: start(variables, key, config, *counts),
        lambda state: mixmatch_epoch(apply, config, augment, state, variables["masks"], *sets),
        progress=progress,
        state=state,
        save=save,
        figures=METRICS,
    )
    return {**variables, "params": reached.average, "batch_stats": reached.batch_stats}, history


def start(
    variables: Variables, key: jax.Array, config: MixMatchConfig, labelled: int, unlabelled: int
) -> MixMatchState:
    """The state before the first epoch over so many images."""
    params = variables["params"]
    opt_state, epoch = _begin(config, config.count_steps(labelled, unlabelled), params)
    return MixMatchState(params, params, variables["batch_stats"], opt_state, epoch, key)


@jit_settings(1, static=1)
def _begin(config: MixMatchConfig, steps: int, params: Tree) -> tuple[optax.OptState, jax.Array]:
    return config.make_optimizer(steps).init(params), jnp.int32(0)


@jit_settings(3)
def mixmatch_epoch(
    apply: Apply,
    config: MixMatchConfig,
    augment: Augment | None,
    state: MixMatchState,
    masks: Tree,
    labelled: Batch,
    unlabelled: jax.Array,
) -> tuple[MixMatchState, dict[str, jax.Array]]:
    """One epoch: the state after it, and the mean of each of ``METRICS``. Sets of one size share a program."""
    sizes = labelled.labels.shape[0], unlabelled.shape[0]
    steps, size = config.count_steps(*sizes), config.batch_size
    tx = config.make_optimizer(steps)

    def loss_of(params: Tree, batch_stats: Tree, images: jax.Array, targets: jax.Array, ramp: jax.Array):
        logits, moved = apply({"params": params, "batch_stats": batch_stats, "masks": masks}, images, train=True)
        first, second = mixmatch_losses(logits, targets, size)
        loss = first + config.lambda_u * ramp * second
        accuracy = (logits[:size].argmax(-1) == targets[:size].argmax(-1)).astype(jnp.float32).mean()
        return loss, (moved, dict(zip(METRICS, (loss, accuracy, first, second), strict=True)))

    def step(carry, inputs):
        params, average, batch_stats, opt_state = carry
        (known, unknown), number, key = inputs
        variables = {"params": params, "batch_stats": batch_stats, "masks": masks}
        batch = Batch(labelled.images[known], labelled.labels[known])
        images, targets = _mixed(apply, config, augment, variables, batch, unlabelled[unknown], key)
        ramp = jnp.minimum((state.epoch.astype(jnp.float32) + number / steps) / config.ramp_epochs, 1)
        gradient, (batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(params, batch_stats, images, targets, ramp)
        params, opt_state = descend(tx, gradient, opt_state, params)
        average = jax.tree.map(lambda old, new: config.ema_decay * old + (1 - config.ema_decay) * new, average, params)
        return (params, average, batch_stats, opt_state), metrics

    *order_keys, step_key = jax.random.split(jax.random.fold_in(state.key, state.epoch), 3)
    orders = [
        jnp.resize(jax.random.permutation(key, count), (steps, size))
        for key, count in zip(order_keys, sizes, strict=True)
    ]
    inputs = (orders, jnp.arange(steps, dtype=jnp.float32), jax.random.split(step_key, steps))
    carry, metrics = jax.lax.scan(step, (state.params, state.average, state.batch_stats, state.opt_state), inputs)
    return MixMatchState(*carry, state.epoch + 1, state.key), jax.tree.map(lambda rows: rows.mean(0), metrics)


def _mixed(
    apply: Apply,
    config: MixMatchConfig,
    augment: Augment | None,
    variables: Variables,
    labelled: Batch,
    unlabelled: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Images and soft labels to train on, those mixed mostly of labelled images first (algorithm 1)."""
    augment_key, order_key, weight_key = jax.random.split(key, 3)
    size, times = unlabelled.shape[0], config.num_augmentations
    images = jnp.concatenate([labelled.images, *[unlabelled] * times])
    images = images if augment is None else augment(augment_key, images)
    images = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
    logits, _ = apply(variables, images[size:], train=True)
    guessed = sharpen(jax.nn.softmax(logits).reshape(times, size, -1).mean(0), config.temperature)
    known = jax.nn.one_hot(labelled.labels, guessed.shape[-1])
    targets = jax.lax.stop_gradient(jnp.concatenate([known, *[guessed] * times]))
    order = jax.random.permutation(order_key, len(images))
    weight = jax.random.beta(weight_key, config.beta, config.beta, (len(images),))
    weight = jnp.maximum(weight, 1 - weight)
    return mix_up(images, images[order], weight), mix_up(targets, targets[order], weight)
