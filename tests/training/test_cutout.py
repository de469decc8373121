"""Cutout against a plain loop over the squares that it can lay."""

import jax
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.training.cutout import Cutout

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 5, 7, 3), np.uint8)


def squares(size: int) -> set[bytes]:
    """Every mask that a square of this size leaves, its centre anywhere in the image."""
    found = set()
    for y in range(5):
        for x in range(7):
            mask = np.ones((5, 7), bool)
            top, left = y - size // 2, x - size // 2
            mask[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = False
            found.add(mask.tobytes())
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_each_image_has_one_black_square_and_is_left_alone_elsewhere(size):
    cut = np.asarray(Cutout(size)(jax.random.key(0), IMAGES))
    assert cut.dtype == np.uint8
    left = (cut == IMAGES).all(-1)
    assert {mask.tobytes() for mask in left} <= squares(size)
    assert len({mask.tobytes() for mask in left}) > 15
    assert (cut[~left] == 0).all()


def test_it_comes_after_the_other_augmentation():
    shifted = Cutout(2, first=lambda _, images: images[:, ::-1])(jax.random.key(1), IMAGES)
    left = (np.asarray(shifted) == IMAGES[:, ::-1]).all(-1)
    assert {mask.tobytes() for mask in left} <= squares(2)


def test_without_a_size_it_does_nothing_and_a_negative_one_is_refused():
    np.testing.assert_array_equal(Cutout(0)(jax.random.key(0), IMAGES), IMAGES)
    with pytest.raises(ConfigError, match="cutout -1"):
        Cutout(-1)
