"""FT-SAM: fine-tuning that minimises the loss and its sharpness (Zhu et al., ICCV 2023, eq. 4).

    min over w of  max over ‖T_w⁻¹ ε‖₂ ≤ ρ  of  L(w + ε),    T_w = diag(|w|)

The adaptive neighbourhood reaches far along large weights, which backdoors have (section 3.2). Its maximiser to first
order is ε = ρ T_w² g / ‖T_w g‖ with g = ∇L(w), and SGD then steps along ∇L(w + ε).

As the release does (BackdoorBench): every parameter is perturbed, batch norm's too; both passes normalise by the batch,
and the first alone moves the running statistics; labels are smoothed; and a cosine schedule of 100 epochs advances once
a batch, so that the learning rate swings between its peak and zero for as long as training goes on.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.errors import ConfigError
from rnp_jax.training.epoch import batch_metrics
from rnp_jax.types import Batch, Tree


@dataclass(frozen=True)
class FtSamConfig:
    """Settings of FT-SAM; the defaults are the release's.

    Attributes:
      epochs: number of passes over the clean images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: peak learning rate of SGD.
      swing: number of steps in which the learning rate falls to zero along a cosine; it rises again over as many steps,
        and so on. None: it falls once, over all steps.
      momentum: momentum of SGD.
      weight_decay: weight decay, added to the gradient before momentum.
      rho: radius of the neighbourhood.
      adaptive: measure the radius relative to the weights.
      label_smoothing: share of each label that is spread evenly over the other classes.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 0.01
    swing: int | None = 100
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rho: float = 2.0
    adaptive: bool = True
    label_smoothing: float = 0.1
    shuffle: bool = True

    def __post_init__(self):
        counts = min(self.epochs, 1 if self.swing is None else self.swing)
        if counts < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected epochs and swing >= 1, batch_size >= 2 and learning_rate > 0")
        if not self.rho >= 0 or not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"{self}: expected rho >= 0 and label_smoothing in [0, 1)")


def run_ft_sam(task: Task, config: FtSamConfig) -> Defended:
    """Tunes the network on the clean images to where the loss stays low all around.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    phase = _SharpnessAware(
        "ft_sam", task.network, config.epochs, config.batch_size, config.shuffle, task.augment, config
    )
    return conclude(task, begun, tune(task, phase, begun.variables, begun.variables["masks"], task.key))


def climb(params: Tree, gradient: Tree, rho: float, adaptive: bool = True) -> Tree:
    """The step ε to where the loss is highest near ``params``, to first order."""

    def scale(weight: jax.Array) -> jax.Array:
        return jnp.abs(weight) if adaptive else jnp.ones_like(weight)

    scaled = jax.tree.map(lambda weight, slope: scale(weight) * slope, params, gradient)
    norm = jnp.sqrt(jnp.stack([jnp.square(leaf).sum() for leaf in jax.tree.leaves(scaled)]).sum())
    factor = rho / (norm + 1e-12)
    return jax.tree.map(lambda weight, slope: factor * scale(weight) * slope, params, scaled)


def smoothed_cross_entropy(logits: Float[Array, "B K"], labels: Int[Array, "B"], smoothing: float) -> Float[Array, "B"]:
    """Cross-entropy against labels of which the other K − 1 classes have the share ``smoothing``."""
    logs = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(logs, labels[:, None], 1)[:, 0]
    others = (logs.sum(1) - own) / (logits.shape[1] - 1)
    return -(1 - smoothing) * own - smoothing * others


@dataclass(frozen=True)
class _SharpnessAware(Phase):
    config: FtSamConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config
        swing = config.swing or config.epochs * steps_per_epoch

        def rate(step: ArrayLike) -> jax.Array:
            return config.learning_rate / 2 * (1 + jnp.cos(jnp.pi * jnp.asarray(step, jnp.float32) / swing))

        return optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(rate, momentum=config.momentum))

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        """Its value and gradient are those of the highest point nearby, the rest those of where it stands."""

        def objective(params: Tree) -> tuple[jax.Array, tuple]:
            variables = {"params": params, "batch_stats": batch_stats, "masks": fixed}
            logits, moved = self.apply(variables, batch.images, train=True)
            loss = smoothed_cross_entropy(logits, batch.labels, self.config.label_smoothing).mean()
            return loss, (moved, batch_metrics(logits, batch.labels))

        here = jax.lax.stop_gradient(trained)
        gradient, rest = jax.grad(objective, has_aux=True)(here)
        step = climb(here, gradient, self.config.rho, self.config.adaptive)
        return objective(jax.tree.map(jnp.add, trained, step))[0], rest


ft_sam = Method(
    name="ft_sam",
    title="FT-SAM",
    summary="fine-tuning with sharpness-aware minimisation",
    basis="All weights are trained on the clean images so that the loss stays low in a whole neighbourhood, measured "
    "relative to their size (fine-tuning with sharpness-aware minimisation, ICCV 2023).",
    run=run_ft_sam,
    defaults=FtSamConfig(),
    changes="weights",
    augments=True,
    colour="#4d6a00",
    marker=">",
)
