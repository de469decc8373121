"""ULRL: unlearn to find the suspicious rows of the last layer, then relearn away from them (arXiv 2405.14781).

1. RNP's first step: the network unlearns the clean images (Li et al., ICML 2023), its gradient clipped.
2. Δ_k = Σ_j |w^u_kj − w_kj| is how far unlearning moved the row of class k in the last linear layer. A class is flagged
   where Δ_k is above the median m and (Δ_k − m) / (1.4826 · MAD) above 3.5. That names labels an attacker may want.
3. Back at the suspicious weights, the flagged rows start at random from U(±√(2/D)), for D features, their biases at 0,
   and all parameters are trained:

       min over θ of  CE + α Σ_flagged cos(w_k, w_k^ori)

As the release does: both medians are torch's, the lower of two middle values; relearning has no weight decay, and its
cosine schedule advances once an epoch; batch norm is in training mode; the last state is kept. For GTSRB, CIFAR-100 and
Tiny-ImageNet the release relearns with α = 0.001 and a learning rate of 0.001.

What differs: of more than two flagged classes those with the largest Δ are kept, where the release keeps the first two;
the arithmetic is of single precision; and the running statistics move once a step, where the release moves them once
more while relearning, in a second pass that only serves its log.

Where no class is flagged, as after an attack without a single target, step 3 is fine-tuning; a warning says so.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from rnp_jax.defenses.finetune import FinetuneConfig, PenalizedTuning, start_finetuning
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig, warn_of_unlearning
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.defenses.unlearn import UnlearnConfig, start_unlearning
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Batch, Tree, Variables

_CONSISTENT = 1.4826  # makes the MAD of normal values their standard deviation
_EPS = 1e-8  # torch's, the least norm by which a cosine divides


def release_unlearning() -> UnlearnConfig:
    """The release's settings of unlearning."""
    return UnlearnConfig(max_epochs=20)


def release_relearning() -> FinetuneConfig:
    """The release's settings of relearning, for CIFAR-10."""
    return FinetuneConfig(epochs=20, batch_size=128, learning_rate=0.005, weight_decay=0.0, schedule="cosine")


@dataclass(frozen=True)
class UlrlConfig:
    """Settings of ULRL; the defaults are the release's for CIFAR-10.

    Attributes:
      unlearn: settings of unlearning.
      clip: largest norm of the gradient while unlearning.
      suspicious: anomaly index above which a class is flagged.
      most: largest number of flagged classes.
      alpha: weight α of the cosines between the flagged rows and what they were.
      relearn: settings of relearning.
    """

    unlearn: UnlearnConfig = field(default_factory=release_unlearning)
    clip: float = 20.0
    suspicious: float = 3.5
    most: int = 2
    alpha: float = 0.7
    relearn: FinetuneConfig = field(default_factory=release_relearning)

    def __post_init__(self):
        if not min(self.clip, self.suspicious) > 0 or self.most < 1 or not self.alpha >= 0:
            raise ConfigError(f"{self}: expected clip and suspicious > 0, most >= 1 and alpha >= 0")


def run_ulrl(task: Task, config: UlrlConfig) -> Defended:
    """Unlearns the clean images, and teaches them to the original network with the rows that moved most drawn anew.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    unlearn_key, head_key, relearn_key = jax.random.split(task.key, 3)
    params, head = begun.variables["params"], task.network.head
    moved = _unlearn(task, config, unlearn_key)["params"][head]["kernel"] - params[head]["kernel"]
    changes = np.abs(np.asarray(moved)).sum(0)
    flagged = flag(changes, config.suspicious, config.most)
    rule = _explain(changes, flagged, config.suspicious)
    if not flagged:
        task.warn(rule)
    chosen = jnp.zeros(len(changes), jnp.float32).at[np.asarray(flagged, np.int32)].set(1)
    start = {**begun.variables, "params": {**params, head: reinitialize(params[head], chosen, head_key)}}
    phase = start_relearning(task.network, config, task.augment)
    fixed = {"masks": start["masks"], "original": params[head]["kernel"], "flagged": chosen}
    begun = replace(begun, choice=begun.choice.model_copy(update={"rule": rule}))
    return conclude(task, begun, tune(task, phase, start, fixed, relearn_key))


def _unlearn(task: Task, config: UlrlConfig, key: jax.Array) -> Variables:
    """RNP's first step with clipped gradients, timed and noted."""
    start, limit = task.variables, config.unlearn.stop_accuracy
    phase = start_clipped_unlearning(task.network, config, task.augment)
    given = (phase, start["params"], start["masks"], start["batch_stats"], task.data, key, task.progress)
    params, batch_stats, history, _ = task.do(phase.name, run_phase, *given)
    reached = bool(history["accuracy"][-1] <= limit)
    verb = "reached" if reached else "did not reach"
    task.note(phase.name, history, f"{verb} the stop accuracy {limit:g} after {len(history['loss'])} epochs")
    if not reached:
        warn_of_unlearning(task, history, config.unlearn)
    return {**start, "params": params, "batch_stats": batch_stats}


