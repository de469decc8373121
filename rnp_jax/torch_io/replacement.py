"""Putting new values into a checkpoint's tensors, and new tensors beside them, without changing any other tensor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.checkpoint import Checkpoint, decode, encode
from rnp_jax.torch_io.dtypes import DTYPES
from rnp_jax.torch_io.nodes import Node, Opaque, StorageRef, TensorRef, children
from rnp_jax.torch_io.safetensors_container import contiguous_strides
from rnp_jax.torch_io.text import quote

Slot = tuple[int, object]
"""A place in the tree: the identity of its container, and the key."""


class Edit(NamedTuple):
    """What changes in one container: new values of its tensors by key, and new tensors behind them by name."""

    container: Node
    values: Mapping[Any, np.ndarray]
    new: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Replacement:
    """New bytes of the storages that change or are new, by key; the tensors that move there, by slot; the new ones.

    A slot is not written where an `Opaque` takes its tensor's place. The new ones are by name, by the identity of their
    dict.
    """

    records: Mapping[str, bytearray]
    moved: Mapping[Slot, TensorRef | Opaque]
    added: Mapping[int, Mapping[str, TensorRef]]


def plan_replacement(checkpoint: Checkpoint, edits: Sequence[Edit], path: str | PathLike[str]) -> Replacement:
    """How the tree is to be written with the values of `edits` in the place of tensors, and new ones behind them.

    A storage that several tensors view stays shared if all of them then read what they should (tied weights that are
    replaced alike), which takes at most `Limits.materialised_bytes` to see; else the replaced tensors move to storages
    of their own.

    Raises:
      CheckpointError: a name that its container lacks, or has already if it is new, another shape, or values that its
        dtype cannot hold.
    """
    wanted: dict[Slot, np.ndarray] = {}
    views: dict[str, list[tuple[Slot, TensorRef]]] = {}
    for edit in edits:
        known = dict(children(edit.container))
        _check_names(edit, known, path)
        for name, value in edit.values.items():
            wanted[id(edit.container), name] = _cast(value, known[name], name, path)
            views[known[name].storage.key] = []
    for slot, ref in _iterate_slots(checkpoint.tree):
        if ref.storage.key in views:
            views[ref.storage.key].append((slot, ref))
    records: dict[str, bytearray] = {}
    moved: dict[Slot, TensorRef] = {}
    taken = set(checkpoint.records)
    for key, users in views.items():
        record = checkpoint.records[key]
        for slot, ref in users:
            if slot in wanted:
                encode(wanted[slot], ref, record, checkpoint.byteorder)
        affordable = sum(ref.nbytes for _, ref in users) <= checkpoint.limits.materialised_bytes
        if affordable and all(_reads(slot, ref, record, wanted, checkpoint) for slot, ref in users):
            records[key] = record
            continue
        for slot, ref in users:
            if slot in wanted:
                moved[slot] = fresh = _move(ref, taken)
                records[fresh.storage.key] = bytearray(fresh.nbytes)
                encode(wanted[slot], fresh, records[fresh.storage.key], checkpoint.byteorder)
    added: dict[int, dict[str, TensorRef]] = {}
    for edit in edits:
        for name, value in edit.new.items():
            ref = describe_array(value, _number(taken), name, path)
            added.setdefault(id(edit.container), {})[name] = ref
            records[ref.storage.key] = bytearray(ref.nbytes)
            encode(value, ref, records[ref.storage.key], checkpoint.byteorder)
    return Replacement(records, moved, added)


def _check_names(edit: Edit, known: Mapping[Any, Node], path: str | PathLike[str]) -> None:
    if unknown := [name for name in edit.values if not isinstance(known.get(name), TensorRef)]:
        listed = "".join(f"\n + {quote(name)}" for name in unknown)
        raise CheckpointError(path, f"values for tensors that the state dict does not have:{listed}")
    if taken := [name for name in edit.new if name in known]:
        listed = "".join(f"\n + {quote(name)}" for name in taken)
        raise CheckpointError(path, f"new tensors whose names the state dict has already:{listed}")


def describe_array(array: np.ndarray, key: str, name: str, path: str | PathLike[str]) -> TensorRef:
    """A tensor for this array in a new storage of its own.

    Raises:
      CheckpointError: a dtype that no checkpoint holds.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    if array.dtype not in names:
        raise CheckpointError(path, f"tensor {quote(name)} has dtype {array.dtype}; known are {', '.join(DTYPES)}")
    return TensorRef(StorageRef(key, names[array.dtype], array.size), 0, array.shape, contiguous_strides(array.shape))


def _cast(value: np.ndarray, ref: TensorRef, name: str, path: str | PathLike[str]) -> np.ndarray:
    """`value` in the tensor's own dtype; integers and booleans must stay exact, floats finite."""
    array, dtype = np.asarray(value), DTYPES[ref.dtype]
    if array.shape != ref.shape:
        raise CheckpointError(path, f"tensor {quote(name)} has shape {ref.shape}, but its new value has {array.shape}")
    if array.dtype == dtype:
        return array
    if array.dtype not in DTYPES.values():
        raise CheckpointError(path, f"the new value of tensor {quote(name)} has dtype {array.dtype}, not a number")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    is_exact = dtype.kind in "iub"
    if (is_exact and (cast != array).any()) or (np.isfinite(array) & ~np.isfinite(cast)).any():
        raise CheckpointError(path, f"the new value of tensor {quote(name)} does not fit its dtype {ref.dtype}")
    return cast


def _iterate_slots(root: Node) -> Iterator[tuple[Slot, TensorRef]]:
    """Each place that holds a tensor, once, however often its container appears."""
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if id(node) in seen or not isinstance(node, dict | list | tuple):
            continue
        seen.add(id(node))
        for key, value in children(node):
            if isinstance(value, TensorRef):
                yield (id(node), key), value
            else:
                stack.append(value)


def _reads(
    slot: Slot, ref: TensorRef, record: bytearray, wanted: Mapping[Slot, np.ndarray], checkpoint: Checkpoint
) -> bool:
    """Whether the slot reads, bit for bit, its new value, or its old one if it is not replaced."""
    order = checkpoint.byteorder
    expected = wanted[slot] if slot in wanted else decode(ref, checkpoint.records[ref.storage.key], order)
    return decode(ref, record, order).tobytes() == expected.tobytes()


def _move(ref: TensorRef, taken: set[str]) -> TensorRef:
    numel = int(np.prod(ref.shape, dtype=np.int64))
    storage = StorageRef(_number(taken), ref.dtype, numel)
    return replace(ref, storage=storage, offset=0, strides=contiguous_strides(ref.shape))


def _number(taken: set[str]) -> str:
    """A storage's key that is not taken yet; from now on it is."""
    number = len(taken)
    while str(number) in taken:
        number += 1
    taken.add(str(number))
    return str(number)
