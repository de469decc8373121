"""What every defense returns, and how many filters to prune where clean held-out images decide it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from rnp_jax import masks
from rnp_jax.document import Count, Known, Part, Text
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import Difference, Proportion, accuracy_lost, known_share
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables

Kind: TypeAlias = Literal["mask", "score", "weights", "bounds"]
"""What a defense gives back: filters chosen by masks or by scores, tuned weights, or bounds on activations."""

_COARSE = 24  # points of the first pass over a ranking; the second looks at every number between two of them
_LEVEL = 0.05  # chance, over all classes, that one of them seems to lose too much though none does


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
      holdout_acc_lost: the difference of the two, image by image, and how sure it is.
      budget: share of the held-out accuracy that could be lost, where that decided.
    """

    rule: Text
    ranking: Text = ""
    threshold: Known = None
    thresholds: dict[Text, Known] = Field(default_factory=dict)
    pruned: Count
    holdout_acc_before: Proportion | None = None
    holdout_acc_after: Proportion | None = None
    holdout_acc_lost: Difference | None = None
    budget: Known = None


@dataclass(frozen=True, eq=False)
class Defended:
    """What a defense did.

    Attributes:
      variables: the defended weights, with the filter masks of the pruned network.
      values: by layer, what the choice of filters rests on [F]; empty where none was made.
      kind: of ``values``: ``mask`` in [0, 1], low where a filter is suspected, or ``score``, high where it is;
        ``weights`` where the defense chooses no filters and tunes all weights, ``bounds`` where it bounds activations.
      candidates: the suspected filters, in the order of pruning.
      choice: how many of them were pruned, and why.
      unchanged: whether the method looked at the network and left it as it came.
      release: the order of the RNP release for the same masks, where they come from recovery.
      network: the function of ``variables``, where the defense trained a new one.
      extractor: the network and weights whose features ``network`` reads, where it is a head.
      kept: positions of the untrusted images that were held to be clean, a row a round.
      isolated: positions of the untrusted images that were held to be poisoned.
      suspicion: what each untrusted image was judged by [N], high where it is suspected; None where none was judged.
      history: by phase, the series of its epochs.
      stops: by phase, why it ended, where it did not just run all its epochs.
      timing: seconds by stage, compilation included.
      warnings: what did not go as planned, one sentence each.
    """

    variables: Variables
    values: masks.Filters
    kind: Kind
    candidates: Candidates
    choice: Choice
    unchanged: bool = False
    release: Candidates | None = None
    network: Network | None = None
    extractor: tuple[Network, Variables] | None = None
    kept: tuple[Int[np.ndarray, "_"], ...] = ()
    isolated: Int[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(0, np.int64))
    suspicion: Float[np.ndarray, "N"] | None = None
    history: Mapping[str, dict[str, np.ndarray]] = field(default_factory=dict)
    stops: Mapping[str, str] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def prunes(self) -> bool:
        """Whether filters were chosen."""
        return self.kind in ("mask", "score")


