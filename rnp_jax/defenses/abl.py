"""Anti-Backdoor Learning (ABL): isolate the images that are learned fastest, and unlearn them.

Li et al., NeurIPS 2021. A backdoor is an easy task, so poisoned images are fitted first. Four steps, as in the release:

1. Train with local gradient ascent, sign(L - γ)·L, which holds the loss near γ: images that still fall far below it are
   suspected. The alternative is flooding, |L - γ| + γ, whose gradient is the same.
2. Isolate the share of the images with the lowest cross-entropy, in evaluation mode.
3. Train on all other images, with augmentation.
4. Ascend the cross-entropy of the isolated images, at a low learning rate. The last state is kept.

As in the release, L is the mean over a batch (the paper has it per image), both losses act without augmentation, and
batch norm is in training mode throughout. The defaults are the release's constants.

What differs: the release numbers five epochs of unlearning, the first of which only tests, so that four are run here;
it hands SGD's momentum from one step to the next, and here every step starts without; its Cutout is one pixel short
(see ``training.cutout``). Its isolated images are saved under one name and read under another, and its unlearned
network is never saved: neither has a counterpart here.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
from rnp_jax.types import Batch, Tree

Isolating = Literal["lga", "flooding"]
"""The loss of the first step: local gradient ascent, or flooding."""


@dataclass(frozen=True)
class AblConfig:
    """Settings of ABL; the defaults are the release's.

    Attributes:
      loss: loss of the first step: local gradient ascent (lga) or flooding.
      gamma: γ, the loss that both hold a batch at.
      isolate: share of the images that is isolated and unlearned, in (0, 1).
      tuning: settings of the first step, the isolation's network.
      finetune: settings of the training on all other images.
      unlearn: settings of the ascent on the isolated images.
      cutout: side of the black square that is laid on every image of the fine-tuning, after its augmentation; 0 for
        none.
    """

    loss: Isolating = "lga"
    gamma: float = 0.5
    isolate: float = 0.01
    tuning: FitConfig = field(default_factory=lambda: FitConfig(epochs=10, nesterov=True, weight_decay=1e-4))
    finetune: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=60, milestones=(40, 60), nesterov=True, weight_decay=1e-4)
    )
    unlearn: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=4, learning_rate=5e-4, nesterov=True, weight_decay=1e-4)
    )
    cutout: int = 3

    def __post_init__(self):
        if not 0 < self.isolate < 1 or not self.gamma >= 0:
            raise ConfigError(f"isolate {self.isolate}, gamma {self.gamma}: expected isolate in (0, 1) and gamma >= 0")
        if self.loss not in ("lga", "flooding"):
            raise ConfigError(f"loss {self.loss!r}: expected lga or flooding")


@dataclass(frozen=True)
class _Tuning(Fitting):
    kind: Isolating
    gamma: float

    def combine(self, losses: Float[Array, "B"], fixed: Tree, batch: Batch) -> jax.Array:
        del fixed, batch
        mean = losses.mean()
        if self.kind == "flooding":
            return jnp.abs(mean - self.gamma) + self.gamma
        return jnp.sign(jax.lax.stop_gradient(mean) - self.gamma) * mean


class _Ascent(Fitting):
    def combine(self, losses: Float[Array, "B"], fixed: Tree, batch: Batch) -> jax.Array:
        del fixed, batch
        return -losses.mean()


def start_isolating(network: Network, config: AblConfig) -> Fitting:
    """The first step's phase, for those who run its steps themselves."""
    tuning = config.tuning
    return _Tuning("isolate", network, tuning.epochs, tuning.batch_size, True, None, tuning, config.loss, config.gamma)


def start_ascent(network: Network, config: FitConfig) -> Fitting:
    """The last step's phase, for those who run its steps themselves."""
    return _Ascent("unlearn", network, config.epochs, config.batch_size, True, None, config)


def isolate_lowest(losses: Float[np.ndarray, "N"], share: float) -> Int[np.ndarray, "n"]:
    """Positions of the ⌊share·N⌋ lowest losses, ascending."""
    return np.sort(np.argsort(losses, kind="stable")[: int(share * len(losses))])


def run_abl(task: Task, config: AblConfig) -> Defended:
    """Trains a new network on the untrusted images, and makes it forget those that were learned fastest.

    Raises:
      ConfigError: a share that isolates no image, or batches of one image.
      DataError: labels that do not fit the network.
      DefenseError: a loss became infinite or not a number.
    """
    network, data = task.network, Batch(*map(np.asarray, task.data))
    check_set(data, network.architecture.num_classes)
    count = len(data.labels)
    isolated_count = int(config.isolate * count)
    if isolated_count < 2:
        raise ConfigError(
            f"abl.isolate {config.isolate} isolates {isolated_count} of {count} images: raise it to {2 / count:.2g} or "
            "more"
        )
    check_batches(count, "images", {"abl.tuning": config.tuning})
    check_batches(count - isolated_count, "images that are not isolated", {"abl.finetune": config.finetune})
    check_batches(isolated_count, "isolated images", {"abl.unlearn": config.unlearn})
    start_key, *keys = jax.random.split(task.key, 4)
    variables = fit(task, start_isolating(network, config), start_weights(task, start_key), keys[0])
    with task.stage("select"):
        losses = predict(network, variables, data).loss[0]
        isolated = isolate_lowest(losses, config.isolate)
    kept = np.setdiff1d(np.arange(count), isolated)
    phase = start_fitting("finetune", network, config.finetune, Cutout(config.cutout, task.augment))
    variables = fit(task, phase, variables, keys[1], Batch(data.images[kept], data.labels[kept]))
    ascent = start_ascent(network, config.unlearn)
    variables = fit(task, ascent, variables, keys[2], Batch(data.images[isolated], data.labels[isolated]))
    rule = (
        f"The {isolated_count} images that were learned fastest ({config.isolate:.1%}) were isolated; a new network "
        "was trained on all others and then made to forget the isolated ones."
    )
    return conclude_anew(task, variables, rule, kept=(kept,), isolated=isolated, suspicion=-losses)


abl = Method(
    name="abl",
    title="ABL",
    summary="Anti-Backdoor Learning: train a new network, isolate the images it learns fastest, and unlearn them",
    basis="A new network is trained on the untrusted images, and the images that are learned fastest are unlearned "
    "(Anti-Backdoor Learning, NeurIPS 2021).",
    run=run_abl,
    defaults=AblConfig(),
    needs="untrusted",
    changes="weights",
    augments=True,
    colour="#a0522d",
    marker=(9, 1, 0),
)
