"""Feature shifts: the smallest change of the last layer's inputs that sends the other classes to a label.

A backdoor of any form must move what the classifier reads, and a target that every class reaches through one direction
lies closer to the others than labels of clean networks do. For a linear classifier this shift has a closed form. With
δ added to the features of every image, those of class j go to label k rather than to their own where
(w_k - w_j) · δ >= g_j, and g_j is the quantile of their gap f_j - f_k. The shortest δ that meets all of these is a
least-distance problem (Lawson & Hanson, Solving Least Squares Problems, 1974, chapter 23). No start and no step is
random. Not in a paper.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import nnls

from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import fit_batch_size, pad_rows
from rnp_jax.inversion.anomaly import find_outliers
from rnp_jax.inversion.checks import check_images
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Batch, Variables


@dataclass(frozen=True)
class ShiftConfig:
    """Settings of a feature shift, and when one stands out.

    Attributes:
      success: share of each other class's images that leave their class for the label, in (0, 1].
      suspicious: anomaly index above which a label stands out.
      margin: share of the median shift that its own may not exceed either.
    """

    success: float = 0.9
    suspicious: float = 3.0
    margin: float = 0.85

    def __post_init__(self):
        if not 0 < self.success <= 1 or not self.suspicious > 0 or not 0 < self.margin <= 1:
            raise ConfigError(f"{self}: expected success and margin in (0, 1], and suspicious > 0")


@dataclass(frozen=True, eq=False)
class Shifts:
    """The smallest shift to each of the K labels.

    Attributes:
      directions: added to the features [K, D].
      sizes: their lengths, as shares of the features' root mean square distance from their mean [K].
    """

    directions: Float[np.ndarray, "K D"]
    sizes: Float[np.ndarray, "K"]

    @property
    def shares(self) -> Float[np.ndarray, "K"]:
        """Sizes over the median label's; 1 where that is 0 or infinite."""
        median = np.median(self.sizes)
        return self.sizes / median if 0 < median < np.inf else np.ones_like(self.sizes)

    def find_outliers(self, config: ShiftConfig) -> list[int]:
        """The labels of far smaller shifts than others, the highest anomaly index first."""
        if not 0 < np.median(self.sizes) < np.inf:
            return []
        return find_outliers(self.sizes, np.ones(len(self.sizes), np.bool_), config.suspicious, config.margin)


def find_shifts(network: Network, variables: Variables, data: Batch, config: ShiftConfig | None = None) -> Shifts:
    """The smallest shift to every label.

    Args:
      network: its last layer is linear.
      variables: the network's, masks baked in.
      data: clean images, uint8 [N, H, W, C] and int32 [N]; a class without any asks for nothing.
      config: settings; by default ``ShiftConfig()``.

    Raises:
      DataError: no images, or images that are not uint8 [N, H, W, C].
    """
    config = config or ShiftConfig()
    check_images(data)
    features, logits = _read(network, variables, np.asarray(data.images))
    kernel = np.asarray(variables["params"][network.head]["kernel"], np.float64)
    spread = np.sqrt(((features - features.mean(0)) ** 2).sum(1).mean())
    labels, classes = np.asarray(data.labels), range(kernel.shape[1])
    directions = np.stack([_shift(kernel, logits, labels, label, config.success) for label in classes])
    sizes = np.linalg.norm(directions, axis=1)
    return Shifts(directions, sizes / spread if spread > 0 else sizes)


def _shift(
    kernel: Float[np.ndarray, "D K"],
    logits: Float[np.ndarray, "N K"],
    labels: Int[np.ndarray, "N"],
    label: int,
    success: float,
) -> Float[np.ndarray, "D"]:
    others = [j for j in range(kernel.shape[1]) if j != label and (labels == j).any()]
    gaps = [np.quantile(logits[labels == j, j] - logits[labels == j, label], success) for j in others]
    asked = [(kernel[:, label] - kernel[:, j], gap) for j, gap in zip(others, gaps, strict=True) if gap > 0]
    if not asked:
        return np.zeros(len(kernel))
    return find_shortest(np.stack([row for row, _ in asked]), np.array([gap for _, gap in asked]))


def find_shortest(rows: Float[np.ndarray, "M D"], least: Float[np.ndarray, "M"]) -> Float[np.ndarray, "D"]:
    """The shortest x with ``rows @ x >= least``, by non-negative least squares (Lawson & Hanson's LDP).

    It is infinite where there is none.
    """
    matrix = np.vstack([rows.T, least[None]])
    wanted = np.zeros(len(matrix))
    wanted[-1] = 1
    weights, distance = nnls(matrix, wanted, maxiter=100 * len(least))
    if distance < 1e-9:
        return np.full(rows.shape[1], np.inf)
    residual = matrix @ weights - wanted
    return -residual[:-1] / residual[-1]


def _read(
    network: Network, variables: Variables, images: np.ndarray
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N K"]]:
    size = fit_batch_size(len(images))
    batches = -(-len(images) // size)
    padded = pad_rows(images, size * batches).reshape(batches, size, *images.shape[1:])
    found = jax.device_get(_read_batches(network, variables, jax.device_put(padded)))
    features, logits = (each.reshape(-1, each.shape[-1])[: len(images)].astype(np.float64) for each in found)
    return features, logits


@jit_settings()
def _read_batches(
    network: Network, variables: Variables, batches: jax.Array
) -> tuple[Float[Array, "T B D"], Float[Array, "T B K"]]:
    def read(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return network.inputs(variables, images)[network.head].astype(jnp.float32), network(variables, images)[0]

    return jax.lax.map(read, batches)
