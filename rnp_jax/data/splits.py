"""Train and test parts of sources that have none of their own: fixed, disjoint, the same on every machine."""

from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Int

from rnp_jax.data.dataset import Dataset
from rnp_jax.errors import ConfigError, DataError

Split: TypeAlias = Literal["train", "test"]

HELD_OUT = 5
"""One image in so many of each class is a test image where a source has no test part."""


def check_split(split: str) -> None:
    """Raise ConfigError unless ``split`` is 'train' or 'test'."""
    if split not in get_args(Split):
        raise ConfigError(f"split is {split!r}; choose 'train' or 'test'")


def spread_test_mask(labels: Int[np.ndarray, "N"], per_class: int | None = None) -> Bool[np.ndarray, "N"]:
    """Mark ``per_class`` images of each class as test images (a fifth, where it is None).

    They are spread evenly over the order of the source, so that no random stream is involved.
    """
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = len(members) // HELD_OUT if per_class is None else per_class
        mask[members[(2 * np.arange(count) + 1) * len(members) // max(2 * count, 1)]] = True
    return mask


def split_whole(whole: Dataset, split: Split) -> Dataset:
    """The train four fifths or the test fifth of a source without a test part, stratified by class.

    Raises:
      DataError: if no class has the five images that it takes to hold one out.
    """
    test = spread_test_mask(whole.labels)
    if not test.any():
        raise DataError(
            f"{whole.name}: no class has {HELD_OUT} images, too few to hold out a test part; add images, or a test part"
        )
    return whole.subset(test if split == "test" else ~test, f"{whole.name} ({split} part of one set)")
