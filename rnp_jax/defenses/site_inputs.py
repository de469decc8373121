"""What the sites of a network read of given samples, chunk by chunk, and how much it varies.

A source is a layer whose input is meant, or ``NETWORK_INPUT`` (see ``site_maps``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax.defenses.probes import Norm
from rnp_jax.defenses.site_maps import NETWORK_INPUT, unnormalized
from rnp_jax.errors import DataError, DefenseError
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables

ORDERS: dict[Norm, float] = {"1": 1, "2": 2, "inf": np.inf}
"""p, as NumPy takes it."""


@dataclass(frozen=True, eq=False)
class SiteInputs:
    """Samples, and the sources at which they are looked at.

    Attributes:
      network: the function of the variables.
      variables: its weights.
      images: the samples, checked.
      sources: what is read.
      samples: of a chunk.
    """

    network: Network
    variables: Variables
    images: np.ndarray
    sources: tuple[str, ...]
    samples: int

    def chunks(self) -> Iterator[tuple[int, dict[str, jax.Array]]]:
        """What each source reads [B, ...], chunk by chunk; the number of samples that are not padding comes first."""
        for begin in range(0, len(self.images), self.samples):
            chunk = self.images[begin : begin + self.samples]
            padded = np.resize(chunk, (self.samples, *chunk.shape[1:]))
            yield len(chunk), read_sources(self.network, self.sources, self.variables, jax.device_put(padded))

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of what each source reads of a chunk."""
        read = partial(read_sources, self.network, self.sources)
        return jax.eval_shape(read, self.variables, self.images[: self.samples])

    def spread(self, norm: Norm) -> dict[str, float]:
        """p-norm of the standard deviations (ddof 0) of each source's values, by merging the moments of chunks.

        Raises:
          DefenseError: a source at which all samples are equal.
        """
        moments: dict[str, tuple[int, Any, Any]] = dict.fromkeys(self.sources, (0, 0.0, 0.0))

        def measure(count: int, read: dict[str, jax.Array]) -> tuple[int, dict[str, tuple[jax.Array, jax.Array]]]:
            placed = jax.device_put(np.int32(count))
            return count, {source: _moments(u, placed) for source, u in read.items()}

        measured = (measure(count, read) for count, read in self.chunks())
        for count, by_source in fetch_late(measured):
            for source, own in by_source.items():
                mean, squares = (moment.astype(np.float64) for moment in own)
                before, mean_before, squares_before = moments[source]
                total, gap = before + count, mean - mean_before
                squares = squares_before + squares + gap**2 * before * count / total
                moments[source] = total, mean_before + gap * count / total, squares
        found = {}
        for source, (total, _, squares) in moments.items():
            found[source] = float(np.linalg.norm(np.sqrt(squares / total).ravel(), ORDERS[norm]))
            if found[source] == 0:
                raise no_variation(
                    source, "relative radii have no scale; score samples that differ, or set relative=False"
                )
        return found


def check_images(network: Network, images: np.ndarray | jax.Array) -> np.ndarray:
    """Images as uint8 or float32 [N, H, W, C].

    Raises:
      DataError: another shape than the network's, none at all, or values that are not finite.
    """
    images, shape = np.asarray(images), network.architecture.image_shape
    fixed = 1 if network.architecture.name == "mlp" else 3  # convolutions take images of any size
    if images.ndim != 4 or images.shape[fixed:] != shape[fixed - 1 :] or len(images) == 0:
        raise DataError(
            f"inputs of shape {images.shape}: expected (N, {', '.join(map(str, shape))}) with N of 1 or more; "
            "a head's features are [N, 1, 1, D]"
        )
    if images.dtype == np.uint8:
        return images
    bad = ~np.isfinite(images).all((1, 2, 3))
    if bad.any():
        raise DataError(f"{bad.sum()} of {len(images)} inputs are not finite, first input {bad.argmax()}: drop them")
    return images.astype(np.float32, copy=False)


@jit_settings(1, static=1)
def read_sources(
    network: Network, sources: tuple[str, ...], variables: Variables, images: Float[Array, "B H W C"]
) -> dict[str, jax.Array]:
    """What each source reads [B, ...]."""
    u = network.normalize(images)
    inputs = unnormalized(network).inputs(variables, u)
    return {source: u if source == NETWORK_INPUT else inputs[source] for source in sources}


def no_variation(source: str, consequence: str) -> DefenseError:
    """The error that all samples are equal at a source."""
    what = "the inputs" if source == NETWORK_INPUT else f"the input of {source}"
    return DefenseError(f"all samples are equal in {what}: {consequence}")


@jax.jit
def _moments(u: Float[Array, "B ..."], count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and sum of squared deviations of the first ``count`` samples; exactly 0 for equal ones."""
    weight = (jnp.arange(u.shape[0]) < count).astype(u.dtype).reshape(-1, *(1,) * (u.ndim - 1))
    shifted = u - u[:1]
    mean = (weight * shifted).sum(0) / count.astype(u.dtype)
    return u[0] + mean, (weight * jnp.square(shifted - mean[None])).sum(0)
