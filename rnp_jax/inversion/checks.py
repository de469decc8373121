"""What every search for triggers requires of its images and labels, and what a label stands for."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Int32

from rnp_jax.errors import ConfigError, DataError
from rnp_jax.types import Apply, Batch, Variables

NEXT = -1
"""In place of a label: every class is sent to the one after it, and the last to the first (BadNets' all-to-all)."""


def check_images(data: Batch) -> None:
    """Requires images that a trigger can be laid over.

    Raises:
      DataError: none, or some that are not uint8 [N, H, W, C] with a label each.
    """
    if data.images.ndim != 4 or data.images.dtype != np.uint8 or not 0 < len(data.images) == len(data.labels):
        raise DataError(
            f"images {data.images.dtype} {list(data.images.shape)} with {len(data.labels)} labels: expected uint8 "
            "[N, H, W, C], one image or more, and a label for each"
        )


def choose_labels(
    network: Apply, variables: Variables, data: Batch, labels: tuple[int, ...] | None, least: int = 0
) -> Int32[np.ndarray, "K"]:
    """The labels to try: those given, by default all of the network. ``least`` is ``NEXT`` where that is one, too.

    Raises:
      ConfigError: a label that the network does not have, or one named twice.
    """
    classes = count_classes(network, variables, data)
    chosen = np.arange(classes) if labels is None else np.asarray(labels)
    fits = chosen.ndim == 1 and chosen.size > 0 and np.issubdtype(chosen.dtype, np.integer)
    if not fits or chosen.min() < least or chosen.max() >= classes or len(set(chosen.tolist())) < len(chosen):
        raise ConfigError(f"labels {labels}: expected different integers from 0 to {classes - 1}, one or more")
    return chosen.astype(np.int32)


def count_classes(network: Apply, variables: Variables, data: Batch) -> int:
    """How many labels the network knows."""
    like = jax.ShapeDtypeStruct((1, *data.images.shape[1:]), jnp.uint8)
    return jax.eval_shape(network, variables, like)[0].shape[-1]


def find_places(labels: Int[np.ndarray, "K"], asked: tuple[int, ...]) -> list[int]:
    """Where some of the labels stand among all, in the order asked for."""
    places = {int(label): place for place, label in enumerate(labels)}
    return [places[label] for label in asked]


def find_wanted(labels: Int[np.ndarray, "K"], truth: Int[np.ndarray, "N"], classes: int) -> Int32[np.ndarray, "K N"]:
    """The class to which each label sends images of the true classes: itself, or the next one (``NEXT``)."""
    return np.where(labels[:, None] == NEXT, (truth[None] + 1) % classes, labels[:, None]).astype(np.int32)
