"""Decoded images of prepared sets, kept between runs: to draw 500 of 50,000, all of them would be decoded anew.

An entry is three files, of which the last one written names the set's classes. Its images are mapped, not read: a run
costs what it looks at. What a set's own files are (names, sizes, times) is part of an entry's name, so a set that was
prepared again is decoded again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnp_jax.atomic import open_atomic, remove_drafts, write_atomic
from rnp_jax.cache_folder import cache_folder, check_private, is_switched_on, make_private
from rnp_jax.errors import ConfigError, DiskFullError
from rnp_jax.regular_file import MIB, read_regular

LEAST = 5_000
"""Images from which a set is kept; fewer are decoded in less than a second."""
MOST_BYTES = 2 * 2**30
"""Of all entries together; the oldest make room."""

_FOLDER = "images"
_FORM = 1  # counts up where an entry's form changes


class Decoded(NamedTuple):
    """A set, decoded.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int32 [N].
      facts: the name of its ``part``, its ``class_names``, and whether it is ``undivided``, without a test part.
    """

    images: np.ndarray
    labels: np.ndarray
    facts: Mapping[str, Any]


_FACTS = {"part", "class_names", "undivided"}


def name_entry(folder: Path, **asked: object) -> str:
    """The name of the entry for the files of ``folder`` as they are, and for what is asked of them."""
    found = [(each.name, each.lstat()) for each in folder.iterdir()] if folder.is_dir() else []
    files = sorted((name, status.st_size, status.st_mtime_ns) for name, status in found)
    decisive = repr((_FORM, str(folder.resolve()), files, sorted(asked.items())))
    return hashlib.sha256(decisive.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def read_images(name: str) -> Decoded | None:
    """An entry, its images mapped read-only; None without a whole one, or where nothing is kept."""
    with contextlib.suppress(OSError, EOFError, ConfigError, ValueError, AttributeError, TypeError):
        folder = _folder()
        if folder is None:
            return None
        check_private(folder)
        facts = json.loads(read_regular(folder / f"{name}.json", MIB))
        images = np.load(folder / f"{name}.images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{name}.labels.npy", allow_pickle=False)
        whole = images.ndim == 4 and images.dtype == np.uint8 and labels.dtype == np.int32
        if whole and labels.shape == images.shape[:1] and facts.keys() == _FACTS:
            return Decoded(np.asarray(images), labels, facts)
    return None


def keep_images(name: str, images: np.ndarray, labels: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Keeps an entry, if the set is large enough and there is a folder with room for it."""
    with contextlib.suppress(OSError, ConfigError, DiskFullError):
        folder = _folder()
        if folder is None or len(images) < LEAST or images.nbytes > MOST_BYTES:
            return
        make_private(folder)
        remove_drafts(folder)
        _make_room(folder, images.nbytes + labels.nbytes)
        for part, array in (("images", images), ("labels", labels)):
            with open_atomic(folder / f"{name}.{part}.npy") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        write_atomic(folder / f"{name}.json", json.dumps(dict(facts)).encode())


def forget_images() -> None:
    """Removes every entry.

    Raises:
      ConfigError: the folder is not the user's own.
      OSError: an entry cannot be removed.
    """
    folder = cache_folder() / _FOLDER
    if folder.exists():
        check_private(folder)
        remove_drafts(folder)
        for path in _files(folder):
            path.unlink(missing_ok=True)


def _folder() -> Path | None:
    return cache_folder() / _FOLDER if is_switched_on() else None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in (".npy", ".json")]


def _make_room(folder: Path, size: int) -> None:
    """Drops the oldest entries until ``size`` bytes more fit."""
    entries: dict[str, list[Path]] = {}
    for path in _files(folder):
        entries.setdefault(path.name.partition(".")[0], []).append(path)
    sizes = {name: sum(os.lstat(path).st_size for path in paths) for name, paths in entries.items()}
    ages = {name: max(os.lstat(path).st_mtime for path in paths) for name, paths in entries.items()}
    for name in sorted(entries, key=ages.__getitem__):
        if sum(sizes.values()) + size <= MOST_BYTES:
            return
        for path in entries[name]:
            path.unlink(missing_ok=True)
        del sizes[name]
