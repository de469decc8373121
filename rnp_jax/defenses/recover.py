"""RNP step 2, filter-level recovery: minimise the clean loss over one mask a filter (Li et al., ICML 2023, eq. 3).

As the release does: weights frozen at the unlearned ones, masks start at 1 and are clipped to [0, 1] after every step,
batch norm in training mode, so that its running statistics keep moving. The release's alpha only scales the loss.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnp_jax import masks
from rnp_jax.defenses.phase import Phase, Progress, run_phase
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy
from rnp_jax.types import Apply, Batch, Tree, Variables


@dataclass(frozen=True)
class RecoverConfig:
    """Settings of recovery; the defaults are the release's.

    Attributes:
      epochs: number of passes over the clean images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: constant learning rate of SGD on the masks.
      momentum: momentum of SGD.
      alpha: factor on the loss.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.2
    momentum: float = 0.9
    alpha: float = 0.2
    shuffle: bool = True

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0 or self.alpha <= 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2, learning_rate > 0 and alpha > 0")


@dataclass(frozen=True)
class Recovered:
    """The recovered masks.

    Attributes:
      filters: mask values by layer name, in [0, 1]; low ones expose backdoor filters.
      history: loss and accuracy [E] and ``masks`` [E, F] (all filters, layers in natural order) at each epoch's end.
      finite: False where the loss diverged and recovery ended early.
      restored: whether the last epoch's loss is below that of guessing, ln K of K classes; masks of a network that
        still guesses are noise.
    """

    filters: masks.Filters
    history: dict[str, np.ndarray]
    finite: bool
    restored: bool


@dataclass(frozen=True)
class _Recovering(Phase):
    config: RecoverConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        del steps_per_epoch  # the rate is constant
        return optax.sgd(self.config.learning_rate, momentum=self.config.momentum)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = masks.apply_filters({**fixed, "batch_stats": batch_stats}, trained)
        logits, moved = self.apply(variables, batch.images, train=True)
        loss = self.config.alpha * cross_entropy(logits, batch.labels).mean()
        return loss, (moved, batch_metrics(logits, batch.labels))

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        del fixed
        return masks.clip(jax.tree.map(jnp.add, trained, updates))

    def record(self, trained: Tree, fixed: Tree, batch_stats: Tree) -> dict[str, jax.Array]:
        del fixed, batch_stats
        return {"masks": jnp.concatenate([trained[name] for name in sorted(trained, key=masks.natural_key)])}


def recover(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: RecoverConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> Recovered:
    """Recovers the clean loss of the unlearned ``variables`` by masks alone.

    Learns from ``data`` (uint8 [N, H, W, C], int32 [N]).

    Raises:
      DefenseError: the network has no filter masks.
    """
    initial = masks.ones(masks.filters(variables["masks"]))
    if not initial:
        raise DefenseError("the network has no maskable layer: recovery needs batch norm, convolutions or hidden units")
    fixed = {"params": variables["params"], "masks": variables["masks"]}
    filters, _, history, stopped = run_phase(
        _Recovering("recover", apply, config.epochs, config.batch_size, config.shuffle, augment, config),
        initial,
        fixed,
        variables["batch_stats"],
        data,
        key,
        progress,
    )
    like = jax.ShapeDtypeStruct((1, *data.images.shape[1:]), data.images.dtype)
    classes = jax.eval_shape(apply, variables, like)[0].shape[-1]
    return Recovered(filters, history, not stopped, bool(history["loss"][-1] < np.log(classes)))
