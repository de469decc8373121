import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.sampling import check_overlap, holdout_split, sample_defense_set
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.types import Batch


def toy(sizes):
    """A data set with so many images of each class, image i filled with the number i."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (len(labels), 2, 2, 1))
    return Dataset(images, labels, tuple("abcdefghij"[: len(sizes)]), "toy")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_defense_set_is_balanced_distinct_and_reproducible(n, seed):
    dataset = toy([20, 15, 11, 30])
    batch, indices = sample_defense_set(dataset, n, seed=seed)
    counts = np.bincount(batch.labels, minlength=4)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1
    assert len(set(indices.tolist())) == n
    np.testing.assert_array_equal(batch.images[:, 0, 0, 0], indices)
    np.testing.assert_array_equal(batch.labels, dataset.labels[indices])
    np.testing.assert_array_equal(indices, sample_defense_set(dataset, n, seed=seed)[1])


def test_defense_set_is_shuffled_and_follows_the_seed():
    dataset = toy([20, 20])
    first, indices = sample_defense_set(dataset, 20, seed=1)
    assert np.count_nonzero(np.diff(first.labels)) > 3
    assert indices.tolist() != sample_defense_set(dataset, 20, seed=2)[1].tolist()


def test_uniform_defense_set_may_be_unbalanced():
    _, indices = sample_defense_set(toy([1, 39]), 30, seed=0, stratified=False)
    assert len(set(indices.tolist())) == 30


@settings(max_examples=40, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any), share=st.floats(0, 1))
def test_an_uneven_draw_is_as_even_as_the_classes_allow(sizes, share):
    dataset = toy(sizes)
    n = max(1, round(share * len(dataset)))
    batch, indices = sample_defense_set(dataset, n, seed=0, uneven=True)
    assert len(set(indices.tolist())) == n
    counts = np.bincount(batch.labels, minlength=len(sizes))
    for count, size in zip(counts, sizes, strict=True):
        assert count == size or count >= counts.max() - 1  # only a class that has no more gives fewer


def test_an_uneven_draw_is_the_balanced_one_where_that_is_possible():
    dataset = toy([20, 15, 11, 30])
    for n in (1, 17, 44):
        even, uneven = (sample_defense_set(dataset, n, seed=3, uneven=allowed)[1] for allowed in (False, True))
        np.testing.assert_array_equal(even, uneven)


def test_too_few_images_name_class_count_and_need():
    with pytest.raises(DataError, match=r"class 1 \(b\) has 3 images, but a balanced defense set of 10 needs 5"):
        sample_defense_set(toy([9, 3]), 10, seed=0)
    with pytest.raises(DataError, match=r"13 images wanted .* only 12"):
        sample_defense_set(toy([9, 3]), 13, seed=0)
    with pytest.raises(ConfigError, match="0 images"):
        sample_defense_set(toy([9, 3]), 0, seed=0)
    with pytest.raises(ConfigError, match="seed is -1"):
        sample_defense_set(toy([9, 3]), 1, seed=-1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6).filter(lambda sizes: 4 <= sum(sizes) <= 100),
    fraction=st.floats(0.2, 0.8),
    seed=st.integers(0, 1000),
)
def test_holdout_is_a_stratified_partition(sizes, fraction, seed):
    dataset = toy(sizes)
    train, held = holdout_split(dataset.batch, fraction, seed)
    together = np.concatenate([train.images, held.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(len(dataset)))
    assert len(held.labels) == round(fraction * len(dataset))
    for label, size in enumerate(sizes):
        assert abs(np.count_nonzero(held.labels == label) - fraction * size) < 1
    np.testing.assert_array_equal(held.labels, dataset.labels[held.images[:, 0, 0, 0]])
    np.testing.assert_array_equal(held.images, holdout_split(dataset.batch, fraction, seed)[1].images)


def test_holdout_keeps_jax_arrays():
    batch = Batch(jnp.zeros((10, 2, 2, 1), jnp.uint8), jnp.arange(10, dtype=jnp.int32) % 2)
    train, held = holdout_split(batch, 0.2, seed=0)
    assert isinstance(train.images, type(batch.images))
    assert held.labels.tolist() in ([0, 1], [1, 0])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(ConfigError, match="hold-out fraction"):
        holdout_split(toy([5, 5]).batch, fraction, seed=0)


def test_a_holdout_of_nothing_is_refused():
    with pytest.raises(DataError, match="leaves one part empty"):
        holdout_split(toy([2, 1]).batch, 0.1, seed=0)


def test_overlap_names_count_and_pairs():
    whole = toy([10, 10])
    check_overlap(whole.subset(np.arange(10)), whole.subset(np.arange(10, 20)))
    with pytest.raises(DataError, match=r"2 test images .*index: 8 = 0, 9 = 1\)"):
        check_overlap(whole.subset(np.arange(10)), whole.subset(np.arange(8, 20)))
    changed = whole.images.copy()
    changed[:, 0, 0, 0] ^= 128
    check_overlap(whole, Batch(changed, whole.labels))


def test_images_of_other_shapes_cannot_overlap():
    check_overlap(Batch(np.zeros((3, 2, 2, 1), np.uint8), None), Batch(np.zeros((3, 4, 1, 1), np.uint8), None))
