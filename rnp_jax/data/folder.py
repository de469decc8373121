"""Image folders: one subfolder a class, with or without train and test folders above them."""

from pathlib import Path

import numpy as np

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.image_files import keep_files, keep_folders, read_image_files
from rnp_jax.data.splits import Split, split_whole
from rnp_jax.errors import DataError

_FOLDERS = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
_LAYOUT = "expected CLASS/image.png, or train/CLASS/image.png and test/CLASS/image.png"
_LISTED = 10


def load_folder(path: Path, split: Split, size: tuple[int, int] | None = None, *, undivided: bool = False) -> Dataset:
    """Read a folder of PNG, JPEG, PPM or BMP images as RGB, class names sorted; hidden files are left out.

    Without train and test subfolders, the images are split into four fifths and one fifth of each class, or left
    ``undivided``.

    Raises:
      DataError: if the layout is another one, the two parts name different classes, a class is empty, the images differ
        in size without ``size``, files cannot be read or are special ones (all of them in one error), or the set would
        fill the memory.
    """
    inside = {folder.name: folder for folder in keep_folders(path)}
    if not inside:
        raise DataError(f"{path}: no class folders in it; {_LAYOUT}")
    if not set(inside) <= {name for names in _FOLDERS.values() for name in names}:
        return split_whole(_read_classes(path, size, path.name), split, undivided)
    parts = {part: next((inside[name] for name in names if name in inside), None) for part, names in _FOLDERS.items()}
    root = parts[split]
    if root is None:
        raise DataError(f"{path}: has {', '.join(sorted(inside))} but no {split} folder; {_LAYOUT}")
    classes = {part: {folder.name for folder in keep_folders(root)} for part, root in parts.items() if root is not None}
    if len(classes) == 2 and classes["train"] != classes["test"]:
        signs = [f"- {name}" for name in sorted(classes["train"] - classes["test"])]
        signs += [f"+ {name}" for name in sorted(classes["test"] - classes["train"])]
        raise DataError(f"{path}: the test folder lacks (-) or adds (+) classes: {', '.join(signs[:_LISTED])}")
    return _read_classes(root, size, f"{path.name} ({split})")


def _read_classes(root: Path, size: tuple[int, int] | None, name: str) -> Dataset:
    files, labels = [], []
    folders = keep_folders(root)
    for label, folder in enumerate(folders):
        members = keep_files(root, folder.rglob("*"))
        if not members:
            raise DataError(f"{root}: class folder {folder.name!r} is empty; add images or remove it")
        files += members
        labels += [label] * len(members)
    if not files:
        raise DataError(f"{root}: no class folders in it; {_LAYOUT}")
    names = tuple(folder.name for folder in folders)
    return Dataset(read_image_files(root, files, size), np.asarray(labels, np.int32), names, name)
