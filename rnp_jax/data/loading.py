"""Data sets by name or path."""

import difflib
import os
from pathlib import Path

from rnp_jax.data.cifar import find_cifar, load_cifar
from rnp_jax.data.dataset import Dataset
from rnp_jax.data.digits import load_digits
from rnp_jax.data.folder import load_folder
from rnp_jax.data.gtsrb import find_gtsrb, load_gtsrb
from rnp_jax.data.images import ImageSize, parse_size
from rnp_jax.data.npz import load_npz
from rnp_jax.data.splits import Split, check_split
from rnp_jax.data.tfds import default_data_dir, explain_preparing, find_prepared, list_known, load_tfds
from rnp_jax.data.tiny_imagenet import find_tiny_imagenet, load_tiny_imagenet
from rnp_jax.errors import DataError, UnusableDataError

BUILT_IN = ("digits",)

_KINDS = (
    "a prepared TensorFlow Datasets name, a folder of CIFAR batches, GTSRB or Tiny-ImageNet, an image folder or a "
    ".npz file"
)


def load(
    name_or_path: str | os.PathLike[str],
    *,
    split: Split = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: ImageSize | None = None,
    undivided: bool = False,
) -> Dataset:
    """Load one part of a data set into memory. Nothing is ever downloaded, and nothing in a file is executed.

    Args:
      name_or_path: ``digits`` (built in), the name of a prepared TensorFlow Datasets set (``cifar10``,
        ``name/config``, ``name:1.0.0``), a folder of CIFAR python batches, GTSRB or Tiny-ImageNet as published, an
        image folder, or a ``.npz`` file. A name is looked up before a path.
      split: 'train' or 'test'. A source without a test part gives four fifths and one fifth of each class.
      data_dir: where prepared sets are; by default TensorFlow Datasets' own choice.
      image_size: resize to this side, or (height, width), in pixels; needed where the images differ in size.
      undivided: give all images of a source without a test part, whatever the split.

    Raises:
      DataError: if there is no such data, or it is damaged or unusable.
      ConfigError: if ``split`` or ``image_size`` has an impossible value.
    """
    check_split(split)
    size = parse_size(image_size)
    name, path = os.fspath(name_or_path), Path(os.path.expanduser(name_or_path))
    prepared_in = default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir))
    if name == "digits":
        return load_digits(split, size)
    if (folder := find_prepared(prepared_in).get(name)) is not None:
        return load_tfds(folder, name, split, size, undivided=undivided)
    if path.is_dir():
        return _load_directory(path, split, size, undivided)
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{path}: a file of unknown kind; data is {', '.join(BUILT_IN)}, {_KINDS}")
        return load_npz(path, split, size, undivided=undivided)
    raise UnusableDataError(_explain_missing(name, prepared_in))


def find_files(name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder or file of a data set that is not built in.

    Args:
      name_or_path: as ``load`` takes it.
      data_dir: as ``load`` takes it.

    Raises:
      UnusableDataError: there is no such data.
    """
    name, path = os.fspath(name_or_path), Path(os.path.expanduser(name_or_path))
    prepared_in = default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir))
    found = find_prepared(prepared_in).get(name, path)
    if not found.exists():
        raise UnusableDataError(_explain_missing(name, prepared_in))
    return found


def _load_directory(path: Path, split: Split, size: tuple[int, int] | None, undivided: bool) -> Dataset:
    """A folder in a published layout, else one folder a class."""
    if (cifar := find_cifar(path)) is not None:
        return load_cifar(*cifar, split, size)
    if (gtsrb := find_gtsrb(path)) is not None:
        return load_gtsrb(gtsrb, split, size)
    if (tiny := find_tiny_imagenet(path)) is not None:
        return load_tiny_imagenet(tiny, split, size)
    return load_folder(path, split, size, undivided=undivided)


def _explain_missing(name: str, data_dir: Path) -> str:
    known = list_known()
    if name.partition(":")[0].partition("/")[0] in known:
        return explain_preparing(name, data_dir)
    prepared = [entry for entry in find_prepared(data_dir) if ":" not in entry]
    near = difflib.get_close_matches(name, [*BUILT_IN, *prepared, *known], n=3)
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else "."
    listed = ", ".join(sorted(prepared)[:20]) or "none"
    return (
        f"there is no data set, file or folder {name!r}{hint} Data is {', '.join(BUILT_IN)}, {_KINDS}; "
        f"prepared under {data_dir}: {listed}"
    )
