"""Labels that a far smaller trigger reaches than the others: outliers as Neural Cleanse finds them (S&P 2019, IV.A)."""

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
    sizes: Float[np.ndarray, "K"], reached: Bool[np.ndarray, "K"], suspicious: float = 2.0, margin: float = 0.5
) -> list[int]:
    """Places of the small outliers among sizes of masks, the highest anomaly index first.

    ``suspicious`` is the index above which a label is suspected, and ``margin`` the share of the median size that its
    own may not exceed either. A label that was not ``reached`` is never suspected.
    """
    index = anomaly_index(sizes)
    small = reached & (index > suspicious) & (sizes <= margin * np.median(sizes))
    return [int(i) for i in np.argsort(-index, kind="stable") if small[i]]
