"""What every defense returns, and how many filters to prune where clean held-out images decide it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from rnp_jax import masks
from rnp_jax.document import Count, Known, Part, Text
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import Proportion, known_share
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables

_COARSE = 24  # points of the first pass over a ranking; the second looks at every number between two of them


@dataclass(frozen=True, eq=False)
class Candidates:
    """Suspected filters in the order in which they would be pruned.

    Attributes:
      order: positions [n] in ``masks.flatten``.
      values: their masks or scores [n].
      damage: rise of the clean loss when each alone is pruned [n]; NaN where it was not measured.
    """

    order: Int[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]
    damage: Float[np.ndarray, "n"]

    def count_at(self, threshold: float) -> int:
        """How many have a mask at or below the threshold, by the RNP release's arithmetic (four decimals)."""
        return int((np.round(self.values.astype(np.float64), 4) <= threshold).sum())


class Choice(Part):
    """The operating point that a defender chooses from clean data alone, and what it costs on the held-out images.

    Attributes:
      rule: why so many of the candidates are pruned, in words.
      ranking: what the order of the candidates is called; by default the method's name.
      threshold: on masks, where one decided.
      thresholds: by layer, where each has its own.
      pruned: how many of the candidates are pruned.
      holdout_acc_before: accuracy on held-out clean images before pruning; None where it was not measured.
      holdout_acc_after: the same after it.
      budget: share of the held-out accuracy that could be lost, where that decided.
    """

    rule: Text
    ranking: Text = ""
    threshold: Known = None
    thresholds: dict[Text, Known] = Field(default_factory=dict)
    pruned: Count
    holdout_acc_before: Proportion | None = None
    holdout_acc_after: Proportion | None = None
    budget: Known = None


@dataclass(frozen=True, eq=False)
class Defended:
    """What a defense did.

    Attributes:
      variables: the defended weights, with the filter masks of the pruned network.
      values: by layer, what the choice of filters rests on [F]; empty where none was made.
      kind: of ``values``: ``mask`` in [0, 1], low where a filter is suspected, or ``score``, high where it is;
        ``weights`` where the defense chooses no filters and tunes all weights.
      candidates: the suspected filters, in the order of pruning.
      choice: how many of them were pruned, and why.
      unchanged: whether the method looked at the network and left it as it came.
      release: the order of the RNP release for the same masks, where they come from recovery.
      network: the function of ``variables``, where the defense trained a new one.
      extractor: the network and weights whose features ``network`` reads, where it is a head.
      kept: positions of the untrusted images that were held to be clean, a row a round.
      history: by phase, the series of its epochs.
      stops: by phase, why it ended, where it did not just run all its epochs.
      timing: seconds by stage, compilation included.
      warnings: what did not go as planned, one sentence each.
    """

    variables: Variables
    values: masks.Filters
    kind: Literal["mask", "score", "weights"]
    candidates: Candidates
    choice: Choice
    unchanged: bool = False
    release: Candidates | None = None
    network: Network | None = None
    extractor: tuple[Network, Variables] | None = None
    kept: tuple[Int[np.ndarray, "_"], ...] = ()
    history: Mapping[str, dict[str, np.ndarray]] = field(default_factory=dict)
    stops: Mapping[str, str] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def prunes(self) -> bool:
        """Whether filters were chosen."""
        return self.kind != "weights"


NO_CANDIDATES = Candidates(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
"""Of a defense that chooses no filters."""


def choose_within(
    network: Network,
    variables: Variables,
    candidates: Candidates,
    holdout: Batch | None,
    accuracy_budget: float,
    order: str,
) -> Choice:
    """The most candidates whose pruning costs at most the budget of the accuracy on held-out clean images.

    Args:
      network: the function of the variables.
      variables: the network to prune.
      candidates: in the order of pruning.
      holdout: clean images that played no part in that order.
      accuracy_budget: share of them that may be lost.
      order: the order in words, for the rule.

    Raises:
      ConfigError: nothing is held out.
    """
    if holdout is None or len(holdout.labels) == 0:
        raise ConfigError("no held-out images to choose by: hold some out, or give a threshold or a number")
    total = len(candidates.order)
    coarse = sorted({round(x) for x in np.linspace(0, total, _COARSE)})
    correct = _accuracy(network, variables, candidates, coarse, holdout)
    allowed = correct[0].count - accuracy_budget * correct[0].total
    within = [point for point, result in zip(coarse, correct, strict=True) if result.count >= allowed]
    best, end = within[-1], next((point for point in coarse if point > within[-1]), total + 1)
    fine = [0, *range(best, end)] if best else [*range(end)]
    correct = _accuracy(network, variables, candidates, fine, holdout)
    at = max(i for i, result in enumerate(correct) if result.count >= allowed)
    rule = (
        f"as many filters as possible, {order}, while accuracy falls by at most {accuracy_budget:.1%} of the "
        f"{correct[0].total} held-out clean images"
    )
    return Choice(rule=rule, pruned=fine[at], holdout_acc_before=correct[0], holdout_acc_after=correct[at])


def prune(variables: Variables, candidates: Candidates, count: int) -> Variables:
    """The network with the first ``count`` candidates' filter masks at 0 and all others at 1."""
    like = masks.filters(variables["masks"])
    return masks.apply_filters(variables, masks.keep(like, candidates.order[:count]))


def _accuracy(
    network: Network, variables: Variables, candidates: Candidates, counts: list[int], data: Batch
) -> list[Proportion]:
    like = masks.filters(variables["masks"])
    variants = [masks.keep(like, candidates.order[:count]) for count in counts]
    predicted = predict_variants(network, variables, variants, data).labels
    return [known_share(row == np.asarray(data.labels)) for row in predicted]
