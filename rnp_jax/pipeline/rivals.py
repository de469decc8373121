"""A normalisation in use with which a network does far better than with the one that was given."""

from dataclasses import replace

import numpy as np

from rnp_jax.config import SourceOptions
from rnp_jax.data import Dataset, Normalization
from rnp_jax.evaluation.predict import predict
from rnp_jax.normaliser import is_same, spell
from rnp_jax.pipeline.candidates import list_normalizations
from rnp_jax.pipeline.images import draw_evenly
from rnp_jax.pipeline.settling import is_ahead
from rnp_jax.pipeline.suspect import Suspect

IMAGES = 200
"""Clean images that are enough to see a difference of `FAR`."""

FAR = 0.1
"""Accuracy by which another normalisation must be better, beside being so beyond chance."""


def warn_of_rivals(model: Suspect, source: SourceOptions, clean: Dataset) -> tuple[str, ...]:
    """That another normalisation fits a network far better than the one that the options give; nothing where none does.

    Args:
      model: opened with the options' normalisation.
      source: the options.
      clean: labelled images that fit the model.
    """
    if source.normalization is None or model.extractor is not None:
        return ()
    few = clean.subset(draw_evenly(clean.labels, IMAGES))
    network = model.network
    given = Normalization(network.mean, network.std)

    def hits(normalization: Normalization) -> np.ndarray:
        tried = replace(network, mean=normalization.mean, std=normalization.std)
        return predict(tried, model.variables, few.batch).labels[0] == few.labels

    own, known = hits(given), list_normalizations(network.architecture.image_shape[2])
    if own.mean() > 1 - FAR:
        return ()
    others = {name: hits(each) for name, each in known.items() if not is_same(each, given)}
    name = max(others, key=lambda each: int(others[each].sum()))
    best = others[name]
    if best.mean() - own.mean() < FAR or not is_ahead(best, own):
        return ()
    sentence = (
        f"With the normalisation that was given ({spell(given)}), the network classifies {own.mean():.1%} of "
        f"{len(few):,} clean images correctly, with --normalization {name} {best.mean():.1%}. If it was trained with "
        "the latter, no other figure counts."
    )
    return (sentence,)
