"""A labelled image set in memory, and the checks that every use of one begins with."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from rnp_jax.errors import DataError
from rnp_jax.types import Batch


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in pixel space with their labels, on the host.

    Attributes:
      images: uint8 [N, H, W, C], channels last, 0 to 255.
      labels: int32 [N], each in 0 … K-1.
      class_names: one name for each of the K classes.
      name: where the images came from and which part of it they are, for reports.
      source_images: how many images the source has, where it has no test part of its own; else None.
      lacking: how many of the last classes are the model's alone, named by their numbers: the source has none of them.
    """

    images: UInt8[np.ndarray, "N H W C"]
    labels: Int32[np.ndarray, "N"]
    class_names: tuple[str, ...]
    name: str
    source_images: int | None = None
    lacking: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)``."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def batch(self) -> Batch:
        """All images and labels as one batch, without a copy."""
        return Batch(self.images, self.labels)

    def with_classes(self, num_classes: int) -> "Dataset":
        """The same images for a model of as many classes or more."""
        more = tuple(map(str, range(self.num_classes, num_classes)))
        if not more:
            return self
        return replace(self, class_names=(*self.class_names, *more), lacking=self.lacking + len(more))

    def subset(self, indices: np.ndarray, name: str | None = None) -> "Dataset":
        """The images at ``indices`` (integers or a boolean mask [N]), in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices], name=name or self.name)


def validate(
    data: Dataset | Batch, *, num_classes: int, image_shape: tuple[int, int, int] | None = None, name: str = "data"
) -> None:
    """Check that a model with ``num_classes`` outputs and ``image_shape`` (H, W, C) inputs can use the data.

    Args:
      data: a data set or a batch; the arrays may be numpy or jax.
      num_classes: K, the number of the model's outputs.
      image_shape: what the model takes; left out, any shape is accepted.
      name: what to call a batch in an error; a data set goes by its own name.

    Raises:
      DataError: if it is empty, not uint8 [N, H, W, C] with integer labels [N], of another image shape, or has a label
        outside 0 … K-1.
    """
    name = data.name if isinstance(data, Dataset) else name
    _check_images(name, data.images, image_shape)
    _check_labels(name, data.labels, len(data.images), num_classes)


def _check_images(name: str, images: Any, image_shape: tuple[int, int, int] | None) -> None:
    shape, dtype = np.shape(images), np.dtype(getattr(images, "dtype", object))
    if len(shape) != 4:
        raise DataError(f"{name}: images have shape {shape}, expected [N, H, W, C]; a single image needs images[None]")
    if 0 in shape:
        raise DataError(f"{name}: there are no images (shape {shape}); give at least one")
    if shape[3] > 4 and shape[1] in (1, 3):
        fix = "channels come last here, so use images.transpose(0, 2, 3, 1)"
        raise DataError(f"{name}: images have shape {shape}, which looks like [N, C, H, W]; {fix}")
    if dtype != np.uint8:
        fix = "give pixels of 0 to 255 as uint8; normalisation is part of the network"
        if np.issubdtype(dtype, np.floating):
            fix = f"(values from {np.min(images):.4g} to {np.max(images):.4g}) {fix}"
        raise DataError(f"{name}: images are {dtype}, expected uint8 {fix}")
    if image_shape is not None and shape[1:] != tuple(image_shape):
        height, width, channels = image_shape
        side = f"with --image-size {height} (image_size={height} in Python)"
        resize = side if height == width else f"to {height}x{width} (image_size={height, width} in Python)"
        fix = (
            f"resize them {resize}, or, if the network was trained on images as they are and its weights allow their "
            f"size, give it with --image-shape {' '.join(map(str, (*shape[1:3], channels)))}"
        )
        if shape[3] != image_shape[2]:
            fix = f"they have {shape[3]} channels, but {image_shape[2]} are needed, so convert them first"
        raise DataError(f"{name}: images are {_times(shape[1:])}, but the model takes {_times(image_shape)}; {fix}")


def _check_labels(name: str, labels: Any, num_images: int, num_classes: int) -> None:
    array = np.asarray(labels)
    if array.ndim == 2:
        fix = "if they are one-hot, use labels.argmax(axis=1)"
        raise DataError(f"{name}: labels have shape {array.shape}, expected one class index per image; {fix}")
    if array.shape != (num_images,):
        raise DataError(f"{name}: {num_images} images have labels of shape {array.shape}, expected ({num_images},)")
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{name}: labels are {array.dtype}, expected integers; use labels.astype(np.int32)")
    wrong = np.flatnonzero((array < 0) | (array >= num_classes))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{name}: label {array[first]} at index {first} is outside 0 … {num_classes - 1} of the model's "
            f"{num_classes} classes ({wrong.size} such labels); use the data set that the model was trained for"
        )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
