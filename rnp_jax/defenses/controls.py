"""The rows that every table needs: no defense, no knowledge at all, and the attacker's own.

To compare scores, and not their thresholds, the random and the oracle's pruning take as many filters of each layer as
Hölder pruning does with its settings.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from rnp_jax import masks
from rnp_jax.defenses.activations import mean_activations, mean_changes
from rnp_jax.defenses.holder import HolderPruneConfig, run_holder
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended
from rnp_jax.defenses.scores import chooses_by_score, count_pruned, prune_by_score, scores_by_filter
from rnp_jax.errors import DefenseError
from rnp_jax.models import Network
from rnp_jax.types import Variables


def random_scores(network: Network, variables: Variables, key: jax.Array) -> dict[str, Float[np.ndarray, "F"]]:
    """Scores by layer with filter masks, uniform in (0, 1).

    Raises:
      DefenseError: the network has nothing to mask.
    """
    del network  # its masks say where they live
    like = masks.filters(variables["masks"])
    if not like:
        raise DefenseError("the network has no maskable layer: expected batch norm, convolutions or hidden units")
    total = sum(len(mask) for mask in like.values())
    return masks.unflatten(np.asarray(jax.random.uniform(key, (total,), minval=1e-6)), like)


def oracle_scores(
    network: Network,
    variables: Variables,
    clean: Array | np.ndarray,
    triggered: Array | np.ndarray,
) -> dict[str, Float[np.ndarray, "F"]]:
    """How much the trigger changes each filter's activation: knowledge that a defender does not have.

    The mean over images and positions of |a_k(triggered) − a_k(clean)|, behind the ReLU where a site has one, over the
    mean of |a_k(clean)| over images, positions and all channels of the layer: layers become comparable, and within a
    layer nothing changes.

    Args:
      network: the function of the variables.
      variables: the suspicious weights.
      clean: images [N, H, W, C].
      triggered: the same images with the trigger.

    Raises:
      DataError: no images, or not the same number of both.
    """
    sites = network.sites
    changes = mean_changes(network, variables, clean, triggered, sites)
    usual = {layer: row.mean() for layer, row in mean_activations(network, variables, clean, sites).items()}
    scores = {layer: row / usual[layer] if usual[layer] > 0 else row for layer, row in changes.items()}
    return scores_by_filter(network, variables, scores)


def run_none(task: Task, config: None) -> Defended:
    """Leaves the network as it is."""
    del config
    return Defended(task.variables, {}, "weights", NO_CANDIDATES, Choice(rule="Nothing is changed.", pruned=0))


def run_random(task: Task, config: HolderPruneConfig) -> Defended:
    """Prunes filters at random.

    Raises:
      DefenseError: the network has nothing to mask.
    """
    return _prune_as_many(task, config, lambda: random_scores(task.network, task.variables, task.key))


def run_oracle(task: Task, config: HolderPruneConfig) -> Defended:
    """Prunes the filters whose activations the trigger changes most.

    Raises:
      DefenseError: no images with the trigger are given.
    """
    if task.pairs is None:
        raise DefenseError("the oracle prunes by the trigger, and the trigger is not known")
    clean, triggered = task.pairs
    return _prune_as_many(task, config, lambda: oracle_scores(task.network, task.variables, clean, triggered))


def _prune_as_many(task: Task, config: HolderPruneConfig, score: Callable[[], masks.Filters]) -> Defended:
    counts = count_pruned(run_holder(task, config))
    task.timing.clear()  # Hölder pruning only says how many
    with task.stage("score"):
        scores = score()
    return prune_by_score(task.network, task.variables, scores, counts, holdout=task.holdout)


none = Method(
    name="none",
    title="No defense",
    summary="measure the checkpoint as it is",
    basis="",
    run=run_none,
    needs="none",
    changes="nothing",
    control=True,
    colour="#1f2933",
    marker="X",
)

random = Method(
    name="random",
    title="Random",
    summary="control: prune random filters, as many of each layer as Hölder pruning does",
    basis="The score of a filter is random; any method should do better.",
    run=run_random,
    defaults=HolderPruneConfig(),
    chooses=lambda config: chooses_by_score(config.threshold),
    reads="holder",
    control=True,
    colour="#8c510a",
    marker="p",
)

oracle = Method(
    name="oracle",
    title="Oracle",
    summary="control: prune the filters that the trigger changes most, as many of each layer as Hölder pruning does",
    basis="The score of a filter is how much the attacker's trigger changes its activation; no defender has the "
    "trigger, so this is a bound and not a defense.",
    run=run_oracle,
    defaults=HolderPruneConfig(),
    needs="trigger",
    chooses=lambda config: chooses_by_score(config.threshold),
    reads="holder",
    control=True,
    colour="#69737d",
    marker="*",
)
