"""Labels that a far smaller trigger reaches than the others: outliers as Neural Cleanse finds them (S&P 2019, IV.A)."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

CONSISTENCY = 1.4826
"""Of the median absolute deviation with a normal distribution's standard deviation."""


def anomaly_index(norms: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """How far each norm lies below the median, in consistent median absolute deviations; negative above it.

    Where more than half of the norms are equal, any other is infinitely far away.
    """
    below = np.median(norms) - norms
    deviation = CONSISTENCY * np.median(np.abs(below))
    far = np.where(below == 0, 0.0, np.copysign(np.inf, below))
    return far if deviation == 0 else below / deviation


def find_outliers(
    sizes: Float[np.ndarray, "K"],
    reached: Bool[np.ndarray, "K"],
    suspicious: float = 2.0,
    margin: float = 0.5,
    clear: float = 0.0,
) -> list[int]:
    """Places of the small outliers among sizes of masks, the highest anomaly index first.

    Args:
      sizes: in pixels.
      reached: whether the wanted success was reached; a label that was not is never suspected.
      suspicious: index above which a label is suspected.
      margin: share of the median size that its own may not exceed either.
      clear: share of the median size at or below which a label is suspected whatever its index, however widely the
        sizes of the others scatter.
    """
    index, share = anomaly_index(sizes), sizes / np.median(sizes)
    small = reached & (((index > suspicious) & (share <= margin)) | (share <= clear))
    return [int(i) for i in np.argsort(-index, kind="stable") if small[i]]


def stands_out(success: Any, ordinary: float, works: float, ahead: float) -> Any:
    """Whether a label is reached with at least the success ``works``, and ``ahead`` times that of an ordinary label.

    ``success`` is a share, or an array of them.
    """
    return success >= max(works, ahead * ordinary)


def find_reached(success: Float[np.ndarray, "K"], ordinary: float, works: float, ahead: float) -> list[int]:
    """Places of the labels that stand out by success, the most successful first."""
    out = stands_out(success, ordinary, works, ahead)
    return [int(i) for i in np.argsort(-success, kind="stable") if out[i]]
