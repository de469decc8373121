"""The models that a file may be of, where it leaves its architecture or normalisation open, and the choice of one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np

from rnp_jax.checkpoints import Model
from rnp_jax.config import SourceOptions
from rnp_jax.data import NORMALIZATIONS, Dataset, Normalization
from rnp_jax.errors import AmbiguousError, DataError, UnstatedError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models.registry import DESIGNS
from rnp_jax.pipeline.settling import Candidate, settle

AnyModel = TypeVar("AnyModel", bound=Model)

Open = Callable[[SourceOptions], AnyModel]


def settle_model(
    path: str,
    source: SourceOptions,
    clean: Dataset,
    open_one: Open[AnyModel],
    fit: Callable[[AnyModel, Dataset], tuple[AnyModel, Dataset]],
) -> AnyModel:
    """The model that classifies clean images best, of all that the file may be of; it says so in its assumptions.

    Args:
      path: of the file, for errors.
      source: what is known of it.
      clean: labelled images to try the candidates on.
      open_one: opens the file where the options say everything.
      fit: brings a model and images together.

    Raises:
      ConfigError: the images do not settle it.
      DataError: the images fit none of the models.
    """
    answers: dict[Candidate, np.ndarray] = {}
    misfit: DataError | None = None
    for candidate, model in _open_each(source, clean, open_one):
        try:
            fitted, images = fit(model, clean)
        except DataError as error:
            misfit = error
        else:
            answers[candidate] = predict(fitted.network, fitted.variables, images.batch).labels[0]
    if not answers and misfit is not None:
        raise misfit
    if len(answers) > 1:
        settled = settle(list(answers), clean.labels, answers.__getitem__, path)
        choice, sentence = settled.choice, settled.sentence
    else:
        (choice,) = answers
        height, width, _ = clean.image_shape
        told = " and ".join(f"the {name} {value}" for name, value in choice)
        sentence = f"Of all that the tensors fit, only {told} takes images of {height}x{width}."
    model = open_one(replace(source, **dict(choice)))
    by = "images" if "normalization" in dict(choice) else model.normalized_by
    return replace(model, assumptions=(sentence, *model.assumptions), normalized_by=by)


def _open_each(source: SourceOptions, clean: Dataset, open_one: Open[AnyModel]) -> Iterator[tuple[Candidate, AnyModel]]:
    """Every model that the file may be of, with the options that make it so."""
    try:
        model = open_one(source)
    except AmbiguousError as error:
        for name in error.candidates:
            if _is_made_for(name, clean.image_shape):
                for candidate, model in _open_each(replace(source, architecture=name), clean, open_one):
                    yield (("architecture", name), *candidate), model
    except UnstatedError:
        model = open_one(replace(source, normalization="identity"))
        for name, normalization in list_normalizations(model.network.architecture.image_shape[2]).items():
            network = replace(model.network, mean=normalization.mean, std=normalization.std)
            yield (("normalization", name),), replace(model, network=network)
    else:
        yield (), model


def _is_made_for(name: str, image_shape: tuple[int, int, int]) -> bool:
    largest = DESIGNS[name].largest_side
    return largest is None or max(image_shape[:2]) <= largest


def list_normalizations(channels: int) -> dict[str, Normalization]:
    """The normalisations in use for images of so many channels, by one name of each."""
    found: dict[Normalization, str] = {}
    for name, normalization in {"identity": NORMALIZATIONS["identity"], **NORMALIZATIONS}.items():
        if len(set(normalization.mean)) == len(set(normalization.std)) == 1 or len(normalization.mean) == channels:
            found.setdefault(normalization.for_channels(channels), name)
    return {name: normalization for normalization, name in found.items()}
