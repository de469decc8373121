"""Images and labels from a .npz file, never unpickling."""

import zipfile
from pathlib import Path

import numpy as np

from rnp_jax.checks import MOST_CLASSES
from rnp_jax.data.dataset import Dataset, validate
from rnp_jax.data.image_files import MEMORY_SHARE, list_some, physical_memory
from rnp_jax.data.images import resize_images
from rnp_jax.data.splits import Split, split_whole
from rnp_jax.errors import DataError
from rnp_jax.npy import read_any_npy
from rnp_jax.npz import READ_ERRORS, list_arrays, open_array, open_npz
from rnp_jax.torch_io.text import quote
from rnp_jax.types import Batch

_SPLIT_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
_WHOLE_NAMES = ("images", "labels")
_NAME_BYTES = 4096


def load_npz(path: Path, split: Split, size: tuple[int, int] | None = None, *, undivided: bool = False) -> Dataset:
    """Read ``images``/``labels``, or ``x_train``/``y_train``/``x_test``/``y_test``, or ``train_images``/….

    Images are uint8 [N, H, W, C] or [N, H, W]; labels are integers [N] or [N, 1]. An optional ``class_names`` array
    names the classes; without it, labels are below 100,000 and the largest tells how many classes there are. A file
    with ``images``/``labels`` only is split into four fifths and one fifth, or left ``undivided``.

    Raises:
      DataError: if the file is damaged, holds pickled objects, lacks the names, or its arrays do not fit each other.
    """
    pairs = [(x.format(split), y.format(split)) for x, y in _SPLIT_NAMES]
    try:
        with open_npz(path) as archive:
            held = list_arrays(archive)
            found = next((pair for pair in [*pairs, _WHOLE_NAMES] if set(pair) <= set(held)), None)
            if found is None:
                wanted = ", or ".join("/".join(pair) for pair in [*pairs, _WHOLE_NAMES])
                raise DataError(f"{path}: holds {list_some([*map(quote, held)]) or 'nothing'}; expected {wanted}")
            images, labels = (_read(archive, name) for name in found)
            names = _read(archive, "class_names") if "class_names" in held else None
    except READ_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path}: not a readable .npz of plain arrays ({reason}); save it again with np.savez"
        ) from error
    images = images[..., None] if images.ndim == 3 else images
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    class_names = _number_classes(labels, path) if names is None else _name_classes(names, path)
    validate(Batch(images, labels), num_classes=len(class_names), name=str(path))
    dataset = Dataset(resize_images(images, size), labels.astype(np.int32), class_names, path.name)
    if found == _WHOLE_NAMES:
        return split_whole(dataset, split, undivided)
    return Dataset(dataset.images, dataset.labels, class_names, f"{path.name} ({split})")


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with open_array(archive, name) as member:
        return read_any_npy(member, f"{name}.npy", int(MEMORY_SHARE * physical_memory()))


def _name_classes(names: np.ndarray, path: Path) -> tuple[str, ...]:
    if names.size > MOST_CLASSES or names.dtype.itemsize > _NAME_BYTES:
        size = f"{names.size:,} class names of {names.dtype.itemsize:,} bytes"
        raise DataError(f"{path}: {size}, expected at most {MOST_CLASSES:,} of {_NAME_BYTES:,}")
    try:
        found = tuple(map(str, names.ravel()))
        "".join(found).encode()
    except ValueError as error:
        raise DataError(f"{path}: class names that are no text: {error}") from error
    return found


def _number_classes(labels: np.ndarray, path: Path) -> tuple[str, ...]:
    """The classes 0 to the largest label by their numbers; one class where the labels are no integers."""
    largest = int(labels.max(initial=0)) if np.issubdtype(labels.dtype, np.integer) else 0
    if largest >= MOST_CLASSES:
        fix = "number the classes from 0, or add an array class_names"
        raise DataError(f"{path}: label {largest}, expected labels below {MOST_CLASSES:,}; {fix}")
    return tuple(map(str, range(largest + 1)))
