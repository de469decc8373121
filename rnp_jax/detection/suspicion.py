"""Chooses the suspicious samples from their scores, by a rule that does not know which samples are poisoned."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from rnp_jax.errors import ConfigError, DataError


@dataclass(frozen=True)
class SuspicionRule:
    """A rule that chooses suspicious scores without knowing which samples are poisoned.

    Attributes:
      share: share of the set to choose; the highest scores are taken.
      deviations: if not None, choose instead all scores that exceed the median by more than this many robust standard
        deviations (1.4826 MAD); Iglewicz and Hoaglin (1993) use 3.5. Useless for scores with an upper bound near
        their median.
    """

    share: float = 0.05
    deviations: float | None = None

    def __post_init__(self):
        if not 0 < self.share <= 1 or (self.deviations is not None and not self.deviations > 0):
            raise ConfigError(f"{self}: expected share in (0, 1] and deviations above 0")


@dataclass(frozen=True, eq=False)
class Suspects:
    """The suspicious samples.

    Attributes:
      indices: positions in the set, the most suspicious first.
      threshold: scores from this value up are suspicious.
      rule: the rule, in words.
    """

    indices: Int[np.ndarray, "S"]
    threshold: float
    rule: str


def find_suspicious(scores: Float[np.ndarray, "N"], rule: SuspicionRule) -> Suspects:
    """The samples that the rule calls suspicious. Among equal scores, earlier samples come first.

    Raises:
      DataError: there are no scores, or a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise DataError(f"scores of shape {scores.shape}: expected one or more finite numbers [N]")
    order = np.argsort(-scores, kind="stable")
    if rule.deviations is None:
        count = max(1, round(rule.share * len(scores)))
        return Suspects(
            order[:count], float(scores[order[count - 1]]), f"the {rule.share:.3g} of the set with the highest scores"
        )
    median = float(np.median(scores))
    threshold = median + rule.deviations * 1.4826 * float(np.median(np.abs(scores - median)))
    words = f"scores above the median by more than {rule.deviations:g} robust standard deviations"
    return Suspects(order[scores[order] > threshold], threshold, words)
