"""How far a trigger moves features: what explains why a score of neurons finds it or not."""

import numpy as np

from rnp_jax.pipeline.sets import EvaluationSets
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.training.extended import extract

COVARIATE = "trigger shift / class distance"


def measure_shift(model: Suspect, sets: EvaluationSets) -> float | None:
    """How far the trigger moves features, over how far classes lie apart; None where the trigger is not known.

    The mean over triggered images of ‖φ(x + trigger) − φ(x)‖₂, over the mean distance between two classes' mean
    features. Where it is small, a trigger hides among what distinguishes images of one class.
    """
    if sets.triggered is None:
        return None
    clean, triggered = (np.asarray(images) for images in (sets.clean.images, sets.triggered.images))
    if model.extractor is None:
        clean, triggered = (extract(model.network, model.variables, images) for images in (clean, triggered))
    clean, triggered = (values.reshape(len(values), -1) for values in (clean, triggered))
    labels = np.asarray(sets.clean.labels)
    means = np.stack([clean[labels == label].mean(0) for label in np.unique(labels)])
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)
    distance = apart.sum() / (len(means) * (len(means) - 1)) if len(means) > 1 else np.nan
    shift = np.linalg.norm(triggered - clean[sets.triggered.indices], axis=-1).mean()
    return float(shift / distance) if distance > 0 else None
