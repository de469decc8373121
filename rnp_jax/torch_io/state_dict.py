"""Finding the state dict inside a checkpoint, wherever the training code of its author put it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.checkpoint import Checkpoint, find_extent, materialise
from rnp_jax.torch_io.nodes import Location, Node, Opaque, TensorRef, walk
from rnp_jax.torch_io.reader import MODULE_ADVICE
from rnp_jax.torch_io.text import format_path, quote

KEYS: Final = ("state_dict", "model", "netC", "clsmodel", "model_state_dict", "net")
"""Where RNP and ABL, BackdoorBench, WaNet and Input-Aware, LIRA, and others keep the classifier's state dict."""

_PARALLEL_PREFIX: Final = "module."  # torch.nn.DataParallel
_SECOND_PREFIX: Final = "1."  # the network in a Sequential, behind a step without tensors such as a resize
_MOST_WRAPPERS: Final = 4
_LONGEST_NAME: Final = 1024


class Tensors(Mapping[str, np.ndarray]):
    """Arrays that are read from the file whenever they are asked for, and not kept.

    Args:
      checkpoint: their file.
      refs: what is known of each without reading it: shape and dtype.

    Raises:
      CheckpointError: at any reading, that the file is not what it was.
    """

    def __init__(self, checkpoint: Checkpoint, refs: Mapping[str, TensorRef]):
        self._checkpoint, self.refs = checkpoint, refs

    def __getitem__(self, name: str) -> np.ndarray:
        return materialise(self._checkpoint, self.refs[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.refs)

    def __len__(self) -> int:
        return len(self.refs)

    def __contains__(self, name: object) -> bool:  # the inherited one would read it
        return name in self.refs


@dataclass(frozen=True, eq=False)
class StateDict:
    """The tensors of a classifier.

    Attributes:
      location: the keys that lead to it from the root of the tree; empty if the root is the state dict.
      prefix: what was taken off every name: ``module.`` for a network trained on several GPUs, ``1.`` for one behind a
        step without tensors (BackdoorBench's transformers), both, or nothing.
      tensors: by name without the prefix, in the order of the file, in the file's dtypes.
      skipped: the names of entries that are not tensors.
    """

    location: Location
    prefix: str
    tensors: Tensors
    skipped: tuple[str, ...]


def find_state_dict(checkpoint: Checkpoint, key: str | None = None) -> StateDict:
    """The state dict under `key`; else under the one of `KEYS` that holds tensors; else the root, if all tensors.

    Args:
      checkpoint: from `read_checkpoint`.
      key: a key of the root, or keys separated by slashes; a single slash is the root itself.

    Raises:
      CheckpointError: there is none, there are several, or it holds unread objects, names that are not text, a prefix
        on some names only, or more than `Limits.materialised_bytes`.
    """
    path, tree = checkpoint.path, checkpoint.tree
    location = _choose(tree, path) if key is None else _follow(tree, key, path)
    chosen = _get(tree, location)
    where = format_path(location)
    if isinstance(chosen, Opaque):
        raise CheckpointError(path, f"{where} is {quote(chosen.name)}{_advise(chosen)}")
    if not isinstance(chosen, dict):
        raise CheckpointError(path, f"{where} is a {type(chosen).__name__}, not a state dict")
    for place, node in walk(chosen):
        if isinstance(node, Opaque):
            raise CheckpointError(path, f"{format_path(location + place)} is {quote(node.name)}{_advise(node)}")
    for name in chosen:
        if type(name) is not str:
            raise CheckpointError(path, f"{where} has the key {quote(name)}, which is not the name of a tensor")
        if len(name) > _LONGEST_NAME:
            reason = f"{where} has the key {quote(name)} of {len(name)} letters, more than {_LONGEST_NAME}"
            raise CheckpointError(path, reason)
    refs = {name: value for name, value in chosen.items() if isinstance(value, TensorRef)}
    if not refs:
        raise CheckpointError(path, f"{where} holds no tensors")
    prefix = _find_prefix(refs, where, path)
    total = sum(max(ref.nbytes, (extent := find_extent(ref)).stop - extent.start) for ref in refs.values())
    if total > checkpoint.limits.materialised_bytes:
        allowed = f"{checkpoint.limits.materialised_bytes} (Limits.materialised_bytes)"
        raise CheckpointError(path, f"the tensors of {where} take {total} bytes, more than {allowed}")
    tensors = Tensors(checkpoint, {name.removeprefix(prefix): ref for name, ref in refs.items()})
    return StateDict(location, prefix, tensors, tuple(name for name in chosen if name not in refs))


def check_consumed(tensors: Mapping[str, np.ndarray], names: Iterable[str], path: str | PathLike[str]) -> None:
    """Check the values of the tensors that a network will use; others, such as uninitialised noise, may be anything.

    Raises:
      CheckpointError: one holds NaN or infinity, or a running variance is negative.
    """
    for name in names:
        _check_values(name, tensors[name], path)


class Checked(Mapping[str, np.ndarray]):
    """The same tensors, each checked whenever it is asked for, as by ``check_consumed``.

    Args:
      tensors: by name.
      path: their file, for errors.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], path: str | PathLike[str]):
        self._tensors, self._path = tensors, path

    def __getitem__(self, name: str) -> np.ndarray:
        values = self._tensors[name]
        _check_values(name, values, self._path)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


def _check_values(name: str, values: np.ndarray, path: str | PathLike[str]) -> None:
    if values.dtype.kind in "iub" or not values.size:
        return
    with np.errstate(invalid="ignore"):
        extremes = values.min(), values.max()  # NaN is both; no array of booleans is made
    if not np.isfinite(extremes).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
        raise CheckpointError(path, f"tensor {quote(name)} holds {values[place]} at {place}; weights must be finite")
    if name.endswith("running_var") and extremes[0] < 0:
        raise CheckpointError(path, f"tensor {quote(name)} holds the negative variance {extremes[0]}")


def _choose(tree: Node, path: str | PathLike[str]) -> Location:
    if not isinstance(tree, dict):
        raise CheckpointError(path, f"the file holds a {type(tree).__name__}, not a dict of tensors")
    found = [key for key in KEYS if _is_plausible(tree.get(key))]
    if len(found) > 1:
        raise CheckpointError(
            path, f"several state dicts: {', '.join(found)}; choose one with --key, such as --key {found[0]}"
        )
    if found:
        return (found[0],)
    for key in KEYS:
        if isinstance(tree.get(key), Opaque):
            return (key,)  # its own error says what it is
    if any(isinstance(value, TensorRef) for value in tree.values()) and all(
        isinstance(value, TensorRef | Opaque) for value in tree.values()
    ):
        return ()
    others = [quote(key) for key, value in tree.items() if _is_plausible(value)]
    hint = f"; {', '.join(others[:10])} hold tensors: choose one with --key" if others else ""
    raise CheckpointError(path, f"no state dict under {', '.join(KEYS)} or at the root{hint}")


def _is_plausible(node: Node) -> bool:
    return isinstance(node, dict) and any(isinstance(value, TensorRef) for value in node.values())


def _follow(tree: Node, key: str, path: str | PathLike[str]) -> Location:
    if isinstance(tree, dict) and key in tree:
        return (key,)
    location = tuple(part for part in key.split("/") if part)
    node = tree
    for part in location:
        if not isinstance(node, dict) or part not in node:
            known = [quote(name) for name in node if not isinstance(name, Opaque)] if isinstance(node, dict) else []
            raise CheckpointError(path, f"no key {quote(part)}; known keys: {', '.join(known[:20]) or 'none'}")
        node = node[part]
    return location


def _get(tree: Node, location: Location) -> Node:
    for key in location:
        tree = tree[key]
    return tree


def _advise(node: Opaque) -> str:
    return f": {MODULE_ADVICE}" if node.is_module else ", which is not a dense tensor or plain data: it was left unread"


def _find_prefix(names: Mapping[str, Any], where: str, path: str | PathLike[str]) -> str:
    """The wrappers' names that every name begins with."""
    end = 0
    for _ in range(_MOST_WRAPPERS):
        end += len(_find_wrapper(names, end))
    prefix = next(iter(names))[:end]
    having = [name for name in names if name.startswith(_PARALLEL_PREFIX, end)]
    bare = next((name for name in names if not name.startswith(_PARALLEL_PREFIX, end)), None)
    if having and bare is not None:
        raise CheckpointError(
            path,
            f"in {where}, {len(having)} of {len(names)} names begin with {quote(prefix + _PARALLEL_PREFIX)}, "
            f"such as {quote(having[0])}, but {quote(bare)} does not; a state dict has it on all names or on none",
        )
    return prefix


def _find_wrapper(names: Iterable[str], begin: int) -> str:
    """The next wrapper's name on all names from there on, or nothing."""
    if all(name.startswith(_PARALLEL_PREFIX, begin) for name in names):
        return _PARALLEL_PREFIX
    # A network's own names have dots of their own; ``1.weight`` and ``1.bias`` are a single layer's.
    if not all(name.startswith(_SECOND_PREFIX, begin) for name in names):
        return ""
    return _SECOND_PREFIX if any(name.find(".", begin + len(_SECOND_PREFIX)) > 0 for name in names) else ""
