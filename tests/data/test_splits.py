from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.splits import check_split, name_source, split_whole, spread_test_mask
from rnp_jax.errors import ConfigError, DataError


def test_only_train_and_test_are_splits():
    check_split("train")
    with pytest.raises(ConfigError, match="'validation'; choose 'train' or 'test'"):
        check_split("validation")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=80))
def test_a_fifth_of_each_class_is_marked(labels):
    labels = np.array(labels)
    mask = spread_test_mask(labels)
    for label in np.unique(labels):
        assert mask[labels == label].sum() == (labels == label).sum() // 5


def test_marks_are_spread_over_the_order():
    np.testing.assert_array_equal(np.flatnonzero(spread_test_mask(np.zeros(20, int))), [2, 7, 12, 17])
    np.testing.assert_array_equal(np.flatnonzero(spread_test_mask(np.zeros(9, int), per_class=3)), [1, 4, 7])


def test_parts_of_a_whole_are_disjoint_and_complete():
    labels = np.arange(40, dtype=np.int32) % 4
    whole = Dataset(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1), labels, tuple("abcd"), "w")
    train, test = split_whole(whole, "train"), split_whole(whole, "test")
    assert sorted([*train.images.ravel(), *test.images.ravel()]) == list(range(40))
    assert np.bincount(test.labels).tolist() == [2, 2, 2, 2]

    assert (train.source_images, test.source_images, whole.source_images) == (40, 40, None)
    assert (train.name, test.name) == ("w (train part of one set)", "w (test part of one set)")
    assert name_source(test) == "w"
    assert name_source(replace(whole, name="digits (test)")) == "digits"


def numbered(labels, values=None) -> Dataset:
    """Images of one pixel each, the number of the image by default."""
    pixels = np.arange(len(labels), dtype=np.uint8) if values is None else np.array(values, np.uint8)
    return Dataset(pixels.reshape(-1, 1, 1, 1), np.array(labels, np.int32), tuple("abcdefgh"), "tiny")


def test_an_undivided_set_is_given_whole():
    whole = numbered([0, 1, 2])
    for split in ("train", "test"):
        part = split_whole(whole, split, undivided=True)
        assert part.images is whole.images
        assert (part.name, part.source_images) == ("tiny", 3)


def test_where_no_class_has_five_images_every_fifth_is_held_out():
    whole = numbered(np.repeat(np.arange(4), 3))
    assert split_whole(whole, "test").images.ravel().tolist() == [2, 7]
    assert split_whole(whole, "train").images.ravel().tolist() == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]


def test_an_image_that_is_there_twice_is_never_on_both_sides():
    whole = numbered([0] * 20, [0, 1, 2, 3, 4, 5, 6, 2, 8, 9, 10, 11, 11, 13, 14, 15, 16, 17, 18, 19])
    train, test = split_whole(whole, "train"), split_whole(whole, "test")
    assert test.images.ravel().tolist() == [2, 2, 17]  # both of 2, and not 11, which is among the others too
    assert sorted([*train.images.ravel(), *test.images.ravel()]) == sorted(whole.images.ravel())


@pytest.mark.parametrize(("values", "different"), [(range(4), 4), ([7] * 9, 1), ([], 0)])
def test_too_few_images_to_hold_one_out(values, different):
    values = list(values)
    expected = f"tiny: {len(values)} images, {different} of them different, are too few to hold out a test part"
    with pytest.raises(DataError, match=expected):
        split_whole(numbered(np.zeros(len(values)), values), "train")
