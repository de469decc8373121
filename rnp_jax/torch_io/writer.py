"""Writing a checkpoint: a cleaned copy of one that was read, or a fresh one. Torch is not needed; torch can load it."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

import numpy as np

from rnp_jax.atomic import open_atomic
from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.checkpoint import Checkpoint, decode
from rnp_jax.torch_io.container_writers import Buffer, write_legacy, write_safetensors, write_zip
from rnp_jax.torch_io.dtypes import SAFETENSORS, itemsize
from rnp_jax.torch_io.limits import DEFAULT_LIMITS
from rnp_jax.torch_io.location import get_node
from rnp_jax.torch_io.nodes import Location, Node, Opaque, OrderedDictNode, StorageRef, TensorRef, check_tree
from rnp_jax.torch_io.pickle_emitter import PickleEmitter
from rnp_jax.torch_io.replacement import Edit, Replacement, Slot, describe_array, plan_replacement
from rnp_jax.torch_io.safetensors_container import METADATA
from rnp_jax.torch_io.source_file import CONTAINERS, Container
from rnp_jax.torch_io.state_dict import StateDict
from rnp_jax.torch_io.text import Places, quote

_LEFT_OUT = Opaque("weights")  # stands where a tensor is not written


class Change(NamedTuple):
    """New values of a state dict's tensors, and new tensors behind them, by bare name."""

    state_dict: StateDict
    replacements: Mapping[str, np.ndarray]
    added: Mapping[str, np.ndarray] = MappingProxyType({})


