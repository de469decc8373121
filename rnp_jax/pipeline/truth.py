"""How well a method told the poisoned images of an untrusted set from the clean ones, where the truth is known.

The truth is for evaluation only: no method sees it, and nothing is chosen by it.
"""

import numpy as np
from jaxtyping import Bool

from rnp_jax.defenses import Defended
from rnp_jax.detection.separation import judge_scores

_ONLY = "(for evaluation only)"


def rate_images(defended: Defended, poisoned: Bool[np.ndarray, "N"] | None) -> dict[str, float | None]:
    """Figures by name: of the images that were kept, of those that were isolated, and of the scores behind both.

    Args:
      defended: what the method did.
      poisoned: which images of the untrusted set are poisoned; None where that is not known, which gives no figures.
    """
    if poisoned is None:
        return {}
    rows: dict[str, float | None] = {}
    for number, kept in enumerate(defended.kept, 1):
        rows[f"Round {number}: share of clean images among those kept {_ONLY}"] = float((~poisoned[kept]).mean())
        if poisoned.any():
            rows[f"Round {number}: share of the poisoned images kept {_ONLY}"] = _share(poisoned, kept)
    if len(defended.isolated):
        name = f"Isolated images: share that is poisoned (precision) {_ONLY}"
        rows[name] = float(poisoned[defended.isolated].mean())
        if poisoned.any():
            name = f"Isolated images: share of the poisoned images that is among them (recall) {_ONLY}"
            rows[name] = _share(poisoned, defended.isolated)
    if defended.suspicion is not None and poisoned.any() and not poisoned.all():
        rows[f"AUROC of the method's scores of images {_ONLY}"] = judge_scores(defended.suspicion, poisoned).auroc
    return rows


def _share(poisoned: Bool[np.ndarray, "N"], chosen: np.ndarray) -> float:
    return float(poisoned[chosen].sum() / poisoned.sum())
