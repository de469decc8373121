"""How good a sample score is if the poisoned samples are known: for benchmarks and tables, never for a choice."""

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
      interval: 95 % bootstrap interval of ``auroc``; poisoned and clean samples are resampled separately.
      tpr: share of the poisoned samples found at a false positive rate of at most 1 %.
      poisoned: number of poisoned samples.
      clean: number of clean samples.
    """

    auroc: float
    interval: tuple[float, float]
    tpr: float
    poisoned: int
    clean: int


def judge_scores(scores: Float[np.ndarray, "N"], poisoned: Bool[np.ndarray, "N"], *, seed: int = 0) -> SampleJudgement:
    """AUROC, its interval and the TPR at 1 % FPR.

    Args:
      scores: one score per sample; a high score is suspicious.
      poisoned: which samples are poisoned.
      seed: random seed of the bootstrap.

    Raises:
      DataError: the shapes do not fit, a score is not finite, or all samples are of one kind.
    """
    scores, poisoned = np.asarray(scores, np.float64), np.asarray(poisoned, np.bool_)
    if scores.shape != poisoned.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise DataError(
            f"scores {scores.shape} with poisoned {poisoned.shape}: expected finite scores [N] and booleans [N]"
        )
    if poisoned.all() or not poisoned.any():
        raise DataError(f"{poisoned.sum()} of {poisoned.size} samples are poisoned: expected samples of both kinds")
    from sklearn.metrics import roc_auc_score, roc_curve  # takes a second to import, and only judging needs it

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

    Only the counts of the draws are needed, not the draws, so a resample costs two sums.
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
