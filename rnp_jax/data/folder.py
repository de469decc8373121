"""Image folders: one subfolder a class, with or without train and test folders above them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.image_files import LISTED, keep_files, keep_folders, list_some, read_image_files
from rnp_jax.data.splits import Split, split_whole
from rnp_jax.errors import DataError

_PARTS: Mapping[Split, Sequence[str]] = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
"""What the folder of a part is called, in upper or lower case; an earlier name goes first."""

_LAYOUT = "expected CLASS/image.png, or train/CLASS/image.png and test/CLASS/image.png"


def load_folder(path: Path, split: Split, size: tuple[int, int] | None = None, *, undivided: bool = False) -> Dataset:
    """Read a folder of PNG, JPEG, PPM, BMP, TIFF or WebP images as RGB, class names sorted; hidden files are left out.

    The parts may be called train or training, and test, testing, val, valid or validation, in upper or lower case.
    Without them, the images are split into four fifths and one fifth of each class, or left ``undivided``.

    Raises:
      DataError: if the layout is another one, the two parts name different classes, a class has no images or only
        folders of images, the images differ in size without ``size``, files cannot be read or are special ones (all of
        them in one error), or the set would fill the memory.
    """
    inside = keep_folders(path)
    if not inside:
        raise DataError(f"{path}: no class folders in it; {_LAYOUT}")
    parts = {part: _find_part(path, inside, names) for part, names in _PARTS.items()}
    known = {name for names in _PARTS.values() for name in names}
    if not {folder.name.lower() for folder in inside} <= known:
        return split_whole(_read_classes(path, size, path.name), split, undivided)
    root = parts[split]
    if root is None:
        names = ", ".join(folder.name for folder in inside)
        raise DataError(f"{path}: has {names} but no {split} folder; {_LAYOUT}")
    classes = {part: {folder.name for folder in keep_folders(root)} for part, root in parts.items() if root is not None}
    if len(classes) == 2 and classes["train"] != classes["test"]:
        signs = [f"- {name}" for name in sorted(classes["train"] - classes["test"])]
        signs += [f"+ {name}" for name in sorted(classes["test"] - classes["train"])]
        raise DataError(f"{path}: the test folder lacks (-) or adds (+) classes: {', '.join(signs[:LISTED])}")
    return _read_classes(root, size, f"{path.name} ({split})")


def _find_part(path: Path, inside: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The folder with the first of these names that there is."""
    for name in names:
        found = [folder for folder in inside if folder.name.lower() == name]
        if len(found) > 1:
            raise DataError(f"{path}: has {' and '.join(each.name for each in found)}; keep the one that is meant")
        if found:
            return found[0]
    return None


def _read_classes(root: Path, size: tuple[int, int] | None, name: str) -> Dataset:
    files, labels = [], []
    folders = keep_folders(root)
    _refuse_nested(root, folders)
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


def _refuse_nested(root: Path, folders: Sequence[Path]) -> None:
    """Refuse class folders that hold only folders: they are parts of a data set, or a level too high.

    Raises:
      DataError: there are some.
    """
    nested = []
    for folder in folders:
        below = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
        if below and all(entry.is_dir() for entry in below):
            nested.append(f"{folder.name} ({', '.join(each.name for each in below[:LISTED])})")
    if nested:
        raise DataError(
            f"{root}: {len(nested)} folders hold no images, only folders, so they are no classes: {list_some(nested)}; "
            f"{_LAYOUT}: rename the parts, remove other folders, or give the folder above the class folders"
        )
