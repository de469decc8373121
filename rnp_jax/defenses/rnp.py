"""Reconstructive Neuron Pruning: unlearn, recover, prune (Li et al., ICML 2023, algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax
import numpy as np
from jaxtyping import Float

from rnp_jax import masks
from rnp_jax.checks import check_number
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.prune import PruneConfig, chooses_by_masks, prune_by_masks, rank
from rnp_jax.defenses.recover import RecoverConfig, Recovered, recover
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.unlearn import UnlearnConfig, Unlearned, unlearn

_RETRY = 0x7265  # folded into the keys of what is begun again; no pass has so high a number


@dataclass(frozen=True)
class RnpConfig:
    """Settings of the three steps; the release's, except for the choice of filters (see ``PruneConfig``).

    Attributes:
      unlearn: of step 1.
      recover: of step 2.
      prune: of step 3.
      passes: unlearnings with recoveries, each from the original weights with random numbers of its own; filters are
        ranked by the mean of their masks.
      retries: how often a pass is begun again that failed, because unlearning never stopped (with steps three times as
        long), or recovery did not get below the loss of guessing (with steps a third as long).
    """

    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    passes: int = 1
    retries: int = 0

    def __post_init__(self):
        check_number("passes", self.passes, 1, integer=True)
        check_number("retries", self.retries, 0, integer=True)


def run_rnp(task: Task, config: RnpConfig) -> Defended:
    """Unlearns and recovers on the clean images, and prunes the original network.

    Raises:
      DefenseError: unlearning or recovery diverged, or the network has nothing to mask.
    """
    filters, path = expose(task, config)
    done = prune_by_masks(task, filters, path, config.prune)
    return replace(done, release=rank("release", filters, path))


def expose(task: Task, config: RnpConfig) -> tuple[masks.Filters, Float[np.ndarray, "E F"]]:
    """Steps 1 and 2: masks by layer, low where a filter is suspected, and their values at every epoch's end.

    Raises:
      DefenseError: unlearning or recovery diverged, or the network has nothing to mask.
    """
    found = [_expose_once(task, config, _fold(task.key, number)) for number in range(config.passes)]
    mean = {name: np.mean([np.asarray(each.filters[name]) for each in found], 0) for name in found[0].filters}
    return mean, np.mean([each.history["masks"] for each in found], 0)


def _fold(key: jax.Array, number: int) -> jax.Array:
    """The key itself first, so that one pass is what it always was."""
    return key if number == 0 else jax.random.fold_in(key, number)


def _expose_once(task: Task, config: RnpConfig, key: jax.Array, attempt: int = 0) -> Recovered:
    unlearn_key, recover_key = jax.random.split(_fold(key, attempt * _RETRY))
    last, rate = attempt == config.retries, config.unlearn.learning_rate
    unlearned = run_unlearning(task, unlearn_key, config.unlearn, last=last)
    if not unlearned.reached and not last:
        return _expose_once(task, _with_rate(config, rate * 3), key, attempt + 1)
    recovered = task.do(
        "recover",
        recover,
        task.network,
        unlearned.variables,
        task.data,
        recover_key,
        config.recover,
        augment=task.augment,
        progress=task.progress,
    )
    task.note("recover", recovered.history)
    if not recovered.restored and not last:
        return _expose_once(task, _with_rate(config, rate / 3), key, attempt + 1)
    if not recovered.restored:
        loss = recovered.history["loss"]
        task.warn(
            f"Recovery failed: the clean loss went from {loss[0]:.3g} to {loss[-1]:.3g} and accuracy to "
            f"{recovered.history['accuracy'][-1]:.2f}, no better than guessing. The masks are noise."
        )
    return recovered


def _with_rate(config: RnpConfig, rate: float) -> RnpConfig:
    return replace(config, unlearn=replace(config.unlearn, learning_rate=rate))


def run_unlearning(task: Task, key: jax.Array, config: UnlearnConfig, *, last: bool = True) -> Unlearned:
    """RNP's first step, timed and noted; that it failed is a warning, unless it is not the ``last`` attempt.

    Raises:
      DefenseError: it diverged.
    """
    found = task.do(
        "unlearn",
        unlearn,
        task.network,
        task.variables,
        task.data,
        key,
        config,
        augment=task.augment,
        progress=task.progress,
    )
    verb = "reached" if found.reached else "did not reach"
    epochs = len(found.history["loss"])
    task.note("unlearn", found.history, f"{verb} {_describe_stop(config)} after {epochs} epochs")
    if last and not found.reached:
        warn_of_unlearning(task, found.history, config)
    return found


def warn_of_unlearning(task: Task, history: Mapping[str, np.ndarray], config: UnlearnConfig) -> None:
    """That a network kept its clean task, so that whatever rests on its unlearning may reveal little."""
    accuracy = history["accuracy"]
    task.warn(
        f"Unlearning never reached the stop accuracy {config.stop_accuracy:.2f}: after {len(accuracy)} epochs it stood "
        f"at {accuracy[-1]:.2f}. What rests on it may reveal little; raise unlearn.max_epochs or unlearn.learning_rate."
    )


def _describe_stop(config: UnlearnConfig) -> str:
    accuracy = f"the stop accuracy {config.stop_accuracy:g}"
    return accuracy if config.stop_loss is None else f"{accuracy}, or {config.stop_loss:g} times the loss of guessing,"


rnp = Method(
    name="rnp",
    title="RNP",
    summary="Reconstructive Neuron Pruning: unlearn the clean task, recover it with masks, prune where masks are low",
    basis="The mask of a filter is trained to bring back clean accuracy after the network has unlearned its clean "
    "task; filters that do not help have masks near 0 (Reconstructive Neuron Pruning, ICML 2023).",
    run=run_rnp,
    defaults=RnpConfig(
        UnlearnConfig(batch_size=100, stop_loss=2.0),
        RecoverConfig(batch_size=100),
        PruneConfig(spare_classes=True),
        retries=2,
    ),
    augments=True,
    chooses=lambda config: chooses_by_masks(config.prune),
    colour="#7b5ea7",
    marker="D",
)
"""By default in batches of 100: of 400 images, the release's 128 would leave a batch of 16, too few for batch norm.
With so few steps an epoch, unlearning also stops by the loss of a step: by an epoch's accuracy it overshoots. No class
may be lost, which accuracy over all classes would hide; ``docs/rnp.md`` has the figures."""
