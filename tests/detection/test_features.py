import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from rnp_jax.detection.features import ClusteringConfig, score_by_clusters, score_by_spectrum
from rnp_jax.errors import ConfigError


def blobs(small: int = 20, large: int = 60, apart: float = 8.0, dim: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features of one class in two parts, and which are of the small one."""
    rng = np.random.default_rng(0)
    marks = np.arange(small + large) < small
    features = rng.standard_normal((small + large, dim))
    features[marks, 0] += apart
    return features, marks


def test_spectral_scores_are_squared_distances_along_the_only_axis_there_is():
    t = np.array([0.0, 1.0, 2.0, 9.0, 5.0, 5.0])
    labels = np.array([0, 0, 0, 0, 3, 3])
    features = t[:, None] * np.array([[0.6, 0.8, 0.0]])
    np.testing.assert_allclose(score_by_spectrum(features, labels), [9, 4, 1, 36, 0, 0], atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), count=st.integers(2, 30), dim=st.integers(1, 6))
def test_spectral_scores_do_not_see_rotations_shifts_or_order(seed, count, dim):
    rng = np.random.default_rng(seed)
    features, labels = rng.standard_normal((count, dim)) * np.arange(1, dim + 1), rng.integers(0, 2, count)
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    order = rng.permutation(count)
    scores = score_by_spectrum(features, labels)
    moved = score_by_spectrum((features @ turn + 5)[order], labels[order])
    np.testing.assert_allclose(moved, scores[order], atol=1e-8)


@pytest.mark.parametrize("reduction", ["ica", "pca"])
def test_the_small_separate_part_of_a_class_scores_highest(reduction):
    features, marks = blobs()
    scores = score_by_clusters(features, np.zeros(80, int), 0, ClusteringConfig(reduction))
    assert scores[marks].min() > scores[~marks].max() > 0
    assert len(np.unique(scores)) == 2


def test_a_score_is_the_silhouette_times_the_share_of_the_other_cluster():
    features, marks = blobs()
    scores = score_by_clusters(features, np.zeros(80, int), 0, ClusteringConfig("pca", 4))  # a mere rotation
    silhouette = silhouette_score(features, marks)
    np.testing.assert_allclose(scores, silhouette * np.where(marks, 60 / 80, 20 / 80), rtol=1e-6)


def test_classes_are_clustered_apart():
    features, marks = blobs()
    whole = np.random.default_rng(1).standard_normal((80, 4)) + 100
    labels = np.repeat([0, 1], 80)
    config = ClusteringConfig("pca")
    both = score_by_clusters(np.concatenate([features, whole]), labels, 0, config)
    np.testing.assert_array_equal(both[:80], score_by_clusters(features, labels[:80], 0, config))
    assert both[80:].max() < both[:80][marks].min()


@pytest.mark.parametrize("reduction", ["ica", "pca"])
@pytest.mark.parametrize("features", [np.ones((30, 4)), blobs(2, 7)[0], blobs()[0][:, :1] * np.ones((1, 5))])
def test_classes_without_spread_without_members_or_of_low_rank(features, reduction):
    scores = score_by_clusters(features, np.zeros(len(features), int), 0, ClusteringConfig(reduction))
    assert np.isfinite(scores).all()
    assert (scores == 0).all() == (len(features) < 10 or np.ptp(features) == 0)


@pytest.mark.parametrize("settings", [{"reduction": "tsne"}, {"dimensions": 0}])
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match="expected reduction ica or pca"):
        ClusteringConfig(**settings)
