"""German traffic signs (GTSRB, Stallkamp et al., 2012): 43 classes in the published layout and its re-publications."""

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.image_files import Box, list_some, read_image_files
from rnp_jax.data.splits import Split
from rnp_jax.errors import DataError
from rnp_jax.regular_file import MIB, read_regular

GTSRB_CLASSES = (
    *(f"speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing", "no passing for trucks"),
    *("right of way at the next crossing", "priority road", "yield", "stop", "no vehicles", "no trucks", "no entry"),
    *("danger", "curve left", "curve right", "double curve", "uneven road", "slippery road", "road narrows"),
    *("road works", "traffic lights", "pedestrians", "children", "bicycles", "snow", "wild animals", "end of limits"),
    *("turn right", "turn left", "straight on", "straight or right", "straight or left", "keep right", "keep left"),
    *("roundabout", "end of no passing", "end of no passing for trucks"),
)

_TRAIN = ("Final_Training/Images", "Train/Images", "Training", "Train")
_TEST = ("Final_Test/Images", "Test/Images", "Test")
_TEST_CSV = "GT-final_test.csv"
_SIGNS_OF_IT = (
    *(_TRAIN[0], _TEST[0]),
    *(f"{part}/00000/GT-00000.csv" for part in _TRAIN),
    *(f"{part}/{_TEST_CSV}" for part in _TEST),
)
_BOX = ("Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2")
_SUFFIXES = (".ppm", ".png")


@dataclass(frozen=True)
class _Sign:
    file: Path
    label: int
    box: Box


def find_gtsrb(path: Path) -> Path | None:
    """The folder of GTSRB at ``path`` or right under it, or None."""
    for folder in (path, path / "GTSRB"):
        kaggle = all((folder / name).exists() for name in ("Train", "Train.csv", "Test", "Test.csv"))
        if kaggle or any((folder / sign).exists() for sign in _SIGNS_OF_IT):
            return folder
    return None


def load_gtsrb(root: Path, split: Split, size: tuple[int, int] | None = None, *, crop: bool = False) -> Dataset:
    """Read a folder found by ``find_gtsrb``, in the order of its annotations; the images differ in size.

    Args:
      root: with ``Final_Training/Images/00000/GT-00000.csv`` … and ``Final_Test/Images/GT-final_test.csv``
        (semicolons between fields), or ``Train.csv`` and ``Test.csv`` (commas) whose ``Path`` is relative to them.
      split: 'train' or 'test'.
      size: (height, width) to resize to; BackdoorBench has 32x32.
      crop: cut out each sign's region of interest; BackdoorBench uses the whole image.

    Raises:
      DataError: annotations or images are missing, damaged, or not of each other; a class is none of 0 … 42, or has no
        training image; the images differ in size without ``size``.
    """
    table = root / ("Train.csv" if split == "train" else "Test.csv")
    if table.is_file():
        signs = _read_table(table, root, "Path")
    else:
        signs = _list_train(root) if split == "train" else _list_test(root)
    _check_files(root, signs)
    labels = np.asarray([sign.label for sign in signs], np.int32)
    missing = sorted(set(range(len(GTSRB_CLASSES))) - set(labels.tolist()))
    if split == "train" and missing:
        listed = list_some([f"{label:05} ({GTSRB_CLASSES[label]})" for label in missing])
        raise DataError(f"{root}: no training images of the classes {listed}; get the training part again")
    boxes = [sign.box for sign in signs] if crop else None
    images = read_image_files(root, [sign.file for sign in signs], size, boxes)
    return Dataset(images, labels, GTSRB_CLASSES, f"gtsrb ({split})")


def _list_train(root: Path) -> list[_Sign]:
    folder = _first(root, _TRAIN)
    signs = []
    for each in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        if not (each.name.isascii() and each.name.isdecimal() and int(each.name) < len(GTSRB_CLASSES)):
            raise DataError(f"{each}: expected class folders 00000 … {len(GTSRB_CLASSES) - 1:05}; remove it")
        table = each / f"GT-{each.name}.csv"
        found = _read_table(table, each, "Filename")
        other = next((sign for sign in found if sign.label != int(each.name)), None)
        if other is not None:
            raise DataError(f"{table}: {other.file.name} has ClassId {other.label}, but is in class folder {each.name}")
        signs += found
    return signs


def _list_test(root: Path) -> list[_Sign]:
    folder = _first(root, _TEST)
    tables = [place / _TEST_CSV for place in dict.fromkeys((folder, folder.parent, root, root.parent))]
    table = next((table for table in tables if table.is_file()), None)
    if table is None:
        raise DataError(
            f"{folder}: no {_TEST_CSV} in it. This file has the annotations with ClassId and is published separately "
            "from the test images (GT-final_test.test.csv has no classes); put it there"
        )
    return _read_table(table, folder, "Filename")


def _first(root: Path, parts: tuple[str, ...]) -> Path:
    found = next((root / part for part in parts if (root / part).is_dir()), None)
    if found is None:
        raise DataError(f"{root}: no folder {parts[0]}; expected GTSRB as published, or its Train.csv and Test.csv")
    return found


def _read_table(table: Path, folder: Path, key: str) -> list[_Sign]:
    """The rows of one file of annotations, whose column ``key`` is a file's path under ``folder``."""
    try:
        lines = read_regular(table, 64 * MIB).decode("utf-8-sig").splitlines()
        rows = list(csv.DictReader(lines, delimiter=";" if lines and ";" in lines[0] else ",", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: annotations cannot be read ({error}); get the file again") from error
    if not rows or not {key, "ClassId", *_BOX} <= set(rows[0]):
        raise DataError(f"{table}: expected rows under the columns {key}, {', '.join(_BOX)}, ClassId; get it again")
    return [_read_row(row, f"{table}: row {number}", folder, key) for number, row in enumerate(rows, 1)]


def _read_row(row: dict[str, str], where: str, folder: Path, key: str) -> _Sign:
    path = PurePosixPath(row[key] or "")
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in row[key] or "\0" in row[key]:
        raise DataError(f"{where}: {key} is {row[key]!r}, expected the path of an image under {folder}")
    try:
        label = int(row["ClassId"])
        left, top, right, bottom = (int(row[name]) for name in _BOX)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {', '.join(_BOX)} and ClassId are not all whole numbers; get it again") from error
    if not 0 <= label < len(GTSRB_CLASSES):
        raise DataError(f"{where}: ClassId is {label}, expected 0 … {len(GTSRB_CLASSES) - 1}; get the file again")
    return _Sign(folder / path, label, (left, top, right, bottom))


def _check_files(root: Path, signs: list[_Sign]) -> None:
    """Every annotated image is there, once, and beside it are no others."""
    annotated = {sign.file for sign in signs}
    folders = {file.parent for file in annotated}
    present = {file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.suffix in _SUFFIXES}
    difference = [f"- {file.relative_to(root).as_posix()}" for file in sorted(annotated - present)]
    difference += [f"+ {file.relative_to(root).as_posix()}" for file in sorted(present - annotated)]
    if difference:
        raise DataError(
            f"{root}: annotated images are missing (-) or others are there (+): {list_some(difference)}; "
            "get the images and their annotations again"
        )
    if len(annotated) < len(signs):
        raise DataError(f"{root}: {len(signs) - len(annotated)} images are annotated twice; get the annotations again")
