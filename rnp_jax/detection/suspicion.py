"""Which scores of samples are suspicious, by a rule that does not know the truth."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from rnp_jax.errors import ConfigError, DataError


@dataclass(frozen=True)
class SuspicionRule:
    """Which scores are suspicious, without the truth.

    Attributes:
      share: that many of the set, the highest scores.
      deviations: if not None, instead all scores this many robust standard deviations (1.4826 MAD) above the median;
        3.5 is Iglewicz and Hoaglin's (1993). Useless for scores bounded from above near their median.
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
      threshold: scores from here on are suspicious.
      rule: in words.
    """

    indices: Int[np.ndarray, "S"]
    threshold: float
    rule: str


def find_suspicious(scores: Float[np.ndarray, "N"], rule: SuspicionRule) -> Suspects:
    """The samples that the rule calls suspicious; of equal scores the earlier samples.

    Raises:
      DataError: no scores, or scores that are not finite.
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
