"""DBD: features without labels, a head by a robust loss, then semi-supervised training on the best fitted images.

Decoupling-based Backdoor Defense (Huang et al., ICLR 2022), in three steps as in the release:

1. SimCLR on all images, labels ignored.
2. The linear head alone, by the symmetric cross-entropy SCE = 0.1·CE + 1·RCE, with RCE = -Σ_k p_k log ỹ_k, p at least
   1e-7 and the one-hot ỹ at least 1e-4. Batch norm is in training mode, so that its statistics move.
3. Epochs of MixMatch on all layers. Each epoch first selects the half of the images with the lowest SCE, in evaluation
   mode: they keep their labels, all others lose them.

The defaults are the release's constants for CIFAR-10; its configuration takes SimCLR's features after 100 epochs.

What differs: the release tests every epoch and saves the best by clean TEST accuracy beside the last; the last is kept
here. Its selection reads augmented images and is noisy; here it reads the images as they are. Its ramp of the
unlabelled loss counts the ten epochs of the second step, and begins above 0; here it begins at 0. All views of a batch
are anchors, where the release's first views alone are. MixMatch sees one batch, without interleaving (see
``training.mixmatch``).
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from rnp_jax.defenses.fitting import check_set, conclude_anew
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.defenses.result import Defended
from rnp_jax.errors import ConfigError
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy
from rnp_jax.training.loop import run_epochs
from rnp_jax.training.mixmatch import METRICS, MixMatchConfig, MixMatchState, mixmatch_epoch, start
from rnp_jax.training.simclr import SimclrConfig, pretrain
from rnp_jax.training.views import Views
from rnp_jax.types import Apply, Batch, Progress, Tree, Variables

_LOWEST = 1e-7, 1e-4
"""Of a probability, and of the one-hot label, within the reverse cross-entropy."""


@dataclass(frozen=True)
class WarmupConfig:
    """Settings of the head's training, by Adam.

    Attributes:
      epochs: number of passes over the images.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: learning rate of Adam.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.002

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2 and learning_rate > 0")


def release_simclr() -> SimclrConfig:
    """The release's."""
    return SimclrConfig(epochs=100, batch_size=512, weight_decay=1e-4, schedule="cosine")


def release_mixmatch() -> MixMatchConfig:
    """The release's."""
    return MixMatchConfig(epochs=190, learning_rate=0.002, ramp_epochs=190.0, optimizer="adam", iterations=1024)


@dataclass(frozen=True)
class DbdConfig:
    """Settings of DBD; the defaults are the release's for CIFAR-10.

    Attributes:
      simclr: settings of the first step; not used if training starts from given weights.
      views: augmentation that makes SimCLR's views.
      warmup: settings of the second step.
      keep: share of the images whose labels the third step keeps, in (0, 1).
      mixmatch: settings of the third step.
      ce_weight: weight of the cross-entropy in SCE.
      rce_weight: weight of the reverse cross-entropy in SCE.
    """

    simclr: SimclrConfig = field(default_factory=release_simclr)
    views: Views = field(default_factory=Views)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    keep: float = 0.5
    mixmatch: MixMatchConfig = field(default_factory=release_mixmatch)
    ce_weight: float = 0.1
    rce_weight: float = 1.0

    def __post_init__(self):
        if not 0 < self.keep < 1 or self.ce_weight < 0 or self.rce_weight < 0:
            raise ConfigError(
                f"keep {self.keep}, ce_weight {self.ce_weight}, rce_weight {self.rce_weight}: expected keep in (0, 1) "
                "and weights of 0 or more"
            )

    @property
    def loss(self) -> "SymmetricLoss":
        """SCE with these weights."""
        return SymmetricLoss(self.ce_weight, self.rce_weight)


@dataclass(frozen=True)
class SymmetricLoss:
    """Symmetric cross-entropy (Wang et al., ICCV 2019) of each image."""

    ce_weight: float = 0.1
    rce_weight: float = 1.0

    def __call__(self, logits: Float[Array, "B K"], labels: Int[Array, "B"]) -> Float[Array, "B"]:
        """The weighted sum of cross-entropy and reverse cross-entropy."""
        lowest, least = _LOWEST
        wrong = jax.nn.one_hot(labels, logits.shape[-1]) == 0
        probabilities = jnp.clip(jax.nn.softmax(logits), lowest, 1)
        reverse = -jnp.log(least) * jnp.where(wrong, probabilities, 0).sum(-1)
        return self.ce_weight * cross_entropy(logits, labels) + self.rce_weight * reverse


@dataclass(frozen=True)
class _Warmup(Phase):
    """Trains the last layer; its fixed tree holds the other layers' ``params``, and ``masks``."""

    learning_rate: float
    symmetric: SymmetricLoss

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        del steps_per_epoch
        return optax.adam(self.learning_rate)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = {"params": {**fixed["params"], **trained}, "batch_stats": batch_stats, "masks": fixed["masks"]}
        logits, moved = self.apply(variables, batch.images, train=True)
        return self.symmetric(logits, batch.labels).mean(), (moved, batch_metrics(logits, batch.labels))


def start_warmup(apply: Apply, config: DbdConfig, augment: Augment | None = None) -> Phase:
    """The second step's phase, for those who run its steps themselves."""
    own = config.warmup
    return _Warmup(
        "warmup", apply, own.epochs, own.batch_size, True, augment, own.learning_rate, config.loss
    )  # fmt: skip


