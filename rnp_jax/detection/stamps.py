"""How a recovered stamp fits a known trigger."""

import numpy as np
from jaxtyping import Bool, Float, UInt8


def changed_pixels(
    clean: UInt8[np.ndarray, "N H W C"], triggered: UInt8[np.ndarray, "N H W C"]
) -> Bool[np.ndarray, "H W"]:
    """Pixels that a known trigger changes in any image, from the same images without the trigger and with it."""
    return (clean != triggered).any((0, 3))


def overlap(mask: Float[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union of a known trigger's pixels and the pixels where the mask exceeds half of its maximum.

    It is 1 if both are empty.
    """
    found = mask > mask.max() / 2
    union = int((found | known).sum())
    return int((found & known).sum()) / union if union else 1.0
