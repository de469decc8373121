"""Causality-inspired Backdoor Defense (CBD): a clean network that leans away from a biased one.

Zhang et al., CVPR 2023. A few epochs of ordinary training catch the backdoor before anything else; that network is
biased. The second network is trained on all images, each with a weight that is small where the biased network fits it
well:

    w_i = ℓ_b / (ℓ_c + ℓ_b + 1e-8),  divided by the mean of the batch;  loss = mean of w_i · CE_i

ℓ_b is the cross-entropy of the biased network in evaluation mode, ℓ_c that of the network in training, as a constant.
As in the release, both see the same augmented images, only the second is trained, and its last state is kept. The
defaults are the release's constants.

What differs: the release adds a term of mutual information (a critic between the features of the two networks), whose
weight is 0 by default, so that the released method is the reweighting; the term is left out. In the release, the biased
phase sets the learning rate of the other optimiser, to no effect, as both begin at the same rate. Its Cutout is one
pixel short (see ``training.cutout``).
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax.defenses.fitting import (
    FitConfig,
    Fitting,
    check_batches,
    check_set,
    conclude_anew,
    fit,
    start_fitting,
    start_weights,
)
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network
from rnp_jax.training.cutout import Cutout
from rnp_jax.training.epoch import Augment, cross_entropy
from rnp_jax.types import Batch, Tree

_TINY = 1e-8


@dataclass(frozen=True)
class CbdConfig:
    """Settings of CBD; the defaults are the release's.

    Attributes:
      biased: settings of the network that catches the backdoor.
      clean: settings of the network that is kept.
      cutout: side of the black square that is laid on every image, after its augmentation; 0 for none.
    """

    biased: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=5, batch_size=64, nesterov=True, weight_decay=1e-4)
    )
    clean: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=100, batch_size=64, milestones=(20, 70), nesterov=True, weight_decay=1e-4
        )
    )
    cutout: int = 3

    def __post_init__(self):
        if self.cutout < 0:
            raise ConfigError(f"cutout {self.cutout}: expected the side of a square in pixels, or 0 for none")


def weigh(biased: Float[Array, "B"], clean: Float[Array, "B"]) -> Float[Array, "B"]:
    """Each image's share of the biased network's loss in both losses, in [0, 1]: low where that one fits it well."""
    return biased / (clean + biased + _TINY)


class _Reweighting(Fitting):
    """Its fixed tree holds the ``biased`` network's parameters and batch statistics."""

    def combine(self, losses: Float[Array, "B"], fixed: Tree, batch: Batch) -> jax.Array:
        biased = {**fixed["biased"], "masks": fixed["masks"]}
        logits, _ = self.apply(biased, batch.images)
        weights = weigh(cross_entropy(logits, batch.labels), jax.lax.stop_gradient(losses))
        return (weights / jnp.maximum(weights.mean(), _TINY) * losses).mean()


def start_reweighting(network: Network, config: FitConfig, augment: Augment | None = None) -> Fitting:
    """The second phase, for those who run its steps themselves."""
    return _Reweighting("clean", network, config.epochs, config.batch_size, True, augment, config)


def run_cbd(task: Task, config: CbdConfig) -> Defended:
    """Trains a biased network on the untrusted images, then a new one that leans away from it.

    Raises:
      ConfigError: batches of one image.
      DataError: labels that do not fit the network.
      DefenseError: a loss became infinite or not a number.
    """
    network, data = task.network, Batch(*map(np.asarray, task.data))
    check_set(data, network.architecture.num_classes)
    check_batches(len(data.labels), "images", {"cbd.biased": config.biased, "cbd.clean": config.clean})
    biased_key, clean_key, *keys = jax.random.split(task.key, 4)
    augment = Cutout(config.cutout, task.augment)
    phase = start_fitting("biased", network, config.biased, augment)
    biased = fit(task, phase, start_weights(task, biased_key), keys[0])
    frozen = {name: biased[name] for name in ("params", "batch_stats")}
    phase = start_reweighting(network, config.clean, augment)
    clean = fit(task, phase, start_weights(task, clean_key), keys[1], biased=frozen)
    with task.stage("select"):
        losses = (jnp.asarray(predict(network, each, data).loss[0]) for each in (biased, clean))
        weights = np.asarray(weigh(*losses))
    rule = (
        "A new network was trained on all images, each with a weight that is small where a network of "
        f"{config.biased.epochs} epochs fits it well."
    )
    return conclude_anew(task, clean, rule, suspicion=1 - weights)


cbd = Method(
    name="cbd",
    title="CBD",
    summary="Causality-inspired Backdoor Defense: train a new network that leans away from a biased one",
    basis="A new network is trained on the untrusted images, and those that a network of a few epochs fits well count "
    "little (Causality-inspired Backdoor Defense, CVPR 2023).",
    run=run_cbd,
    defaults=CbdConfig(),
    needs="untrusted",
    changes="weights",
    augments=True,
    colour="#5b3a8e",
    marker=(10, 1, 0),
)