def write_checkpoint(
    path: str | PathLike[str],
    checkpoint: Checkpoint,
    state_dict: StateDict,
    replacements: Mapping[str, np.ndarray],
    *,
    added: Mapping[str, np.ndarray] | None = None,
    others: Sequence[Change] = (),
    left_out: Iterable[Location] = (),
    container: Container | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write a copy of a checkpoint in which some tensors of its state dict have new values.

    All else stays as it was, bit for bit: keys, order, dtypes, strides, shared storages, plain values. Storages are
    numbered afresh and marked for the CPU. Objects that were left unread are not written. The file appears whole or
    not at all.

    Args:
      path: the new file.
      checkpoint: from `read_checkpoint`.
      state_dict: from `find_state_dict` of that checkpoint.
      replacements: values by bare name, of the tensor's shape; cast to the tensor's dtype.
      added: tensors to put behind all others of the state dict, by new bare names.
      others: what changes in other state dicts of the same file.
      left_out: places of tensors that are not written.
      container: another kind of file than the source's. Safetensors holds the state dict alone.
      overwrite: replace a file that exists, be it the source.

    Returns:
      Where in the tree something was not written: at most 50 places, and how many more there are.

    Raises:
      CheckpointError: an unknown name, another shape, values its dtype cannot hold, a new name that is not new, or a
        file that cannot be written.
    """
    kind = container or checkpoint.container
    if kind not in CONTAINERS:
        raise CheckpointError(path, f"container {quote(kind)}; choose one of {', '.join(CONTAINERS)}")
    changes = (Change(state_dict, replacements, added or {}), *others)
    edits = [_edit(checkpoint, change) for change in changes]
    chosen, plan = edits[0].container, plan_replacement(checkpoint, edits, path)
    plan = replace(plan, moved={**plan.moved, **dict.fromkeys(_find_slots(checkpoint, left_out), _LEFT_OUT)})
    if kind == "safetensors":
        return _write_safetensors(path, checkpoint, state_dict, chosen, plan, overwrite)
    emitter = PickleEmitter(is_legacy=kind == "legacy", substitute=plan.moved, added=plan.added)
    pickle = emitter.emit(checkpoint.tree)
    storages = {key: _get_record(ref.key, checkpoint, plan) for key, ref in emitter.storages.items()}
    with _open_new(path, overwrite=overwrite) as file:
        if kind == "zip":
            write_zip(file, checkpoint.root, pickle, storages, checkpoint.byteorder)
        else:
            if checkpoint.byteorder == "big":
                storages = {key: _swap(content, emitter.storages[key]) for key, content in storages.items()}
            write_legacy(file, pickle, emitter.storages, storages)
    return emitter.dropped.spell()


def write_state_dict(
    path: str | PathLike[str],
    tensors: Mapping[str, np.ndarray],
    extra: Mapping[str, Node] | None = None,
    *,
    key: str | None = "state_dict",
    overwrite: bool = False,
) -> None:
    """Write tensors as a fresh checkpoint in torch's zip layout.

    Args:
      path: the new file.
      tensors: by name, in the order to be written.
      extra: plain values to put beside the state dict, as the RNP release does: epoch, clean_acc, bad_acc.
      key: where in the file the state dict goes; None makes it the whole file, without extra values.
      overwrite: replace a file that exists.

    Raises:
      CheckpointError: a dtype or an extra value that a checkpoint cannot hold, or a file that cannot be written.
    """
    extra = dict(extra or {})
    if key in extra or (key is None and extra):
        values = ", ".join(map(quote, extra))
        raise CheckpointError(path, f"key {quote(key)} leaves no place for the extra values {values}")
    state, storages = OrderedDictNode(), {}
    for number, (name, value) in enumerate(tensors.items()):
        array = np.asarray(value)
        state[name] = ref = describe_array(array, str(number), name, path)
        storages[ref.storage.key] = _spell_little_endian(array)
    tree: Node = state if key is None else {key: state} | extra
    check_tree(tree, path, DEFAULT_LIMITS)
    try:
        pickle = PickleEmitter().emit(tree)
    except (TypeError, ValueError) as error:
        raise CheckpointError(path, str(error)) from error
    with _open_new(path, overwrite=overwrite) as file:
        write_zip(file, "archive", pickle, storages, "little")


def _find_slots(checkpoint: Checkpoint, places: Iterable[Location]) -> list[Slot]:
    return [(id(get_node(checkpoint.tree, place[:-1])), place[-1]) for place in places]


def _edit(checkpoint: Checkpoint, change: Change) -> Edit:
    container = get_node(checkpoint.tree, change.state_dict.location)
    named = [
        {change.state_dict.spell(name): value for name, value in each.items()}
        for each in (change.replacements, change.added)
    ]
    return Edit(container, *named)


@contextlib.contextmanager
def _open_new(path: str | PathLike[str], *, overwrite: bool) -> Iterator[BinaryIO]:
    """`open_atomic` with this package's errors, and no file replaced by accident."""
    if not overwrite and os.path.lexists(path):
        raise CheckpointError(path, "exists already; choose another name, or pass overwrite=True")
    try:
        with open_atomic(path) as file:
            yield file
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CheckpointError(path, f"cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _write_safetensors(
    path: str | PathLike[str],
    checkpoint: Checkpoint,
    state_dict: StateDict,
    chosen: Mapping[str, Node],
    plan: Replacement,
    overwrite: bool,
) -> tuple[str, ...]:
    """The state dict alone; returns what was beside it."""
    dtypes = {name: short for short, name in SAFETENSORS.items()}
    if METADATA in chosen:
        raise CheckpointError(path, f"a safetensors file keeps {METADATA} for itself; no tensor can have this name")
    tensors: dict[str, tuple[str, tuple[int, ...], Buffer]] = {}
    dropped = Places((*state_dict.location, name) for name in state_dict.skipped)
    for name, value in (*chosen.items(), *plan.added.get(id(chosen), {}).items()):
        ref = plan.moved.get((id(chosen), name), value)
        if ref is _LEFT_OUT:
            dropped.add((*state_dict.location, name))
        elif isinstance(ref, TensorRef):
            array = decode(ref, _get_record(ref.storage.key, checkpoint, plan), checkpoint.byteorder)
            tensors[name] = (dtypes[ref.dtype], ref.shape, _spell_little_endian(array))
    node = checkpoint.tree
    for depth, key in enumerate(state_dict.location):
        for other in node:
            if other != key:
                dropped.add((*state_dict.location[:depth], other))
        node = get_node(node, (key,))
    with _open_new(path, overwrite=overwrite) as file:
        write_safetensors(file, tensors, checkpoint.metadata)
    return dropped.spell()


def _get_record(key: str, checkpoint: Checkpoint, plan: Replacement) -> Buffer:
    return plan.records[key] if key in plan.records else checkpoint.records[key]


def _spell_little_endian(array: np.ndarray) -> bytes:
    size = array.dtype.itemsize
    return np.ascontiguousarray(array).view(f"u{size}").astype(f"<u{size}").tobytes()


def _swap(content: Buffer, storage: StorageRef) -> bytes:
    return np.frombuffer(content, f"u{itemsize(storage.dtype)}").byteswap().tobytes()
