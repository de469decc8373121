"""How a recovered stamp fits a known trigger."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rnp_jax.inversion.stamps import measure_stamps

__all__ = ["changed_pixels", "measure_stamps", "overlap"]


def changed_pixels(
    clean: UInt8[np.ndarray, "N H W C"], triggered: UInt8[np.ndarray, "N H W C"]
) -> Bool[np.ndarray, "H W"]:
    """Where a known trigger changes any of the images, the same images being given without it and with it."""
    return (clean != triggered).any((0, 3))


def overlap(mask: Float[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union of a known trigger's pixels and those where the mask is above half of its largest value.

    1 where both are empty.
    """
    found = mask > mask.max() / 2
    union = int((found | known).sum())
    return int((found & known).sum()) / union if union else 1.0
