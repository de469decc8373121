"""Runs compiled programs over many images, in batches of one shape, each sent to the device as a whole."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from rnp_jax.evaluation.predict import fit_batch_size, pad_rows
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables


def map_batches(
    run: Callable[[jax.Array, jax.Array], jax.Array], images: Shaped[np.ndarray, "N ..."], batch_size: int | None = None
) -> Shaped[np.ndarray, "N ..."]:
    """The result of a compiled program for each image. All batches are dispatched before the first is awaited.

    Args:
      run: takes images [B, ...] and their positions int32 [B]; returns rows [B, ...].
      images: one or more images; the last batch is filled up by repetition.
      batch_size: images per batch; by default ``fit_batch_size`` chooses it.
    """
    images, count = np.asarray(images), len(images)
    size = fit_batch_size(count, batch_size)
    rows = [
        run(
            jax.device_put(pad_rows(images[begin : begin + size], size)),
            jax.device_put(np.arange(begin, begin + size, dtype=np.int32)),
        )
        for begin in range(0, count, size)
    ]
    return np.concatenate(jax.device_get(rows))[:count]


def read_features(
    network: Network, variables: Variables, images: Array | np.ndarray, batch_size: int | None = None
) -> Float[np.ndarray, "N D"]:
    """The features of each image, which are the input of the classifier's last layer, in evaluation mode."""
    network, variables = network.evaluator, jax.device_put(variables)
    return map_batches(lambda batch, _: _features(network, variables, batch), np.asarray(images), batch_size)


def read_logits(
    network: Network, variables: Variables, images: Array | np.ndarray, batch_size: int | None = None
) -> Float[np.ndarray, "N K"]:
    """The logits of each image, in evaluation mode."""
    network, variables = network.evaluator, jax.device_put(variables)
    return map_batches(lambda batch, _: _logits(network, variables, batch), np.asarray(images), batch_size)


@jit_settings()
def _logits(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    return network(variables, images)[0]


@jit_settings()
def _features(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    return network.features(variables, images)[0]