def select(
    apply: Apply, variables: Variables, data: Batch, loss: SymmetricLoss, batch_size: int
) -> tuple[Int[Array, "N"], Float[Array, "N"]]:
    """The images in ascending order of their loss in evaluation mode, and the losses. To be traced inside ``jit``."""
    count = data.labels.shape[0]
    batches = jnp.resize(jnp.arange(count), (-(-count // batch_size), batch_size))
    losses = jax.lax.map(lambda at: loss(apply(variables, data.images[at])[0], data.labels[at]), batches)
    losses = losses.reshape(-1)[:count]
    return jnp.argsort(losses), losses


@jit_settings(3, static=1)
def _semi_epoch(
    apply: Apply, config: DbdConfig, augment: Augment | None, count: int, state: MixMatchState, masks: Tree, data: Batch
) -> tuple[MixMatchState, dict[str, jax.Array]]:
    """An epoch on all images, ``count`` of them with their labels."""
    variables = {"params": state.params, "batch_stats": state.batch_stats, "masks": masks}
    order, _ = select(apply, variables, data, config.loss, 2 * config.mixmatch.batch_size)
    kept, rest = jnp.split(order, [count])
    labelled = Batch(data.images[kept], data.labels[kept])
    return mixmatch_epoch(apply, config.mixmatch, augment, state, masks, labelled, data.images[rest])


def _count_kept(config: DbdConfig, data: Batch) -> int:
    return int(config.keep * data.labels.shape[0])


@jit_settings(2, static=1)
def _select(
    apply: Apply, loss: SymmetricLoss, batch_size: int, variables: Variables, data: Batch
) -> tuple[jax.Array, jax.Array]:
    return select(apply, variables, data, loss, batch_size)


def train_on_selected(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: DbdConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """The third step, on ``data`` (uint8 [N, H, W, C], int32 [N]): one program an epoch, its selection included.

    Returns:
      The trained variables, and MixMatch's figures [E].
    """
    data = Batch(*jax.device_put(tuple(data)))
    kept = _count_kept(config, data)
    reached, history = run_epochs(
        "mixmatch",
        config.mixmatch.epochs,
        lambda: start(variables, key, config.mixmatch, kept, len(data.labels) - kept),
        lambda state: _semi_epoch(apply, config, augment, kept, state, variables["masks"], data),
        progress=progress,
        figures=METRICS,
    )
    return {**variables, "params": reached.average, "batch_stats": reached.batch_stats}, history


def run_dbd(task: Task, config: DbdConfig) -> Defended:
    """Trains a new network on the untrusted images, fresh or from the extractor weights that are given.

    Raises:
      ConfigError: a share that keeps no image, or batches larger than the set.
      DataError: labels that do not fit the network.
      DefenseError: a loss became infinite or not a number.
    """
    network, data = task.network, Batch(*map(np.asarray, task.data))
    check_set(data, network.architecture.num_classes)
    count = len(data.labels)
    if _count_kept(config, data) < 1:
        raise ConfigError(f"dbd.keep {config.keep} keeps none of {count} images: raise it")
    if task.variables is None and config.simclr.batch_size > count:
        raise ConfigError(
            f"dbd.simclr.batch_size {config.simclr.batch_size} exceeds the {count} images: choose a smaller one"
        )
    init_key, simclr_key, warm_key, mix_key = jax.random.split(task.key, 4)
    variables, fresh = task.variables, network.init(init_key)
    if variables is None:
        given = (network, fresh, data.images, simclr_key, config.simclr)
        variables, history = task.do("simclr", pretrain, *given, views=config.views, progress=task.progress)
        task.note("simclr", history)
    head = {network.head: fresh["params"][network.head]}
    rest = {name: tree for name, tree in variables["params"].items() if name != network.head}
    fixed = {"params": rest, "masks": variables["masks"]}
    phase = start_warmup(network, config, task.augment)
    given = (phase, head, fixed, variables["batch_stats"], data, warm_key, task.progress)
    trained, batch_stats, history, _ = task.do("warmup", run_phase, *given)
    task.note("warmup", history)
    variables = {**variables, "params": {**rest, **trained}, "batch_stats": batch_stats}
    given = (network, variables, data, mix_key, config)
    variables, history = task.do("mixmatch", train_on_selected, *given, augment=task.augment, progress=task.progress)
    task.note("mixmatch", history)
    with task.stage("select"):
        chosen = _select(network, config.loss, 2 * config.mixmatch.batch_size, jax.device_put(variables), data)
        order, losses = map(np.asarray, chosen)
    kept = np.sort(order[: _count_kept(config, data)])
    rule = (
        f"A new network learned its features without labels; the {len(kept)} images that it fits best kept their "
        "labels, chosen anew in every epoch."
    )
    return conclude_anew(task, variables, rule, kept=(kept,), suspicion=losses)


dbd = Method(
    name="dbd",
    title="DBD",
    summary="Decoupling-based Backdoor Defense: learn features without labels, then trust the labels that fit",
    basis="A new network learns features from the untrusted images without labels, and then trusts the labels that fit "
    "them best (Decoupling-based Backdoor Defense, ICLR 2022).",
    run=run_dbd,
    defaults=DbdConfig(),
    needs="untrusted",
    changes="weights",
    augments=True,
    colour="#455a64",
    marker=(10, 1, 18),
)
