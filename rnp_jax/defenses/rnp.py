"""Reconstructive Neuron Pruning: unlearn, recover, prune (Li et al., ICML 2023, algorithm 1)."""

from dataclasses import dataclass, field, replace

import jax

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.prune import PruneConfig, chooses_by_masks, prune_by_masks, rank
from rnp_jax.defenses.recover import RecoverConfig, recover
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.unlearn import UnlearnConfig, Unlearned, unlearn


@dataclass(frozen=True)
class RnpConfig:
    """Settings of the three steps; the release's, except for the choice of filters (see ``PruneConfig``)."""

    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)


def run_rnp(task: Task, config: RnpConfig) -> Defended:
    """Unlearns and recovers on the clean images, and prunes the original network.

    Raises:
      DefenseError: unlearning or recovery diverged, or the network has nothing to mask.
    """
    unlearn_key, recover_key = jax.random.split(task.key)
    unlearned = run_unlearning(task, unlearn_key, config.unlearn)
    if not unlearned.reached:
        task.warn(
            f"Unlearning never reached the stop accuracy {config.unlearn.stop_accuracy:.2f}: after "
            f"{len(unlearned.history['accuracy'])} epochs it stood at {unlearned.history['accuracy'][-1]:.2f}. "
            "The masks may reveal little; raise max_epochs or learning_rate."
        )
    with task.stage("recover"):
        recovered = recover(
            task.network,
            unlearned.variables,
            task.data,
            recover_key,
            config.recover,
            augment=task.augment,
            progress=task.progress,
        )
    task.note("recover", recovered.history)
    loss = recovered.history["loss"]
    if loss[-1] > loss[0]:
        task.warn(f"Recovery failed: the clean loss rose from {loss[0]:.3g} to {loss[-1]:.3g}.")
    path = recovered.history["masks"]
    done = prune_by_masks(task, recovered.filters, path, config.prune)
    return replace(done, release=rank("release", recovered.filters, path))


def run_unlearning(task: Task, key: jax.Array, config: UnlearnConfig) -> Unlearned:
    """RNP's first step, timed and noted.

    Raises:
      DefenseError: it diverged.
    """
    with task.stage("unlearn"):
        found = unlearn(
            task.network, task.variables, task.data, key, config, augment=task.augment, progress=task.progress
        )
    verb = "reached" if found.reached else "did not reach"
    epochs = len(found.history["loss"])
    task.note("unlearn", found.history, f"{verb} the stop accuracy {config.stop_accuracy:g} after {epochs} epochs")
    return found


rnp = Method(
    name="rnp",
    title="RNP",
    summary="Reconstructive Neuron Pruning: unlearn the clean task, recover it with masks, prune where masks are low",
    basis="The mask of a filter is trained to bring back clean accuracy after the network has unlearned its clean "
    "task; filters that do not help have masks near 0 (Reconstructive Neuron Pruning, ICML 2023).",
    run=run_rnp,
    defaults=RnpConfig(UnlearnConfig(batch_size=100), RecoverConfig(batch_size=100)),
    augments=True,
    chooses=lambda config: chooses_by_masks(config.prune),
    colour="#7b5ea7",
    marker="D",
)
"""By default in batches of 100: of 400 images, the release's 128 would leave a batch of 16, too few for batch norm."""
