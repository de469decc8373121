"""Activeness-aware fine-tuning, TSBD's last stage: the loss is to stay low where its gradient points (NeurIPS 2024).

    g = (1 − α) g₁ + α g₂,    g₁ = ∇L(θ),    g₂ = ∇L(θ + r g₁ / ‖g₁‖), the norm taken for each tensor

To first order this is the gradient of L + α r Σ ‖g₁‖ over tensors. As TSBD's release does: both gradients are those of
one batch, SGD has a constant rate, and the running statistics of batch norm come from a third pass, after the step. A
tensor whose gradient is zero is not moved for g₂, where the release divides by zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy, run_epoch
from rnp_jax.training.loop import run_stretches
from rnp_jax.types import Apply, Batch, Progress, Tree, Variables


@dataclass(frozen=True)
class ActiveTuneConfig:
    """Settings of activeness-aware fine-tuning; the defaults are the release's.

    Attributes:
      epochs: number of passes over the clean images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: constant learning rate of SGD.
      momentum: momentum of SGD.
      alpha: weight α of the gradient at the moved weights, in [0, 1].
      radius: distance r by which each tensor is moved.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    epochs: int = 21
    batch_size: int = 256
    learning_rate: float = 0.01
    momentum: float = 0.9
    alpha: float = 0.7
    radius: float = 0.05
    shuffle: bool = True

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2 and learning_rate > 0")
        if not 0 <= self.alpha <= 1 or not self.radius >= 0:
            raise ConfigError(f"{self}: expected alpha in [0, 1] and radius >= 0")


def tune_actively(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: ActiveTuneConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """The variables after all epochs on ``data``, and by epoch loss and accuracy [E], before each step.

    Without ``progress`` the host waits once; with it, for an epoch while the next one runs, by a program an epoch.
    """
    state = _start(config, variables["params"], variables["batch_stats"])
    data = Batch(*jax.device_put(tuple(data)))

    def run(epochs: int, state: _State) -> tuple[_State, dict[str, jax.Array]]:
        return _run(apply, config, augment, epochs, state, variables["masks"], data, key)

    state, history = run_stretches("tsbd", config.epochs, run, state, progress)
    return {**variables, "params": state.params, "batch_stats": state.batch_stats}, history


def mixed_gradient(
    loss: Callable[[Tree], tuple[jax.Array, Any]], params: Tree, alpha: float, radius: float
) -> tuple[Tree, Any]:
    """(1 − α) g₁ + α g₂ of a loss with auxiliary figures, and its figures at ``params``.

    g₁ is the gradient at ``params``, g₂ where each tensor has been moved by ``radius`` along its own g₁.
    """
    first, figures = jax.grad(loss, has_aux=True)(params)

    def move(weights: jax.Array, slope: jax.Array) -> jax.Array:
        norm = jnp.linalg.norm(slope.ravel())
        return weights + radius * slope / jnp.where(norm > 0, norm, 1)

    second, _ = jax.grad(loss, has_aux=True)(jax.tree.map(move, params, first))
    return jax.tree.map(lambda one, other: (1 - alpha) * one + alpha * other, first, second), figures


class _State(NamedTuple):
    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    epoch: jax.Array  # int32 []


@jit_settings()
def _start(config: ActiveTuneConfig, params: Tree, batch_stats: Tree) -> _State:
    return _State(params, batch_stats, _optimizer(config).init(params), jnp.int32(0))


def _optimizer(config: ActiveTuneConfig) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, momentum=config.momentum)


@jit_settings(3, static=1)
def _run(
    apply: Apply,
    config: ActiveTuneConfig,
    augment: Augment | None,
    epochs: int,
    state: _State,
    fixed: Tree,
    data: Batch,
    key: jax.Array,
) -> tuple[_State, dict[str, jax.Array]]:
    def step(carry: tuple, batch: Batch, key: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        params, stats, opt_state = carry
        images = batch.images if augment is None else augment(key, batch.images)

        def run(params: Tree) -> tuple[jax.Array, Tree]:
            return apply({"params": params, "batch_stats": stats, "masks": fixed}, images, train=True)

        def loss(params: Tree) -> tuple[jax.Array, dict[str, jax.Array]]:
            logits, _ = run(params)
            return cross_entropy(logits, batch.labels).mean(), batch_metrics(logits, batch.labels)

        gradient, metrics = mixed_gradient(loss, params, config.alpha, config.radius)
        params, opt_state = descend(_optimizer(config), gradient, opt_state, params)
        return (params, run(params)[1], opt_state), metrics

    def epoch(state: _State, _: None) -> tuple[_State, dict[str, jax.Array]]:
        carry, metrics = run_epoch(
            step, state[:3], data, jax.random.fold_in(key, state.epoch), batch_size=config.batch_size,
            shuffle=config.shuffle,
        )  # fmt: skip
        return _State(*carry, state.epoch + 1), metrics

    return jax.lax.scan(epoch, state, None, length=epochs)
