"""Reconstructive Neuron Pruning: unlearn, recover, prune (Li et al., ICML 2023, algorithm 1)."""

import time
from dataclasses import dataclass, field

import jax

from rnp_jax import masks
from rnp_jax.defenses.phase import Progress, check_finite
from rnp_jax.defenses.prune import PruneConfig, choose, measure_damage, rank
from rnp_jax.defenses.recover import RecoverConfig, recover
from rnp_jax.defenses.result import Pruned, prune
from rnp_jax.defenses.unlearn import UnlearnConfig, unlearn
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Batch, Variables


@dataclass(frozen=True)
class RnpConfig:
    """Settings of the three steps; the release's, but for the choice of filters (see ``PruneConfig``)."""

    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)


def rnp(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: RnpConfig,
    *,
    holdout: Batch | None = None,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Defends a network with clean images.

    Args:
      network: the function of the variables.
      variables: the suspicious weights.
      data: clean images to unlearn and recover on, uint8 [N, H, W, C] and int32 [N].
      key: order and augmentation.
      config: settings of the steps.
      holdout: clean images, not in ``data``, by which the number of pruned filters is chosen.
      augment: applied to every batch of ``data``.
      progress: called after every epoch.

    Raises:
      DefenseError: unlearning or recovery diverged, or the network has nothing to mask.
    """
    unlearn_key, recover_key = jax.random.split(key)
    # Recovery and pruning replace masks: those it came with become part of the weights.
    variables = masks.bake(variables, network.placement)
    timing, warnings = {}, []

    started = time.perf_counter()
    unlearned = unlearn(network, variables, data, unlearn_key, config.unlearn, augment=augment, progress=progress)
    timing["unlearn"] = time.perf_counter() - started
    check_finite("unlearning", unlearned.history)
    if not unlearned.reached:
        warnings.append(
            f"Unlearning never reached the stop accuracy {config.unlearn.stop_accuracy:.2f}: after "
            f"{len(unlearned.history['accuracy'])} epochs it stood at {unlearned.history['accuracy'][-1]:.2f}. "
            "The masks may expose little; raise max_epochs or learning_rate."
        )

    started = time.perf_counter()
    recovered = recover(
        network, unlearned.variables, data, recover_key, config.recover, augment=augment, progress=progress
    )
    timing["recover"] = time.perf_counter() - started
    check_finite("recovery", recovered.history)
    loss = recovered.history["loss"]
    if loss[-1] > loss[0]:
        warnings.append(f"Recovery did not recover: the clean loss rose from {loss[0]:.3g} to {loss[-1]:.3g}.")

    started = time.perf_counter()
    damage = None
    if config.prune.ranking == "damage":
        damage = measure_damage(network, variables, recovered.filters, data)
    candidates = rank(config.prune.ranking, recovered.filters, recovered.history["masks"], damage)
    timing["rank"] = time.perf_counter() - started
    started = time.perf_counter()
    choice = choose(network, variables, candidates, holdout, config.prune)
    timing["choose"] = time.perf_counter() - started
    if choice.count == 0:
        why = "no mask fell to 0.90" if len(candidates.order) == 0 else "every choice costs more than the budget"
        warnings.append(f"Nothing was pruned: {why}.")
    return Pruned(
        prune(variables, candidates, choice.count),
        recovered.filters,
        "mask",
        candidates,
        choice,
        {"unlearn": unlearned.history, "recover": recovered.history},
        timing,
        tuple(warnings),
    )
