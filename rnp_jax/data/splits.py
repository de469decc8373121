"""Train and test parts of sources that have none of their own: fixed, disjoint, the same on every machine."""

import hashlib
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Int

from rnp_jax.data.dataset import Dataset
from rnp_jax.errors import ConfigError, DataError

Split: TypeAlias = Literal["train", "test"]

_PART = " ({} part of one set)"

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


def name_source(test: Dataset) -> str:
    """What a test part came from: its name without the part."""
    return test.name.removesuffix(" (test)").removesuffix(_PART.format("test"))


def split_whole(whole: Dataset, split: Split, undivided: bool = False) -> Dataset:
    """The train four fifths or the test fifth of a source without a test part, or all of it where it is ``undivided``.

    The fifth is one of each class, or, where no class has five images, one of all images. A test image that is, pixel
    for pixel, among the others too goes to them.

    Raises:
      DataError: if there are fewer than five images, or none is left to test on.
    """
    if undivided:
        return replace(whole, source_images=len(whole))
    test = spread_test_mask(whole.labels)
    if not test.any():
        test[HELD_OUT // 2 :: HELD_OUT] = True
    digests = np.array([hashlib.sha256(image.tobytes()).digest() for image in whole.images], object)
    learned = set(digests[~test])
    test &= np.array([digest not in learned for digest in digests], bool)
    if len(whole) < HELD_OUT or not test.any():
        raise DataError(
            f"{whole.name}: {len(whole)} images, {len(set(digests))} of them different, are too few to hold out a test "
            f"part; give {HELD_OUT} or more different images, or a test part"
        )
    part = whole.subset(test if split == "test" else ~test, f"{whole.name}{_PART.format(split)}")
    return replace(part, source_images=len(whole))
