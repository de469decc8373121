"""Sample scores from the last layer's features, class by class: spectral signatures and activation clustering.

Both split the training set by the stated label and look for a part of a class that is separate from the rest.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from rnp_jax.errors import ConfigError

_LEAST = 10  # a class with fewer images is not clustered


@dataclass(frozen=True)
class ClusteringConfig:
    """Settings of activation clustering.

    Attributes:
      reduction: how to reduce the features to few dimensions: ``ica`` (independent components, as published) or
        ``pca`` (principal components).
      dimensions: number of dimensions after reduction.
    """

    reduction: Literal["ica", "pca"] = "ica"
    dimensions: int = 10

    def __post_init__(self):
        if self.reduction not in ("ica", "pca") or self.dimensions < 1:
            raise ConfigError(f"{self}: expected reduction ica or pca, and dimensions >= 1")


def score_by_spectrum(features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The squared projection on the top singular vector of the class's centred features (Tran et al., NeurIPS 2018).

    This is algorithm 1. The paper removes the 1.5 ε N highest scores of each class, where ε is an upper bound of the
    poisoned share.
    """
    return _by_class(features, labels, _outliers)


def score_by_clusters(
    features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, "N"], seed: int, config: ClusteringConfig
) -> Float[np.ndarray, "N"]:
    """How small and how well separated the image's cluster is (activation clustering; Chen et al., SafeAI 2019).

    The features of a class are reduced and split into two clusters by k-means. The paper judges a cluster by its
    relative size and by the silhouette score. Here an image's score is the silhouette of its class (0 if negative),
    times one minus the share of the class that is in its cluster. Classes with fewer than 10 images score 0.
    """
    return _by_class(features, labels, lambda members: _clusters(members, seed, config))


def _by_class(
    features: np.ndarray, labels: np.ndarray, score: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "N"]:
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    scores = np.zeros(len(labels))
    for label in np.unique(labels):
        members = labels == label
        scores[members] = score(features[members])
    return scores


def _outliers(features: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n"]:
    centred = features - features.mean(0, keepdims=True)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return (centred @ axes[0]) ** 2


def _clusters(features: Float[np.ndarray, "n D"], seed: int, config: ClusteringConfig) -> Float[np.ndarray, "n"]:
    from sklearn.cluster import KMeans  # takes a second to import, and only this score needs it
    from sklearn.metrics import silhouette_score

    dimensions = min(config.dimensions, int(np.linalg.matrix_rank(features - features.mean(0, keepdims=True))))
    if len(features) < _LEAST or dimensions == 0:
        return np.zeros(len(features))
    reduced = _reduce(features, dimensions, seed, config.reduction)
    clusters = KMeans(2, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    cluster = clusters.fit_predict(reduced)
    shares = np.bincount(cluster, minlength=2) / len(cluster)
    silhouette = float(silhouette_score(reduced, cluster))
    return max(silhouette, 0.0) * (1 - shares[cluster])


def _reduce(features: np.ndarray, dimensions: int, seed: int, reduction: str) -> np.ndarray:
    from sklearn.decomposition import PCA, FastICA
    from sklearn.exceptions import ConvergenceWarning

    principal = PCA(dimensions, random_state=seed).fit_transform(features)
    if reduction == "pca":
        return principal
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # components need not be fully independent
        # its whitening takes the same principal components, but divides by zero if features are linearly dependent
        return np.asarray(FastICA(dimensions, whiten="unit-variance", random_state=seed).fit_transform(principal))
