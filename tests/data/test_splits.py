import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.splits import check_split, split_whole, spread_test_mask
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


def test_too_few_images_to_hold_one_out():
    whole = Dataset(np.zeros((8, 1, 1, 1), np.uint8), np.arange(8, dtype=np.int32) % 2, ("a", "b"), "tiny")
    with pytest.raises(DataError, match="tiny: no class has 5 images"):
        split_whole(whole, "train")
