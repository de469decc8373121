"""What a sample score is worth where the truth is known: for benchmarks and tables, never for a choice."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from rnp_jax.errors import DataError

FPR = 0.01
"""The false positive rate at which the true positive rate is reported."""

RESAMPLES = 1000


@dataclass(frozen=True)
class SampleJudgement:
    """How well scores tell poisoned samples from clean ones.

    Attributes:
      auroc: area under the ROC curve.
      interval: its 95 % bootstrap interval, poisoned and clean samples resampled apart.
      tpr: share of the poisoned samples found at a false positive rate of at most 1 %.
      poisoned: how many there are.
      clean: how many there are.
    """

    auroc: float
    interval: tuple[float, float]
    tpr: float
    poisoned: int
    clean: int


def judge_scores(scores: Float[np.ndarray, "N"], poisoned: Bool[np.ndarray, "N"], *, seed: int = 0) -> SampleJudgement:
    """AUROC, its interval and the TPR at 1 % FPR.

    Args:
      scores: high is suspicious.
      poisoned: the truth.
      seed: of the bootstrap.

    Raises:
      DataError: scores and truth that do not belong together, or only one kind of sample.
    """
    scores, poisoned = np.asarray(scores, np.float64), np.asarray(poisoned, np.bool_)
    if scores.shape != poisoned.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise DataError(
            f"scores {scores.shape} with a truth {poisoned.shape}: expected finite scores [N] and booleans [N]"
        )
    if poisoned.all() or not poisoned.any():
        raise DataError(f"{poisoned.sum()} of {poisoned.size} samples are poisoned: expected some of either kind")
    from sklearn.metrics import roc_auc_score, roc_curve  # a second to import, and only judging needs it

    false, true, _ = roc_curve(poisoned, scores, drop_intermediate=False)
    return SampleJudgement(
        float(roc_auc_score(poisoned, scores)),
        _bootstrap(scores[poisoned], scores[~poisoned], seed),
        float(true[false <= FPR].max()),
        int(poisoned.sum()),
        int((~poisoned).sum()),
    )


def _bootstrap(high: np.ndarray, low: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentiles of the AUROC over resamples, from how many clean samples each poisoned one beats (ties count half).

    Counts of draws stand for the draws themselves, so that a resample costs two sums.
    """
    rng = np.random.default_rng(seed)
    values, places = np.unique(np.concatenate([high, low]), return_inverse=True)
    areas = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = [
            np.bincount(part[rng.integers(0, len(part), len(part))], minlength=len(values))
            for part in (places[: len(high)], places[len(high) :])
        ]
        below = np.cumsum(drawn[1]) - drawn[1] / 2
        areas[i] = (drawn[0] * below).sum() / (len(high) * len(low))
    low_end, high_end = np.percentile(areas, [2.5, 97.5])
    return float(low_end), float(high_end)
