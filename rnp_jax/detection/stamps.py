"""Stamps (a soft mask and a pattern laid over images): a network's predictions, and overlap with a known trigger."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped, UInt8

from rnp_jax.errors import DataError
from rnp_jax.evaluation.predict import fit_batch_size, pad_rows
from rnp_jax.types import Apply, Batch, Variables


def stamp(
    images: Shaped[Array, "B H W C"], mask: Float[Array, "H W"], pattern: Float[Array, "H W C"]
) -> Float[Array, "B H W C"]:
    """(1 − m) ∘ x + m ∘ p for images in [0, 1], or uint8 images scaled to [0, 1]. The result is not rounded."""
    scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
    m = mask[None, :, :, None]
    return (1 - m) * scaled + m * pattern[None]


def predict_stamped(
    network: Apply,
    variables: Variables,
    images: UInt8[np.ndarray, "N H W C"],
    masks: Float[np.ndarray, "K H W"],
    patterns: Float[np.ndarray, "K H W C"],
) -> Int32[np.ndarray, "K N"]:
    """Predicted labels of the images under each of K stamps, in evaluation mode, in one program for all stamps.

    Raises:
      DataError: there are no images, or the stamps have another size.
    """
    if len(images) == 0 or masks.shape[1:] != images.shape[1:3] or patterns.shape[1:] != images.shape[1:]:
        raise DataError(
            f"masks {list(masks.shape)} and patterns {list(patterns.shape)} on images {list(images.shape)}: expected "
            "one image or more, and stamps of the same height, width and channels"
        )
    size = fit_batch_size(len(images))
    batches = -(-len(images) // size)
    padded = pad_rows(np.asarray(images), size * batches).reshape(batches, size, *images.shape[1:])
    found = _predict(network, variables, padded, (masks, patterns))
    return np.asarray(found).reshape(len(masks), -1)[:, : len(images)]


@partial(jax.jit, static_argnums=0)
def _predict(
    network: Apply, variables: Variables, batches: Shaped[Array, "T B H W C"], stamps: tuple[jax.Array, jax.Array]
) -> Int32[Array, "K T B"]:
    def classify(stamp_of: tuple[jax.Array, jax.Array], images: jax.Array) -> jax.Array:
        logits, _ = network(variables, stamp(images, *stamp_of))
        return logits.argmax(-1).astype(jnp.int32)

    return jax.lax.map(lambda own: jax.lax.map(partial(classify, own), batches), stamps)


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
      DataError: all images belong to one of the labels, or the stamps have another size.
    """
    predicted = predict_stamped(network, variables, np.asarray(data.images), masks, patterns)
    return _share_reaching(predicted, np.asarray(data.labels), labels)


def measure_unstamped(
    network: Apply, variables: Variables, data: Batch, labels: Int[np.ndarray, "K"]
) -> Float[np.ndarray, "K"]:
    """The same share without any stamp.

    Raises:
      DataError: all images belong to one of the labels.
    """
    images = np.asarray(data.images)
    nothing = np.zeros((1, *images.shape[1:]), np.float32)
    predicted = predict_stamped(network, variables, images, nothing[..., 0], nothing)
    return _share_reaching(np.repeat(predicted, len(labels), 0), np.asarray(data.labels), labels)


def _share_reaching(predicted: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> Float[np.ndarray, "K"]:
    for label in labels:
        if (truth == label).all():
            raise DataError(
                f"every image is of class {label}: expected some images of other classes, for a trigger to send there"
            )
    return np.array([(row[truth != k] == k).mean() for row, k in zip(predicted, labels, strict=True)], np.float64)


def changed_pixels(
    clean: UInt8[np.ndarray, "N H W C"], triggered: UInt8[np.ndarray, "N H W C"]
) -> Bool[np.ndarray, "H W"]:
    """Pixels that a known trigger changes in any image, from the same images without the trigger and with it."""
    return (clean != triggered).any((0, 3))


def overlap(mask: Float[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union of a known trigger's pixels and the pixels where the mask exceeds half of its maximum.

    It is 1 if both are empty.
    """
    found = mask > mask.max() / 2
    union = int((found | known).sum())
    return int((found & known).sum()) / union if union else 1.0