NO_CANDIDATES = Candidates(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
"""Of a defense that chooses no filters."""


def choose_within(
    network: Network,
    variables: Variables,
    candidates: Candidates,
    holdout: Batch | None,
    accuracy_budget: float,
    order: str,
    *,
    spare_classes: bool = False,
) -> Choice:
    """The most candidates whose pruning costs at most the budget of the accuracy on held-out clean images.

    Args:
      network: the function of the variables.
      variables: the network to prune.
      candidates: in the order of pruning.
      holdout: clean images that played no part in that order.
      accuracy_budget: share of them that may be lost.
      order: the order in words, for the rule.
      spare_classes: whether, besides, no class may lose more than ``tolerate`` allows.

    Raises:
      ConfigError: nothing is held out.
    """
    if holdout is None or len(holdout.labels) == 0:
        raise ConfigError("no held-out images to choose by: hold some out, or give a threshold or a number")
    total, labels = len(candidates.order), np.asarray(holdout.labels)

    def look(counts: list[int]) -> tuple[Bool[np.ndarray, "M N"], list[int]]:
        right = _right(network, variables, candidates, counts, holdout)
        within = right.sum(1) >= right[0].sum() - accuracy_budget * len(labels)
        if spare_classes:
            lost, sizes = _lost(right, labels)
            within &= (lost <= tolerate(sizes, accuracy_budget)).all(1)
        return right, np.flatnonzero(within).tolist()

    coarse = sorted({round(x) for x in np.linspace(0, total, _COARSE)})
    best = coarse[look(coarse)[1][-1]]
    end = next((point for point in coarse if point > best), total + 1)
    fine = [0, *range(best, end)] if best else [*range(end)]
    right, within = look(fine)
    at = within[-1]
    cost = measure_cost(right[0], right[at])
    rule = (
        f"as many filters as possible, {order}, while accuracy falls by at most {accuracy_budget:.1%} of the "
        f"{len(labels)} held-out clean images"
        f"{', and no class loses more than chance explains' if spare_classes else ''}"
        f"{_name_worst(right[[0, at]], labels)}; it fell by {cost['holdout_acc_lost']}"
    )
    return Choice(rule=rule, pruned=fine[at]).model_copy(update=cost)


def measure_cost(before: Bool[np.ndarray, "N"], after: Bool[np.ndarray, "N"]) -> dict[str, Proportion | Difference]:
    """What a choice says of the accuracy on held-out images, by the names of its fields.

    Args:
      before: whether the suspicious network is right about each.
      after: the same of the defended one.
    """
    return {
        "holdout_acc_before": known_share(before),
        "holdout_acc_after": known_share(after),
        "holdout_acc_lost": accuracy_lost(before, after),
    }


def tolerate(sizes: Int[np.ndarray, "K"], accuracy_budget: float) -> Int[np.ndarray, "K"]:
    """The most images that each class of these sizes may lose.

    If every image is lost with the probability of the budget, the chance that any class at all loses more is about 5 %
    at most (binomial, Bonferroni's correction for the number of classes).
    """
    from scipy.stats import binom  # slow to import, and few runs need it

    return binom.isf(_LEVEL / len(sizes), sizes, accuracy_budget).astype(np.int64)


def _lost(
    right: Bool[np.ndarray, "M N"], labels: Int[np.ndarray, "N"]
) -> tuple[Int[np.ndarray, "M K"], Int[np.ndarray, "K"]]:
    """How many more images of each class present are wrong than in the first row, and how many there are."""
    classes, sizes = np.unique(labels, return_counts=True)
    hits = np.stack([right[:, labels == label].sum(1) for label in classes], 1)
    return hits[0] - hits, sizes


def _name_worst(right: Bool[np.ndarray, "2 N"], labels: Int[np.ndarray, "N"]) -> str:
    """Of the class that loses the largest share, how much; nothing where none loses any."""
    lost, sizes = _lost(right, labels)
    worst = int((lost[1] / sizes).argmax())
    if lost[1, worst] <= 0:
        return ""
    return f"; class {np.unique(labels)[worst]} loses most, {lost[1, worst]} of its {sizes[worst]}"


def prune(variables: Variables, candidates: Candidates, count: int) -> Variables:
    """The network with the first ``count`` candidates' filter masks at 0 and all others at 1."""
    like = masks.filters(variables["masks"])
    return masks.apply_filters(variables, masks.keep(like, candidates.order[:count]))


def _right(
    network: Network, variables: Variables, candidates: Candidates, counts: list[int], data: Batch
) -> Bool[np.ndarray, "M N"]:
    """Which images the network is right about with so many candidates pruned."""
    like = masks.filters(variables["masks"])
    variants = [masks.keep(like, candidates.order[:count]) for count in counts]
    return predict_variants(network, variables, variants, data).labels == np.asarray(data.labels)
