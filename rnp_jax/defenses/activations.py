"""Mean activations of a network's channels and units over a set of images, one compiled program for all batches."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax.errors import DataError
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.models.chain import Site
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables

_BATCH = 100


def mean_activations(
    network: Network, variables: Variables, images: Array | np.ndarray, sites: tuple[Site, ...]
) -> dict[str, Float[np.ndarray, "F"]]:
    """Mean absolute activation by site, over images [N, H, W, C] and positions, in evaluation mode.

    A site's activation is taken behind the function that reads it.

    Raises:
      DataError: no images.
    """
    images = np.asarray(images)
    return _mean(network, variables, (images,), sites)


def mean_changes(
    network: Network,
    variables: Variables,
    images: Array | np.ndarray,
    changed: Array | np.ndarray,
    sites: tuple[Site, ...],
) -> dict[str, Float[np.ndarray, "F"]]:
    """Mean absolute difference of activations between images and the same images changed, as ``mean_activations``.

    Raises:
      DataError: no images, or not as many changed ones, of the same shape.
    """
    images, changed = np.asarray(images), np.asarray(changed)
    if images.shape != changed.shape:
        raise DataError(f"changed images {changed.shape}: expected one for each of the images {images.shape}")
    return _mean(network, variables, (images, changed), sites)


def _mean(
    network: Network, variables: Variables, sets: tuple[np.ndarray, ...], sites: tuple[Site, ...]
) -> dict[str, np.ndarray]:
    count = len(sets[0])
    if count == 0:
        raise DataError("no images: expected one or more to measure activations on")
    size = min(_BATCH, count)

    def measure(begin: int) -> dict[str, jax.Array]:
        rows = [images[begin : begin + size] for images in sets]
        here = np.arange(size) < len(rows[0])  # the last batch is filled up: every batch has one shape
        batches = tuple(jax.device_put(np.resize(each, (size, *each.shape[1:]))) for each in rows)
        return _sums(network, sites, variables, batches, jnp.asarray(here, jnp.float32))

    totals = {site.layer: 0.0 for site in sites}
    for found in fetch_late(map(measure, range(0, count, size))):
        totals = {layer: total + found[layer].astype(np.float64) for layer, total in totals.items()}
    return {layer: np.asarray(total, np.float64) / count for layer, total in totals.items()}


@jit_settings(1, static=1)
def _sums(
    network: Network, sites: tuple[Site, ...], variables: Variables, batches: tuple[jax.Array, ...], here: jax.Array
) -> dict[str, jax.Array]:
    """Sums over the images that are ``here``, means over positions."""
    outputs = [network.activations(variables, images) for images in batches]
    found = {}
    for site in sites:
        rows = [output[site.layer].astype(jnp.float32) for output in outputs]
        rows = [site.activate(row) for row in rows]
        change = jnp.abs(rows[1] - rows[0]) if len(rows) == 2 else jnp.abs(rows[0])
        by_image = change.mean(tuple(range(1, change.ndim - 1)))
        found[site.layer] = (by_image * here[:, None]).sum(0)
    return found