def flag(changes: Float[np.ndarray, "K"], suspicious: float = 3.5, most: int = 2) -> tuple[int, ...]:
    """The classes whose change lies far above the others', the largest first.

    Args:
      changes: how far each class's row moved, 0 or more.
      suspicious: how many times 1.4826 · MAD above the median counts as far. Where the MAD is 0, all above it does.
      most: how many classes at most.
    """
    above = changes - _lower_median(changes)
    limit = suspicious * _CONSISTENT * _lower_median(np.abs(above))
    far = np.flatnonzero((above > 0) & (above > limit))
    return tuple(int(k) for k in far[np.argsort(-changes[far], kind="stable")][:most])


def _lower_median(values: Float[np.ndarray, "K"]) -> float:
    """The lower of two middle values, as torch's ``median``."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _explain(changes: Float[np.ndarray, "K"], flagged: tuple[int, ...], suspicious: float) -> str:
    median = _lower_median(changes)
    if not flagged:
        return (
            "No label stands out by how far unlearning moved its row of the last layer, so all weights were fine-tuned "
            f"only. The row that moved furthest is that of label {int(changes.argmax())}: {changes.max():.3g}; the "
            f"median over labels is {median:.3g}. A label is flagged above the median by more than {suspicious:g} "
            "times 1.4826 MAD."
        )
    each = ", ".join(f"label {k} ({changes[k]:.3g})" for k in flagged)
    return f"Flagged by how far unlearning moved its row of the last layer: {each}; the median is {median:.3g}."


def reinitialize(head: Tree, flagged: Float[Array, "K"], key: jax.Array) -> Tree:
    """A linear layer with the columns of its kernel [D, K] that are 1 in ``flagged`` new, and their biases [K] at 0."""
    bound = (2 / head["kernel"].shape[0]) ** 0.5
    fresh = jax.random.uniform(key, head["kernel"].shape, jnp.float32, -bound, bound)
    return {
        name: jnp.where(flagged if leaf.ndim == 1 else flagged[None], fresh if name == "kernel" else 0, leaf)
        for name, leaf in head.items()
    }


def cosines(kernel: Float[Array, "D K"], other: Float[Array, "D K"]) -> Float[Array, "K"]:
    """The cosine between the columns of two kernels; 0 for a column of zeros."""
    norms = [jnp.sqrt(jnp.maximum(jnp.square(each).sum(0), _EPS**2)) for each in (kernel, other)]
    return (kernel * other).sum(0) / (norms[0] * norms[1])


def start_clipped_unlearning(network: Network, config: UlrlConfig, augment: Augment | None = None) -> Phase:
    """The phase of unlearning, for those who run its steps themselves. Equal ones share compiled programs."""
    inner = start_unlearning(network, config.unlearn, augment)
    return _Clipped("unlearn", network, inner.epochs, inner.batch_size, inner.shuffle, augment, inner, config.clip)


def start_relearning(network: Network, config: UlrlConfig, augment: Augment | None = None) -> Phase:
    """The phase of relearning, for those who run its steps themselves. Equal ones share compiled programs.

    Its fixed tree holds ``masks``, the ``original`` kernel of the last layer [D, K], and which classes are ``flagged``
    [K], 1 or 0.
    """
    tuning = start_finetuning(network, config.relearn, augment)
    settings = (tuning.epochs, tuning.batch_size, tuning.shuffle, augment)
    return _Relearning("relearn", network, *settings, tuning, network.head, config.alpha)


@dataclass(frozen=True)
class _Clipped(Phase):
    inner: Phase
    clip: float

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.clip), self.inner.optimizer(steps_per_epoch))

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        return self.inner.loss(trained, fixed, batch_stats, batch)

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        return self.inner.update(trained, updates, fixed)

    def stops(self, metrics: dict[str, jax.Array]) -> jax.Array:
        return self.inner.stops(metrics)


class _Relearning(PenalizedTuning):
    def penalty(self, kernel: Float[Array, "D K"], fixed: Tree) -> jax.Array:
        return (fixed["flagged"] * cosines(kernel, fixed["original"])).sum()


ulrl = Method(
    name="ulrl",
    title="ULRL",
    summary="unlearn and relearn the clean task, with those rows of the last layer new that unlearning moved most",
    basis="All weights are trained on the clean images, while the rows of the last layer that unlearning moved most "
    "start at random and are pushed away from what they were (ULRL, arXiv 2024).",
    run=run_ulrl,
    defaults=UlrlConfig(
        replace(release_unlearning(), batch_size=100), relearn=replace(release_relearning(), batch_size=100)
    ),
    changes="weights",
    augments=True,
    colour="#6d4c41",
    marker=(4, 1, 0),
)
"""By default in batches of 100: of 400 images, the release's 128 would leave a batch of 16, too few for batch norm."""
