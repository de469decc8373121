"""PAM: recovered triggers are unlearned where the backdoor would come back (Min et al., NeurIPS 2024).

Tuning often leaves a network from which the weights of the backdoored one are reached without a rise of the loss of its
backdoor: a few triggered images bring it back. Path-Aware Minimization takes each gradient a step back on that path,

    θ ← SGD(θ, ∇L(θ + ρ (θ_bd − θ) / ‖θ_bd − θ‖)),

the norm taken over all weights. θ_bd is the suspicious network as it came, where the path starts, and L the
cross-entropy with true labels of a batch in which some images carry a recovered trigger. It takes three rounds. Each
searches triggers on the network of the round before, and tunes that network further.

As the release does: the first step, at θ_bd itself, is plain; SGD at 0.01 with momentum 0.1 and without weight decay, ρ
is 0.5, a round has 30 epochs, a fifth of the images carry a trigger; batch norm is in training mode, and its running
statistics are those of the steps back; the last state is kept.

What differs from the release:

- It reverses the trigger with a generator, from features (BTI-DBF, ICLR 2024). Here the search is that of
  NC-unlearning (``nc``): masks and patterns, and plain squares. Where no label stands out, nothing is changed.
- Later rounds search anew for masks of the labels that stood out in the first one; its squares stay. The release keeps
  its label, too.
- The number of images with a trigger is random, a fifth on average, and triggers are moved by a few pixels, as in
  ``distil``.
- Momentum starts at zero in every round.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnp_jax.defenses.distil import stamp_some
from rnp_jax.defenses.ft_sam import climb
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.searches import SearchConfig, begin_searching, gather_stamps, search
from rnp_jax.defenses.tuning import conclude
from rnp_jax.errors import ConfigError
from rnp_jax.inversion.stamps import scale
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy
from rnp_jax.types import Apply, Batch, Tree


@dataclass(frozen=True)
class PamConfig(SearchConfig):
    """Settings of PAM: those of the searches, which NC-unlearning has too, and the release's of tuning:

    Attributes:
      rounds: number of rounds, each of a search and of tuning.
      epochs: number of passes over the clean images in a round.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: constant learning rate of SGD.
      momentum: momentum of SGD.
      rho: distance ρ from the weights, towards the suspicious network's, at which gradients are taken.
      stamped: share of the images that carry a trigger, on average.
      shift: largest number of pixels by which a trigger is moved, in each direction.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    rounds: int = 3
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.1
    rho: float = 0.5
    stamped: float = 0.2
    shift: int = 2
    shuffle: bool = True

    def __post_init__(self):
        if min(self.rounds, self.epochs) < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected rounds and epochs >= 1, batch_size >= 2 and learning_rate > 0")
        if not self.rho >= 0 or not 0 <= self.stamped <= 1 or self.shift < 0:
            raise ConfigError(f"{self}: expected rho and shift >= 0 and stamped in [0, 1]")
        super().__post_init__()


def run_pam(task: Task, config: PamConfig) -> Defended:
    """Recovers triggers and unlearns them a step back on the path to the suspicious network, round by round.

    Raises:
      DataError: images that are not uint8 [N, H, W, C], or none outside a label's class.
      DefenseError: the loss became infinite or not a number.
    """
    network, tuned = task.network, task.variables
    do = task.doing("invert")
    searched = {"holdout": task.holdout, "progress": task.progress}
    keys = [jax.random.split(jax.random.fold_in(task.key, number)) for number in range(config.rounds)]
    found, begun = begin_searching(task, keys[0][0], config)
    if not found.labels:
        return conclude(task, begun, tuned)
    phase = start_stepping_back(network, config, task.augment)
    rows: list[dict[str, np.ndarray]] = []
    for number, (search_key, tune_key) in enumerate(keys):
        if number > 0:
            own = jax.random.fold_in(search_key, 0)
            again = do(search, network, tuned, task.data, own, config, found.labels, **searched)
            found = found._replace(masks=again)
        stamps = gather_stamps(network, tuned, task.data, search_key, config, found, **searched, do=do)
        fixed = {"masks": tuned["masks"], "origin": task.variables["params"], "stamps": stamps}
        given = (phase, tuned["params"], fixed, tuned["batch_stats"], task.data, tune_key, task.progress)
        params, batch_stats, history, _ = task.do("pam", run_phase, *given)
        rows.append(history)
        task.note("pam", {name: np.concatenate([row[name] for row in rows]) for name in history})
        tuned = {**tuned, "params": params, "batch_stats": batch_stats}
    return conclude(task, begun, tuned)


def step_back(params: Tree, origin: Tree, rho: float) -> Tree:
    """The step of length ``rho``, by the norm over all weights, from ``params`` towards ``origin``.

    It may go beyond ``origin``. From ``origin`` itself there is no direction, and the step is zero.
    """
    return climb(params, jax.tree.map(jnp.subtract, origin, params), rho, adaptive=False)


def start_stepping_back(apply: Apply, config: PamConfig, augment: Augment | None = None) -> Phase:
    """The phase of PAM, for those who run its steps themselves. Equal ones share compiled programs.

    Its fixed tree holds ``masks``, the ``origin``'s weights and the ``stamps``.
    """
    schedule = (config.epochs, config.batch_size, config.shuffle, augment)
    step = (config.learning_rate, config.momentum, config.rho, config.stamped, config.shift)
    return _SteppingBack("pam", apply, *schedule, *step)


@dataclass(frozen=True)
class _SteppingBack(Phase):
    learning_rate: float
    momentum: float
    rho: float
    stamped: float
    shift: int

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        del steps_per_epoch  # the rate is constant
        return optax.sgd(self.learning_rate, momentum=self.momentum)

    def prepare(self, batch: Batch, fixed: Tree, key: jax.Array) -> Batch:
        augment_key, stamp_key = jax.random.split(key)
        images = scale(super().prepare(batch, fixed, augment_key).images)
        some = stamp_some(stamp_key, images, fixed["stamps"], self.stamped, self.shift)
        return batch._replace(images=some)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        """Its value, its gradient and the statistics are those of the step back."""
        step = step_back(jax.lax.stop_gradient(trained), fixed["origin"], self.rho)
        params = jax.tree.map(jnp.add, trained, step)
        variables = {"params": params, "batch_stats": batch_stats, "masks": fixed["masks"]}
        logits, moved = self.apply(variables, batch.images, train=True)
        return cross_entropy(logits, batch.labels).mean(), (moved, batch_metrics(logits, batch.labels))


pam = Method(
    name="pam",
    title="PAM",
    summary="recover triggers, and unlearn them with gradients taken a step back towards the suspicious network",
    basis="If a label's recovered trigger is far smaller than the others', stamped images are learned with their true "
    "labels, by gradients a step back towards the suspicious network (Path-Aware Minimization, NeurIPS 2024).",
    run=run_pam,
    defaults=PamConfig(batch_size=100),
    changes="weights",
    augments=True,
    inverts=True,
    colour="#ad1457",
    marker=(6, 1, 30),
)
"""By default in batches of 100: of 400 images, the release's 128 would leave a batch of 16, too few for batch norm."""
