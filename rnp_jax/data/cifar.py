"""CIFAR-10 and CIFAR-100 in their published "python version", read without unpickling."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnp_jax.data.dataset import Dataset, validate
from rnp_jax.data.images import resize_images
from rnp_jax.data.splits import Split
from rnp_jax.errors import CheckpointError, DataError
from rnp_jax.torch_io import ArrayNode, Limits, read_plain_pickle
from rnp_jax.torch_io.text import quote
from rnp_jax.types import Batch

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_LIMITS = Limits(file_bytes=1 << 29, pickle_bytes=1 << 29)  # CIFAR-100's train has 155 MB and 300,000 instructions


@dataclass(frozen=True)
class _Layout:
    name: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    meta: str
    class_names: str


_LAYOUTS = (
    _Layout(
        name="cifar10",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        labels="labels",
        meta="batches.meta",
        class_names="label_names",
    ),
    _Layout(
        name="cifar100",
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        labels="fine_labels",
        meta="meta",
        class_names="fine_label_names",
    ),
)


def find_cifar(path: Path) -> tuple[Path, _Layout] | None:
    """The folder and layout of CIFAR python batches at ``path`` or right under it, or None."""
    for layout in _LAYOUTS:
        for folder in (path, path / layout.folder):
            if (folder / layout.meta).is_file() and any(
                (folder / file).is_file() for file in layout.train + layout.test
            ):
                return folder, layout
    return None


def load_cifar(folder: Path, layout: _Layout, split: Split, size: tuple[int, int] | None = None) -> Dataset:
    """Read a folder found by ``find_cifar``; CIFAR-100 with its 100 fine labels.

    Raises:
      DataError: if a file is missing, damaged, or a pickle that is anything but such a batch. Nothing is executed.
    """
    names = _get(_read(folder / layout.meta), layout.class_names, list, folder / layout.meta)
    images, labels = [], []
    for file in layout.train if split == "train" else layout.test:
        content = _read(folder / file)
        pixels = _get(content, "data", np.ndarray, folder / file)
        if pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
            raise DataError(f"{folder / file}: data has shape {pixels.shape}, expected [N, 3072]")
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.extend(_get(content, layout.labels, list, folder / file))
    if not all(type(label) is int and 0 <= label < len(names) for label in labels):
        raise DataError(f"{folder}: labels are not all integers of 0 … {len(names) - 1}; get the files again")
    if not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{folder / layout.meta}: class names are not all strings; get the files again")
    class_names = tuple(map(_text, names))
    batch = Batch(np.concatenate(images), np.asarray(labels, np.int32))
    validate(batch, num_classes=len(class_names), name=str(folder))
    return Dataset(resize_images(batch.images, size), batch.labels, class_names, f"{layout.name} ({split})")


def _read(path: Path) -> Any:
    try:
        return read_plain_pickle(path, limits=_LIMITS)
    except CheckpointError as error:
        fix = "get the python version of CIFAR again (nothing was executed)"
        raise DataError(f"{path}: {error.reason}; {fix}") from error


def _get(content: Any, key: str, kind: type, path: Path) -> Any:
    """The entry ``key``, which Python 3 may have written as bytes."""
    entries = {_text(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    value = entries.get(key)
    value = value.value if isinstance(value, ArrayNode) else value
    if not isinstance(value, kind):
        found = ", ".join(map(quote, entries))[:200] or "no dict"
        raise DataError(f"{path}: holds {found}; expected {key!r} as {kind.__name__}")
    return value


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
