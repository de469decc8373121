"""The project's own artefacts on disk: trees of arrays with JSON metadata, in orbax format."""

import shutil
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rnp_jax.errors import CheckpointError

_TREE, _METADATA = "tree", "metadata"


def save_tree(path: str | PathLike[str], tree: Any, metadata: dict[str, Any], *, overwrite: bool = False) -> None:
    """Writes a tree of arrays and what describes it into the folder ``path``; it appears whole or not at all.

    Raises:
      CheckpointError: the path exists, and is not to be overwritten.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise CheckpointError(path, "exists already; choose another path, or allow overwriting")
    arrays = jax.tree.map(np.asarray, jax.device_get(tree))
    items = ocp.args.Composite(
        **{_TREE: ocp.args.StandardSave(arrays), _METADATA: ocp.args.JsonSave(metadata)}  # pyright: ignore
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, items, force=overwrite)


def load_tree(path: str | PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Reads what ``save_tree`` wrote: the tree as nested dicts of numpy arrays, and the metadata.

    Raises:
      CheckpointError: there is no such folder, or it is not one that ``save_tree`` finished.
    """
    path = Path(path).absolute()
    if not (path / _TREE).is_dir() or not (path / _METADATA).is_dir():
        raise CheckpointError(path, "is no folder written by this project (it lacks 'tree' or 'metadata')")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        try:
            restored = checkpointer.restore(
                path,
                ocp.args.Composite(
                    **{_TREE: ocp.args.StandardRestore(), _METADATA: ocp.args.JsonRestore()}  # pyright: ignore
                ),
            )
        except (ValueError, OSError, KeyError) as error:
            raise CheckpointError(path, f"could not be read back: {error}") from error
    return restored[_TREE], restored[_METADATA]


def remove_tree(path: str | PathLike[str]) -> None:
    """Removes a folder that ``save_tree`` wrote, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
