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
from jaxtyping import Float, Int

from rnp_jax import masks
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import Proportion, share
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

_COARSE = 24  # points of the first pass over a ranking; the second looks at every number between two of them


@dataclass(frozen=True)
class PruneConfig:
    """How many filters are pruned, and which.

    Attributes:
      ranking: the order in which filters are pruned.
      accuracy_budget: share of the held-out images by which their accuracy may fall. The most filters within it are
        pruned, unless ``threshold`` or ``number`` says otherwise.
      threshold: prune every filter whose mask is at or below it, as the release does (ranking release).
      number: prune so many filters.
    """

    ranking: Ranking = "path"
    accuracy_budget: float = 0.03
    threshold: float | None = None
    number: int | None = None

    def __post_init__(self):
        if self.threshold is not None and self.number is not None:
            raise ConfigError(f"threshold {self.threshold} and number {self.number}: give one of them")
        if self.threshold is not None and self.ranking != "release":
            raise ConfigError(
                f"threshold {self.threshold} with ranking {self.ranking}: a threshold is on mask values, "
                "so it goes with ranking release"
            )
        if not 0 <= self.accuracy_budget <= 1 or not 0 <= (self.threshold or 0) <= 1 or (self.number or 0) < 0:
            raise ConfigError(f"{self}: expected accuracy_budget and threshold in [0, 1] and number >= 0")


@dataclass(frozen=True, eq=False)
class Candidates:
    """Exposed filters in the order in which they would be pruned.

    Attributes:
      order: positions [n] in ``masks.flatten``.
      values: their recovered masks [n].
      damage: rise of the clean loss when each alone is pruned [n]; NaN where it was not measured.
    """

    order: Int[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]
    damage: Float[np.ndarray, "n"]

    def count_at(self, threshold: float) -> int:
        """How many have a mask at or below the threshold, by the release's arithmetic (four decimals)."""
        return int((np.round(self.values.astype(np.float64), 4) <= threshold).sum())


@dataclass(frozen=True)
class Choice:
    """An operating point and what it cost on the images it was chosen by."""

    count: int
    rule: str
    before: Proportion | None
    after: Proportion | None


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
            raise ConfigError("ranking 'damage' needs the measured damage: pass measure_damage's result")
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
    total = len(candidates.order)
    if config.number is not None:
        if config.number > total:
            raise ConfigError(f"number {config.number}: only {total} filters have a mask of 0.90 or less")
        return Choice(config.number, f"{config.number} filters, as asked for", None, None)
    if config.threshold is not None:
        count = candidates.count_at(config.threshold)
        return Choice(count, f"every filter with a mask of {config.threshold:g} or less, as asked for", None, None)
    if holdout is None or len(holdout.labels) == 0:
        raise ConfigError("no held-out images to choose by: hold some out, or give a threshold or a number")
    coarse = sorted({round(x) for x in np.linspace(0, total, _COARSE)})
    correct = _accuracy(network, variables, candidates, coarse, holdout)
    allowed = correct[0].count - config.accuracy_budget * correct[0].total
    within = [point for point, result in zip(coarse, correct, strict=True) if result.count >= allowed]
    best, end = within[-1], next((point for point in coarse if point > within[-1]), total + 1)
    fine = [0, *range(best, end)] if best else [*range(end)]
    correct = _accuracy(network, variables, candidates, fine, holdout)
    at = max(i for i, result in enumerate(correct) if result.count >= allowed)
    rule = (
        f"the most filters, {_ORDER[config.ranking]}, that cost at most {config.accuracy_budget:.1%} of the "
        f"{correct[0].total} held-out clean images their accuracy"
    )
    return Choice(fine[at], rule, correct[0], correct[at])


def prune(variables: Variables, candidates: Candidates, count: int) -> Variables:
    """The original network with the first ``count`` candidates' filter masks at 0 and all others at 1."""
    like = masks.filters(variables["masks"])
    return masks.apply_filters(variables, masks.keep(like, candidates.order[:count]))


def _accuracy(
    network: Network, variables: Variables, candidates: Candidates, counts: list[int], data: Batch
) -> list[Proportion]:
    like = masks.filters(variables["masks"])
    variants = [masks.keep(like, candidates.order[:count]) for count in counts]
    predicted = predict_variants(network, variables, variants, data).labels
    return [share(row == np.asarray(data.labels)) for row in predicted]
