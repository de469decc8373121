"""RNP step 3: which of the filters that recovery exposed are pruned from the original network (Li et al., section 3.3).

Three rankings of the filters whose recovered mask is low:

- ``release``: by mask value. The release prunes every filter at or below a threshold; many masks end at exactly 0, and
  it prunes them all at once.
- ``damage``: in steps of the release's thresholds, and within a step by how much the clean loss rises when that filter
  alone is pruned, least first. Not in the paper.
- ``path``: by the mean of the mask over the epochs of recovery, lowest first: which filters recovery gave up first, and
  for good. It tells masks apart that all end at 0. Not in the paper.

``docs/rankings.md`` compares them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from rnp_jax import masks
from rnp_jax.defenses.method import Chooses, Task
from rnp_jax.defenses.result import Candidates, Choice, Defended, choose_within, prune
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables

Ranking = Literal["path", "damage", "release"]

THRESHOLDS = np.arange(0, 0.95, 0.05)[:19]
"""The release's: 0 to 0.90 in steps of 0.05, with its rounding."""

_ORDER: dict[Ranking, str] = {
    "path": "lowest mask over recovery first",
    "damage": "least damaging first",
    "release": "lowest final mask first",
}


@dataclass(frozen=True)
class PruneConfig:
    """How many filters are pruned, and which.

    Attributes:
      ranking: order in which filters are pruned.
      accuracy_budget: share of the held-out images by which accuracy may fall. As many filters as possible are pruned
        within it, unless ``threshold`` or ``number`` is given.
      spare_classes: whether, besides, no class may lose so many of its held-out images that the budget does not explain
        it (``result.tolerate``). Where filters serve one class, accuracy over all classes hides that it is lost.
      threshold: prune every filter whose mask is at or below this value, as the release does (needs ranking release).
      number: number of filters to prune.
    """

    ranking: Ranking = "path"
    accuracy_budget: float = 0.03
    spare_classes: bool = False
    threshold: float | None = None
    number: int | None = None

    def __post_init__(self):
        if self.threshold is not None and self.number is not None:
            raise ConfigError(f"threshold {self.threshold} and number {self.number}: give only one of them")
        if self.threshold is not None and self.ranking != "release":
            raise ConfigError(
                f"threshold {self.threshold} with ranking {self.ranking}: a threshold applies to mask values, "
                "so it needs ranking release"
            )
        if not 0 <= self.accuracy_budget <= 1 or not 0 <= (self.threshold or 0) <= 1 or (self.number or 0) < 0:
            raise ConfigError(f"{self}: expected accuracy_budget and threshold in [0, 1] and number >= 0")


def rank(
    ranking: Ranking,
    recovered: masks.Filters,
    path: Float[np.ndarray, "E F"],
    damage: Float[np.ndarray, "F"] | None = None,
) -> Candidates:
    """Orders the filters whose mask is at or below the release's last threshold.

    Args:
      ranking: see the module.
      recovered: mask values by layer.
      path: masks at the end of every epoch of recovery.
      damage: from ``measure_damage``; needed by the ranking of that name.

    Raises:
      ConfigError: the ranking needs a measure that is missing.
    """
    values = masks.flatten(recovered).astype(np.float64)
    rounded = np.round(values, 4)
    exposed = np.flatnonzero(rounded <= THRESHOLDS[-1])
    if ranking == "damage":
        if damage is None:
            raise ConfigError("ranking 'damage' needs the measured damage: pass the result of measure_damage")
        steps = np.searchsorted(THRESHOLDS, rounded)  # the first threshold at or above each mask
        order = exposed[np.lexsort((damage[exposed], steps[exposed]))]
    else:
        by = rounded if ranking == "release" else path.mean(0)
        order = exposed[np.argsort(by[exposed], kind="stable")]
    measured = np.full(len(values), np.nan) if damage is None else damage
    return Candidates(order, values[order], measured[order])


def measure_damage(
    network: Network, variables: Variables, recovered: masks.Filters, data: Batch
) -> Float[np.ndarray, "F"]:
    """Rise of the mean clean loss on ``data`` when each exposed filter alone is pruned; NaN for the others."""
    like = masks.filters(variables["masks"])
    row = masks.flatten(recovered)
    exposed = np.flatnonzero(np.round(row.astype(np.float64), 4) <= THRESHOLDS[-1])
    variants = [masks.keep(like, []), *(masks.keep(like, [int(position)]) for position in exposed)]
    loss = predict_variants(network, variables, variants, data).loss.mean(1)
    damage = np.full(len(row), np.nan)
    damage[exposed] = loss[1:] - loss[0]
    return damage


def choose(
    network: Network, variables: Variables, candidates: Candidates, holdout: Batch | None, config: PruneConfig
) -> Choice:
    """How many of the candidates to prune: as configured, or the most within the accuracy budget on ``holdout``.

    Raises:
      ConfigError: more filters to prune than are exposed, or nothing to choose by.
    """
    total, named = len(candidates.order), {"ranking": config.ranking, "threshold": config.threshold}
    if config.number is not None:
        if config.number > total:
            raise ConfigError(f"number {config.number}: only {total} filters have a mask of 0.90 or less")
        return Choice(rule=f"{config.number} filters, as requested", pruned=config.number, **named)
    if config.threshold is not None:
        rule = f"every filter with a mask of {config.threshold:g} or less, as requested"
        return Choice(rule=rule, pruned=candidates.count_at(config.threshold), **named)
    found = choose_within(
        network,
        variables,
        candidates,
        holdout,
        config.accuracy_budget,
        _ORDER[config.ranking],
        spare_classes=config.spare_classes,
    )
    return found.model_copy(update={"budget": config.accuracy_budget, **named})


def prune_by_masks(task: Task, filters: masks.Filters, path: Float[np.ndarray, "E F"], config: PruneConfig) -> Defended:
    """Prunes the original network by masks [F] a layer; ``path`` are the masks at the end of every epoch.

    Raises:
      ConfigError: as ``choose``.
    """
    with task.stage("rank"):
        damage = None
        if config.ranking == "damage":
            damage = measure_damage(task.network, task.variables, filters, task.data)
        candidates = rank(config.ranking, filters, path, damage)
    with task.stage("choose"):
        choice = choose(task.network, task.variables, candidates, task.holdout, config)
    if choice.pruned == 0:
        why = "no mask fell to 0.90" if len(candidates.order) == 0 else "every choice costs more than the budget"
        task.warn(f"Nothing was pruned: {why}.")
    return Defended(prune(task.variables, candidates, choice.pruned), filters, "mask", candidates, choice)


def chooses_by_masks(config: PruneConfig) -> Chooses:
    """What a method with these settings decides about filters."""
    return Chooses(True, config.threshold is None and config.number is None, config.number)
