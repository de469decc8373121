"""The images that a command is given: those that a defender has, and those that everything is measured on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from rnp_jax.config import DataOptions, DefenseSetOptions
from rnp_jax.data import Dataset, check_overlap, holdout_split, load, sample_defense_set, validate
from rnp_jax.errors import ConfigError, DataError, UnusableDataError
from rnp_jax.pipeline.image_size import follow_images
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.types import Batch


def open_data(
    model: Suspect, options: DataOptions, split: Literal["train", "test"], *, undivided: bool = False
) -> Dataset:
    """One part of the data, checked against the model; where it has no test part, all of it if ``undivided``.

    Where the model's size is assumed, images of any size that its weights allow are right: see ``follow_images``.

    Raises:
      ConfigError: neither the options nor a card name the data.
      DataError: the images do not fit the model.
    """
    carded = options.data is None and model.card is not None
    size = model.network.architecture.image_shape[:2] if carded and model.extractor is None else None
    named = replace(options, data=model.card.data) if carded and model.card else options
    with naming_data(options):
        data = load_images(named, split, size, undivided=undivided)
    return fit_images(model, data)[1]


@contextmanager
def naming_data(options: DataOptions) -> Iterator[None]:
    """Errors of images that cannot be used begin with the option that names them, where one does."""
    try:
        yield
    except UnusableDataError as error:
        if options.data is None:
            raise
        reason = str(error).removeprefix(f"{options.data}: ")
        raise UnusableDataError(f"--data {options.data}: {reason}") from error


def fit_images(model: Suspect, data: Dataset) -> tuple[Suspect, Dataset]:
    """The model and the images for each other: its input takes their size if it may, and all its classes have names.

    Raises:
      DataError: the images do not fit the model.
    """
    model = model if model.extractor is not None else follow_images(model, data.image_shape)
    architecture = model.network.architecture
    shape = None if model.extractor is not None else architecture.image_shape  # an extractor takes images of any size
    validate(data, num_classes=architecture.num_classes, image_shape=shape)
    return model, data.with_classes(architecture.num_classes)


def load_images(
    options: DataOptions,
    split: Literal["train", "test"],
    size: tuple[int, int] | None = None,
    *,
    undivided: bool = False,
) -> Dataset:
    """One part of the data that the options name; where it has no test part, all of it if ``undivided``.

    ``size`` is what its images are brought to unless the options say it.

    Raises:
      ConfigError: they name none.
      UnusableDataError: it is not there, or cannot be read.
    """
    if options.data is None:
        raise ConfigError("no data: give --data, such as cifar10, digits, or a folder of images")
    side = options.image_size or size
    try:
        data = load(options.data, split=split, data_dir=options.data_dir, image_size=side, undivided=undivided)
    except DataError as error:
        raise UnusableDataError(str(error)) from error
    if split == "test" and options.test_images is not None and options.test_images < len(data):
        data = data.subset(draw_evenly(data.labels, options.test_images))
    return data


def open_images(
    model: Suspect, images: DataOptions, defense: DefenseSetOptions, *, unused: bool = False
) -> tuple[Batch, Batch | None, Dataset]:
    """The clean images a defender has, those of them held out to choose by (None without), and the test images.

    Where the data has no test part of its own, a fifth of it is measured on, and the defender's images come from the
    rest: all of it, where more are asked for. A class that is short gives all it has, and the others give more. With
    ``unused``, what the defender leaves of the rest is measured on too, unless the options limit the test images.

    Raises:
      ConfigError: neither the options nor a card name the data.
      DataError: the images do not fit the model, are too few, or are test images.
    """
    train = open_data(model, images, "train")
    model, _ = fit_images(model, train)
    test = open_data(model, images, "test")
    scarce = train.source_images is not None
    size = min(defense.size, len(train)) if scarce else defense.size
    drawn, taken = sample_defense_set(train, size, seed=defense.seed, stratified=defense.stratified, uneven=scarce)
    if unused and scarce and images.test_images is None:
        test = _add_unused(test, train, taken)
    check_overlap(drawn, test)
    if defense.holdout == 0:
        return drawn, None, test
    data, holdout = holdout_split(drawn, defense.holdout, defense.seed)
    return data, holdout, test


def _add_unused(test: Dataset, train: Dataset, taken: Int[np.ndarray, "n"]) -> Dataset:
    """The test images and, after them, those that were not taken and are like none that was, pixel for pixel."""
    known = {train.images[i].tobytes() for i in taken}
    rest = [i for i in np.setdiff1d(np.arange(len(train)), taken) if train.images[i].tobytes() not in known]
    joined = (np.concatenate([ours, more[rest]]) for ours, more in zip(test.batch, train.batch, strict=True))
    images, labels = joined
    return replace(test, images=images, labels=labels)


def tell_parts(data: Batch, holdout: Batch | None, test: Dataset) -> str | None:
    """What the images of a source without a test part are used for; None where it has one."""
    if test.source_images is None:
        return None
    held = "" if holdout is None else f"{len(holdout.labels):,} to choose by, "
    return (
        f"the {test.source_images:,} images have no test part of their own: {len(data.labels):,} to learn from, {held}"
        f"{len(test):,} to measure on"
    )


def draw_evenly(labels: Int[np.ndarray, "N"], count: int) -> Int[np.ndarray, "n"]:
    """Positions of at most ``count`` labels, the first of each class, as evenly as the classes allow; ascending."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:count])
