"""The project's own artefacts on disk: trees of arrays with JSON metadata, in orbax format."""

import contextlib
import logging
import math
import os
import shutil
import stat
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from rnp_jax.atomic import FULL, find_full, no_room, put_in_place
from rnp_jax.checks import check_path
from rnp_jax.errors import CheckpointError

_TREE, _METADATA = "tree", "metadata"
_MOST_BYTES = 32 * 2**30
_DESCRIPTION = 2**18  # bytes, at most, that orbax writes about the arrays
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError)
"""What orbax raises where a file is not as it wrote it."""


def save_tree(path: str | PathLike[str], tree: Any, metadata: dict[str, Any], *, overwrite: bool = False) -> None:
    """Writes a tree of arrays and what describes it into the folder ``path``; it appears whole or not at all.

    Raises:
      CheckpointError: the path exists, and is not to be overwritten.
      ConfigError: it is not UTF-8.
      DiskFullError: there is no room; what was there stays.
    """
    path = Path(path).absolute()
    check_path("the folder", path)
    if os.path.lexists(path) and not overwrite:
        raise CheckpointError(path, "exists already; choose another path, or allow overwriting")
    arrays = jax.tree.map(np.asarray, jax.device_get(tree))
    items = ocp.args.Composite(
        **{_TREE: ocp.args.StandardSave(arrays), _METADATA: ocp.args.JsonSave(metadata)}  # pyright: ignore
    )
    with put_in_place(path) as draft, _telling_full(path), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as saver:
        _check_room(draft.parent, sum(each.nbytes for each in jax.tree.leaves(arrays)))
        saver.save(draft, items)


def _check_room(folder: Path, size: int) -> None:
    """Takes the room for a moment: where orbax finds none, all its threads fail, and some of them loudly."""
    place = folder / "room"
    with place.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size + _DESCRIPTION)
        except OSError as error:
            if error.errno in FULL:
                raise
        finally:
            place.unlink()


@contextlib.contextmanager
def _telling_full(path: Path) -> Iterator[None]:
    """Orbax tells of a full disk in errors of its own, and logs tracebacks of its threads, some after it has failed."""
    logging.getLogger("absl").addFilter(_is_no_full_disk)
    try:
        yield
    except ValueError as error:
        code = find_full(error)
        if code is None:
            raise
        raise no_room(path, OSError(code, os.strerror(code))) from error


def _is_no_full_disk(record: logging.LogRecord) -> bool:
    return find_full(record.exc_info and record.exc_info[1]) is None


def load_tree(path: str | PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Reads what ``save_tree`` wrote: the tree as nested dicts of numpy arrays, and the metadata.

    Raises:
      CheckpointError: there is no such folder, or it is not one that ``save_tree`` finished.
      ConfigError: its path is not UTF-8.
    """
    path = Path(path).absolute()
    check_path("the folder", path)
    if not (path / _TREE).is_dir() or not (path / _METADATA).is_dir():
        raise CheckpointError(path, "is no folder written by this project (it lacks 'tree' or 'metadata')")
    _check_files(path)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        try:
            _check_size(path)
            restored = checkpointer.restore(
                path,
                ocp.args.Composite(
                    **{_TREE: ocp.args.StandardRestore(), _METADATA: ocp.args.JsonRestore()}  # pyright: ignore
                ),
            )
        except _UNREADABLE as error:
            raise CheckpointError(path, f"could not be read back: {type(error).__name__}: {error}") from error
    tree, metadata = restored[_TREE], restored[_METADATA]
    if not isinstance(tree, dict) or not isinstance(metadata, dict):
        raise CheckpointError(path, "was not written by this project: its tree or its metadata is no JSON object")
    return tree, metadata


def _check_files(path: Path) -> None:
    """Orbax would wait for a FIFO, read a device for ever, and follow links out of the folder."""
    for folder, subfolders, names in os.walk(path):
        for name in (*subfolders, *names):
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise CheckpointError(path, f"holds {name}, which is neither a regular file nor a folder")


def _check_size(path: Path) -> None:
    """A few bytes can stand for an array of any shape."""
    arrays = jax.tree.leaves(ocp.StandardCheckpointHandler().metadata(epath.Path(path / _TREE)).tree)
    size = sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in arrays if hasattr(each, "shape"))
    if size > _MOST_BYTES:
        raise CheckpointError(path, f"its arrays take {size} bytes, expected at most {_MOST_BYTES}")


def remove_tree(path: str | PathLike[str]) -> None:
    """Removes a folder that ``save_tree`` wrote, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
