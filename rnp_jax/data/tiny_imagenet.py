"""Tiny-ImageNet-200 as published: 200 classes, 500 training and 50 validation images of 64x64 each."""

from pathlib import Path

import numpy as np

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.image_files import keep_files, list_some, read_image_files
from rnp_jax.data.splits import Split
from rnp_jax.errors import DataError
from rnp_jax.regular_file import MIB, read_regular

_FOLDER = "tiny-imagenet-200"
_ANNOTATIONS = "val/val_annotations.txt"


def find_tiny_imagenet(path: Path) -> Path | None:
    """The folder of Tiny-ImageNet at ``path`` or right under it, or None. A sorted ``val`` makes an image folder."""
    for folder in (path, path / _FOLDER):
        if (folder / "wnids.txt").is_file() and ((folder / _ANNOTATIONS).exists() or (folder / "val/images").exists()):
            return folder
    return None


def load_tiny_imagenet(root: Path, split: Split, size: tuple[int, int] | None = None) -> Dataset:
    """Read a folder found by ``find_tiny_imagenet``; the validation images are the test part, as everywhere.

    Labels follow the sorted WordNet ids, as an image folder's do, not the order of ``wnids.txt``. Names come from
    ``words.txt``, the first of each id's synonyms.

    Raises:
      DataError: a list or an image is missing or damaged, or an image has no class or an unknown one.
    """
    ids = sorted(line for line in _read_lines(root / "wnids.txt") if line)
    if not ids or len(set(ids)) < len(ids) or not all(_is_plain(wnid) for wnid in ids):
        raise DataError(f"{root / 'wnids.txt'}: expected one WordNet id per line, each once; get the file again")
    files, labels = _list_train(root, ids) if split == "train" else _list_test(root, ids)
    return Dataset(
        read_image_files(root, files, size), np.asarray(labels, np.int32), _read_names(root, ids),
        f"tiny-imagenet ({split})",
    )  # fmt: skip


def _list_train(root: Path, ids: list[str]) -> tuple[list[Path], list[int]]:
    files, labels = [], []
    for label, wnid in enumerate(ids):
        folder = root / "train" / wnid / "images"
        members = _images_in(folder)
        if not members:
            raise DataError(f"{folder}: no images of class {wnid}, which wnids.txt names; get the training part again")
        files += members
        labels += [label] * len(members)
    return files, labels


def _list_test(root: Path, ids: list[str]) -> tuple[list[Path], list[int]]:
    annotations, folder = root / _ANNOTATIONS, root / "val" / "images"
    label_of = {wnid: label for label, wnid in enumerate(ids)}
    found: dict[str, int] = {}
    for number, line in enumerate(_read_lines(annotations), 1):
        if not line:
            continue
        name, *rest = line.split("\t")
        if not rest or rest[0] not in label_of or not _is_plain(name) or name in found:
            raise DataError(
                f"{annotations}: line {number} is {line[:80]!r}, expected an image's name, a tab and one of the "
                f"{len(ids)} ids of wnids.txt, each image once; get the file again"
            )
        found[name] = label_of[rest[0]]
    present = {file.name for file in _images_in(folder)}
    difference = [f"- {name}" for name in sorted(found.keys() - present)]
    difference += [f"+ {name}" for name in sorted(present - found.keys())]
    if difference or not found:
        raise DataError(
            f"{folder}: images that {annotations.name} names are missing (-) or others are there (+): "
            f"{list_some(difference) or 'none at all'}; get the validation part again"
        )
    return [folder / name for name in found], list(found.values())


def _read_names(root: Path, ids: list[str]) -> tuple[str, ...]:
    path = root / "words.txt"
    words: dict[str, str] = {}
    for line in _read_lines(path):
        wnid, _, names = line.partition("\t")
        words[wnid] = names
    unnamed = [wnid for wnid in ids if not words.get(wnid)]
    if unnamed:
        raise DataError(f"{path}: no words for {list_some(unnamed)}; expected an id, a tab and its names on each line")
    return tuple(words[wnid].partition(",")[0].strip() for wnid in ids)


def _read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_regular(path, 64 * MIB).decode("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); it is a part of Tiny-ImageNet, get it again") from error


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return keep_files(folder, folder.iterdir())


def _is_plain(name: str) -> bool:
    """Whether it names something in a folder, and nothing outside of it."""
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name and "\0" not in name
