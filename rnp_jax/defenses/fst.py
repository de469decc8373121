"""Feature Shift Tuning (FST): fine-tuning that pushes the classifier away from the old one (Min et al., NeurIPS 2023).

    min over θ of  CE + α ⟨w, w_ori⟩   subject to  ‖w‖_F = ‖w_ori‖_F

w is the weight matrix of the last linear layer, and w_ori is what it was in the suspicious network. The old classifier
reads the backdoor's features; a classifier that points elsewhere makes all layers learn other features.

As the release does: weight matrix and bias of the last layer start at random from U(±1/√D), for D features; all
parameters are trained, without weight decay and with batch norm in training mode; after every step w is scaled to the
norm of w_ori; a cosine schedule advances once an epoch; the last state is kept. α is 0.1, as its README has it for
CIFAR-10 (the code's default is 0.2). For many classes the README advises a smaller α, or 0.

What differs: the clean images are whatever the defender gives, where the release takes 2 % of the training images.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.defenses.finetune import FinetuneConfig, PenalizedTuning, start_finetuning
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Tree


def release_settings() -> FinetuneConfig:
    """The release's."""
    return FinetuneConfig(epochs=10, batch_size=128, learning_rate=0.01, weight_decay=0.0, schedule="cosine")


@dataclass(frozen=True)
class FstConfig:
    """Settings of FST; the defaults are the release's.

    Attributes:
      alpha: weight α of the penalty on the likeness of the last layer to the old one; smaller for more classes.
      finetune: settings of fine-tuning.
    """

    alpha: float = 0.1
    finetune: FinetuneConfig = field(default_factory=release_settings)

    def __post_init__(self):
        if not self.alpha >= 0:
            raise ConfigError(f"alpha {self.alpha}: expected 0 or more; 0 trains without the penalty")


def run_fst(task: Task, config: FstConfig) -> Defended:
    """Tunes the network on the clean images, its last layer new and away from the old one.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    params, head = begun.variables["params"], task.network.head
    head_key, tune_key = jax.random.split(task.key)
    start = {**begun.variables, "params": {**params, head: reinitialize(params[head], head_key)}}
    phase = start_shifting(task.network, config, task.augment)
    fixed = {"masks": start["masks"], "original": params[head]["kernel"]}
    return conclude(task, begun, tune(task, phase, start, fixed, tune_key))


def reinitialize(head: Tree, key: jax.Array) -> Tree:
    """A linear layer's kernel [D, K] and bias [K], drawn from U(±1/√D)."""
    bound = head["kernel"].shape[0] ** -0.5
    keys = jax.random.split(key, len(head))
    return {
        name: jax.random.uniform(each, leaf.shape, leaf.dtype, -bound, bound)
        for each, (name, leaf) in zip(keys, sorted(head.items()), strict=True)
    }


def rescale(kernel: Float[Array, "D K"], like: Float[Array, "D K"]) -> Float[Array, "D K"]:
    """The kernel, at the Frobenius norm of another."""
    return kernel * (jnp.linalg.norm(like) / jnp.linalg.norm(kernel))


def start_shifting(network: Network, config: FstConfig, augment: Augment | None = None) -> Phase:
    """The phase of FST, for those who run its steps themselves. Equal ones share compiled programs.

    Its fixed tree holds ``masks`` and the ``original`` kernel of the last layer [D, K].
    """
    tuning = start_finetuning(network, config.finetune, augment)
    settings = (tuning.epochs, tuning.batch_size, tuning.shuffle, augment)
    return _Shifting("fst", network, *settings, tuning, network.head, config.alpha)


class _Shifting(PenalizedTuning):
    def penalty(self, kernel: Float[Array, "D K"], fixed: Tree) -> jax.Array:
        return (kernel * fixed["original"]).sum()

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        moved = super().update(trained, updates, fixed)
        head = moved[self.head]
        return {**moved, self.head: {**head, "kernel": rescale(head["kernel"], fixed["original"])}}


fst = Method(
    name="fst",
    title="FST",
    summary="Feature Shift Tuning: fine-tune all weights, with a new last layer that is pushed away from the old one",
    basis="All weights are trained on the clean images, while the last layer, which starts at random, is pushed away "
    "from what it was (Feature Shift Tuning, NeurIPS 2023).",
    run=run_fst,
    defaults=FstConfig(finetune=replace(release_settings(), batch_size=100)),
    changes="weights",
    augments=True,
    colour="#00695c",
    marker="8",
)
"""By default in batches of 100: of 400 images, the release's 128 would leave a batch of 16, too few for batch norm."""
