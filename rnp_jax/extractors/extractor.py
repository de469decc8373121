"""The interface that all feature extractors share, whatever computes the features."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from rnp_jax.data import Dataset
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.extractors.preprocessing import Geometry, bring_to
from rnp_jax.types import Batch

Provenance = Mapping[str, str | float | int]
"""Where an extractor comes from: ``kind`` (checkpoint, folder, function), ``path`` and ``sha256`` of files, the
``data`` that it was trained on, whether the data was ``poisoned`` (yes, no, unknown), and by which ``attack`` at what
``rate``."""

CPU_BATCH, BATCH = 32, 256
"""Default number of images per chunk, on a CPU and on other devices."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen map from images to features.

    Attributes:
      name: its name in reports.
      dim: number of features per image, d0.
      image_shape: (H, W, C) that images are resized to; None if they are used as they are.
      provenance: where the extractor comes from.
      compute: function from uint8 images [B, H, W, C] to features [B, d0].
      most: largest number of images in memory at a time.
    """

    name: str
    dim: int
    image_shape: tuple[int, int, int] | None
    provenance: Provenance
    compute: Callable[[Any], Any] = field(repr=False)
    most: int = BATCH

    @property
    def caution(self) -> str | None:
        """A warning if the extractor was trained on poisoned images; None otherwise, which guarantees nothing."""
        if self.provenance.get("poisoned") != "yes":
            return None
        return (
            f"{self.name} was trained on images poisoned by {self.provenance.get('attack', 'an attack')} (rate "
            f"{self.provenance.get('rate', 'unknown')}): a trigger may move its features, so it is not clean"
        )

    def __call__(
        self,
        images: UInt8[np.ndarray, "N H W C"],
        *,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "N D"]:
        """Computes features of images, float32. The result is the same at every call.

        Images are processed in chunks of ``batch_size``, and the last chunk is padded, so one program serves every N.

        Args:
          images: pixels from 0 to 255.
          batch_size: images per chunk; by default chosen for the device.
          progress: called after each chunk, with the number of images done and N.

        Raises:
          DataError: the images are not uint8 [N, H, W, C], their channels do not fit, or a feature is not finite.
          ConfigError: ``batch_size`` is below 1.
        """
        _check_images(images, self.image_shape)
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}; give 1 or more")
        size = batch_size or min(self.most, CPU_BATCH if jax.default_backend() == "cpu" else BATCH)
        features = np.empty((len(images), self.dim), np.float32)
        done = 0
        for chunk in self._chunks(images, size):
            rows = chunk[: len(images) - done]
            features[done : done + len(rows)] = rows
            done += len(rows)
            if progress is not None:
                progress(done, len(images))
        wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if wrong.size:
            raise DataError(
                f"{self.name}: the features of image {wrong[0]} are not finite ({wrong.size} such images); the weights "
                "are damaged or overflow: use another extractor"
            )
        return features

    def _chunks(self, images: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Features of each chunk; the next chunk is dispatched before one is waited for."""
        ahead = None
        for begin in range(0, len(images), size):
            rows = images[begin : begin + size]
            padded = rows if len(rows) == size else np.resize(rows, (size, *rows.shape[1:]))
            following = self.compute(padded)
            if ahead is not None:
                yield self._checked(ahead, size)
            ahead = following
        yield self._checked(ahead, size)

    def _checked(self, features: Any, size: int) -> np.ndarray:
        array = np.asarray(features)
        if array.shape != (size, self.dim) or array.dtype.kind not in "fiu":
            raise DataError(
                f"{self.name}: {size} images gave features of shape {array.shape} and type {array.dtype}, expected "
                f"shape ({size}, {self.dim}) and numbers"
            )
        return array


def from_function(
    call: Callable[[Any], Any], dim: int, name: str, *, image_shape: tuple[int, int, int] | None = None
) -> Extractor:
    """Makes an extractor from your own function.

    Args:
      call: takes uint8 images [B, H, W, C] as a numpy array, with the same B at every call. It returns features
        [B, dim] as a numpy or jax array; each row depends only on its own image.
      dim: number of features per image, d0.
      name: its name in reports.
      image_shape: (H, W, C) that images are resized to (bilinear, antialiased); None to use them as they are.

    Raises:
      ConfigError: ``dim`` is below 1, or ``call`` cannot be called.
    """
    if not callable(call):
        raise ConfigError(f"{name}: {call!r} cannot be called; give a function from images to features")
    if dim < 1:
        raise ConfigError(f"{name}: {dim} features per image; give 1 or more")

    compute = call if image_shape is None else partial(_call_resized, call, Geometry(image_shape, image_shape[:2]))
    return Extractor(name, dim, image_shape, {"kind": "function", "poisoned": "unknown"}, compute)


def _call_resized(call: Callable[[Any], Any], geometry: Geometry, images: np.ndarray) -> Any:
    return call(np.asarray(bring_to(geometry, images)))


def feature_set(
    extractor: Extractor,
    data: Dataset | Batch,
    *,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Batch:
    """The data set that a head is given: float32 features [N, 1, 1, d0] in place of images, and the labels.

    Raises:
      DataError: as in the extractor, or there is not one label per image.
    """
    if np.shape(data.labels) != (len(data.images),):
        raise DataError(f"{len(data.images)} images with labels of shape {np.shape(data.labels)}; give one per image")
    features = extractor(np.asarray(data.images), batch_size=batch_size, progress=progress)
    return Batch(features[:, None, None, :], np.asarray(data.labels))


def _check_images(images: Any, image_shape: tuple[int, int, int] | None) -> None:
    """Raises DataError for images that are not uint8 [N, H, W, C], or whose channels do not fit ``image_shape``."""
    shape, dtype = np.shape(images), np.dtype(getattr(images, "dtype", object))
    if len(shape) != 4 or 0 in shape:
        raise DataError(
            f"images of shape {shape}, expected [N, H, W, C] and at least one; one image is given as images[None]"
        )
    if dtype != np.uint8:
        raise DataError(f"images are {dtype}, expected pixels from 0 to 255 as uint8; the extractor normalises them")
    if image_shape is not None and shape[3] not in (1, image_shape[2]):
        raise DataError(
            f"images of shape {shape} have {shape[3]} channels, but the extractor takes {image_shape[2]} (or 1, which "
            "is repeated); channels come last here: convert the images first"
        )
