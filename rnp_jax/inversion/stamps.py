"""Stamps: a soft mask and a pattern laid over images, and what a network says of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, Shaped, UInt8

from rnp_jax.errors import DataError
from rnp_jax.evaluation.predict import fit_batch_size, pad_rows
from rnp_jax.inversion.checks import count_classes, find_wanted
from rnp_jax.models import for_prediction
from rnp_jax.traced import jit_settings
from rnp_jax.types import Apply, Batch, Variables


class Stamps(NamedTuple):
    """S stamps; ``distil`` also takes some that displace pixels before they are laid over them."""

    masks: Any  # float32 [S, H, W] in [0, 1], numpy or jax
    patterns: Any  # float32 [S, H, W, C] in [0, 1]
    fields: Any = None  # float32 [S, H, W, 2], displacements as of ``warps.Warps``; None for no displacement

    def join(self, *others: "Stamps") -> "Stamps":
        """These and the others, in order; where only some displace pixels, the rest displace them by 0."""
        every = (self, *others)
        masks, patterns = (np.concatenate([each[part] for each in every]) for part in (0, 1))
        if all(each.fields is None for each in every):
            return Stamps(masks, patterns)
        still = (np.zeros((*each.masks.shape, 2), np.float32) if each.fields is None else each.fields for each in every)
        return Stamps(masks, patterns, np.concatenate(list(still)))


def scale(images: Shaped[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Images in [0, 1]: uint8 ones scaled to it, others as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def stamp(
    images: Shaped[Array, "B H W C"], mask: Float[Array, "H W"], pattern: Float[Array, "H W C"]
) -> Float[Array, "B H W C"]:
    """(1 − m) ∘ x + m ∘ p for images in [0, 1], or uint8 ones scaled to it; the result is not rounded."""
    m = mask[None, :, :, None]
    return (1 - m) * scale(images) + m * pattern[None]


def predict_stamped(
    network: Apply,
    variables: Variables,
    images: UInt8[np.ndarray, "N H W C"],
    masks: Float[np.ndarray, "K H W"],
    patterns: Float[np.ndarray, "K H W C"],
) -> Int32[np.ndarray, "K N"]:
    """Predicted labels of the images under each of K stamps, in evaluation mode: one program for all.

    Raises:
      DataError: no images, or stamps of another size.
    """
    if len(images) == 0 or masks.shape[1:] != images.shape[1:3] or patterns.shape[1:] != images.shape[1:]:
        raise DataError(
            f"masks {list(masks.shape)} and patterns {list(patterns.shape)} on images {list(images.shape)}: expected "
            "one image or more, and stamps of its height, width and channels"
        )
    return predict_laid(network, variables, images, stamp, (masks, patterns))


def predict_laid(
    network: Apply,
    variables: Variables,
    images: UInt8[np.ndarray, "N H W C"],
    lay: Callable[..., jax.Array],
    laid: tuple[np.ndarray, ...],
) -> Int32[np.ndarray, "K N"]:
    """Predicted labels of ``lay(images, *each)`` for each of K rows of ``laid``: one program for all."""
    size = fit_batch_size(len(images))
    batches = -(-len(images) // size)
    padded = pad_rows(np.asarray(images), size * batches).reshape(batches, size, *images.shape[1:])
    found = _predict(for_prediction(network), lay, variables, *jax.device_put((padded, laid)))
    return np.asarray(found).reshape(len(laid[0]), -1)[:, : len(images)]


@jit_settings(1, static=1)
def _predict(
    network: Apply,
    lay: Callable[..., jax.Array],
    variables: Variables,
    batches: Shaped[Array, "T B H W C"],
    laid: tuple[jax.Array, ...],
) -> Int32[Array, "K T B"]:
    def classify(own: tuple[jax.Array, ...], images: jax.Array) -> jax.Array:
        logits, _ = network(variables, lay(images, *own))
        return logits.argmax(-1).astype(jnp.int32)

    return jax.lax.map(lambda own: jax.lax.map(partial(classify, own), batches), laid)


def measure_laid(
    network: Apply,
    variables: Variables,
    data: Batch,
    lay: Callable[..., jax.Array],
    laid: tuple[np.ndarray, ...],
    labels: Int[np.ndarray, "K"],
) -> Float[np.ndarray, "K"]:
    """Share of the images of other classes that the k-th row of ``laid`` sends to the k-th label.

    Raises:
      DataError: no images of another class than one of the labels.
    """
    predicted = predict_laid(network, variables, np.asarray(data.images), lay, laid)
    return share_reaching(predicted, np.asarray(data.labels), labels, count_classes(network, variables, data))


def measure_stamps(
    network: Apply,
    variables: Variables,
    data: Batch,
    masks: Float[np.ndarray, "K H W"],
    patterns: Float[np.ndarray, "K H W C"],
    labels: Int[np.ndarray, "K"],
) -> Float[np.ndarray, "K"]:
    """Share of the images of other classes that the k-th stamp sends to the k-th label (its ASR).

    Raises:
      DataError: no images of another class than one of the labels, or stamps of another size.
    """
    predicted = predict_stamped(network, variables, np.asarray(data.images), masks, patterns)
    return share_reaching(predicted, np.asarray(data.labels), labels, count_classes(network, variables, data))


def measure_unstamped(
    network: Apply, variables: Variables, data: Batch, labels: Int[np.ndarray, "K"]
) -> Float[np.ndarray, "K"]:
    """The same share without any stamp.

    Raises:
      DataError: no images of another class than one of the labels.
    """
    repeated = np.repeat(_predict_unstamped(network, variables, data)[None], len(labels), 0)
    return share_reaching(repeated, np.asarray(data.labels), labels, count_classes(network, variables, data))


def measure_effects(
    network: Apply,
    variables: Variables,
    data: Batch,
    masks: Float[np.ndarray, "K H W"],
    patterns: Float[np.ndarray, "K H W C"],
    labels: Int[np.ndarray, "K"],
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """What ``measure_stamps`` says, and the share of images that the k-th stamp misleads.

    These are images of other classes whose right answer it makes a wrong one, whichever, of those that get their right
    answer without it; 0 where none does.

    Raises:
      DataError: as ``measure_stamps``.
    """
    truth, classes = np.asarray(data.labels), count_classes(network, variables, data)
    predicted = predict_stamped(network, variables, np.asarray(data.images), masks, patterns)
    right = _predict_unstamped(network, variables, data) == truth
    asked = right & (find_wanted(np.asarray(labels), truth, classes) != truth)
    misled = ((predicted != truth) & asked).sum(1) / np.maximum(asked.sum(1), 1)
    return share_reaching(predicted, truth, labels, classes), misled


def _predict_unstamped(network: Apply, variables: Variables, data: Batch) -> Int[np.ndarray, "N"]:
    """By the program of the stamped ones, under an empty stamp."""
    images = np.asarray(data.images)
    nothing = np.zeros((1, *images.shape[1:]), np.float32)
    return predict_stamped(network, variables, images, nothing[..., 0], nothing)[0]


def share_reaching(
    predicted: Int[np.ndarray, "K N"], truth: Int[np.ndarray, "N"], labels: Int[np.ndarray, "K"], classes: int
) -> Float[np.ndarray, "K"]:
    """Share of the images of other classes that are predicted as the k-th label wants.

    Raises:
      DataError: no images of another class than one of the labels.
    """
    wanted = find_wanted(np.asarray(labels), truth, classes)
    for label, goal in zip(labels, wanted, strict=True):
        if (truth == goal).all():
            raise DataError(
                f"every image is of class {label}: expected some of another, which a trigger would send there"
            )
    rows = zip(predicted, wanted, strict=True)
    return np.array([(row == goal)[truth != goal].mean() for row, goal in rows], np.float64)
