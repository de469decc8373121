"""What several commands begin with: a model, with its extractor, and a folder for what they write."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rnp_jax.card import ExtractorCard
from rnp_jax.checkpoints import Model, load_model
from rnp_jax.checks import check_path
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions
from rnp_jax.data import NORMALIZATIONS, Dataset, parse_normalization
from rnp_jax.errors import AmbiguousError, ArchitectureError, DataError, RnpError, UnstatedError, UnusableDataError
from rnp_jax.extractors import Extractor, open_extractor
from rnp_jax.pipeline.candidates import settle_model
from rnp_jax.pipeline.holding import check_unfinished
from rnp_jax.pipeline.images import draw_evenly, fit_images, load_images, naming_data
from rnp_jax.pipeline.settling import IMAGES
from rnp_jax.pipeline.suspect import Suspect, as_suspect


def open_model(path: str, source: SourceOptions, compute: ComputeOptions, images: DataOptions | None = None) -> Suspect:
    """The model, as the options say, and for images of its card's size where they leave that open.

    Where the file leaves its architecture or its normalisation open, that is settled on the clean ``images``, if given.

    Raises:
      ConfigError: the images do not settle what the file leaves open.
      CheckpointError, ArchitectureError, DataError: it, or its extractor, cannot be used.
      UnusableDataError: its extractor is not there, or another than it was trained on.
    """
    try:
        return _open(path, source, compute)
    except (AmbiguousError, UnstatedError):
        if images is None or images.data is None:
            raise
    return settle_model(path, source, _draw_clean(images), lambda each: _open(path, each, compute), fit_images)


@lru_cache(maxsize=2)
def _draw_clean(images: DataOptions) -> Dataset:
    """A few clean images to settle on what a file leaves open; the files of a sweep have the same."""
    with naming_data(images):
        data = load_images(replace(images, test_images=None), "test", undivided=True)
    return data.subset(draw_evenly(data.labels, IMAGES))


def _open(path: str, source: SourceOptions, compute: ComputeOptions) -> Suspect:
    if source.extractor is not None and not Path(source.extractor).exists():
        raise UnusableDataError(f"--extractor {source.extractor}: nothing is there; give a checkpoint or a folder")
    extractor = None if source.extractor is None else open_extractor(source.extractor)
    arguments = source_arguments(source)
    normalization = None if source.normalization is None else parse_normalization(source.normalization)
    if extractor is not None:  # what it gives is all that a head's card would say
        arguments["image_shape"] = arguments["image_shape"] or (1, 1, extractor.dim)
        normalization = normalization or NORMALIZATIONS["identity"]
    try:
        model = load_model(
            path,
            normalization=normalization,
            placement=compute.placement,
            **compute.arithmetic._asdict(),
            **arguments,
        )
    except ArchitectureError as error:
        if extractor is None or isinstance(error, AmbiguousError):
            raise
        raise ArchitectureError(
            f"{path} is not a head on the {extractor.dim} features of {extractor.name}: {error}"
        ) from error
    if model.card is not None and model.card.extractor is not None:
        extractor = _open_carded(model, model.card.extractor) if extractor is None else extractor
        _check_same(extractor, model.card.extractor)
    reads = math.prod(model.network.architecture.image_shape)
    if extractor is not None and extractor.dim != reads:
        raise DataError(f"{extractor.name} gives {extractor.dim} features, but {path} reads {reads}")
    return replace(as_suspect(model), extractor=extractor)


def _open_carded(model: Model, card: ExtractorCard) -> Extractor:
    path = model.checkpoint.path.parent / card.path
    if not path.exists():
        raise UnusableDataError(
            f"{path} does not exist; {model.checkpoint.path} was trained on this extractor, {card.name}: "
            "put it there, or give its path with --extractor"
        )
    try:
        return open_extractor(path)
    except RnpError as error:
        raise UnusableDataError(f"the extractor of {model.checkpoint.path} cannot be used: {error}") from error


def _check_same(extractor: Extractor, card: ExtractorCard) -> None:
    found = extractor.provenance.get("sha256")
    if found != card.sha256:
        raise UnusableDataError(
            f"{extractor.provenance.get('path')} has sha256 {found}, but the head was trained on features of "
            f"{card.name}, sha256 {card.sha256}; give that extractor's path with --extractor"
        )


def source_arguments(source: SourceOptions) -> dict[str, Any]:
    """The options that ``open_checkpoint`` takes."""
    return {
        "key": source.key,
        "prefix": source.prefix,
        "architecture": source.architecture,
        "image_shape": source.image_shape,
        "check_crc": not source.allow_bad_crc,
    }


def choose_out(out: str | None, model: str, command: str, finished: str) -> Path:
    """The output folder: as given, or ``runs/COMMAND-STEM``. It is not made yet.

    Raises:
      ConfigError: its name is not UTF-8.
      DataError: it holds ``finished``, the last file of an earlier run, or is no folder.
    """
    folder = Path(out) if out else Path("runs") / f"{command}-{Path(model).stem}"
    check_path("--out", folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder; choose another with --out")
    check_unfinished(folder, command, finished)
    return folder
