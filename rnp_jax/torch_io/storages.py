"""What a pickle may claim about storages and views of them, checked in Python integers before any memory is touched."""

import math
from os import PathLike
from typing import Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.dtypes import STORAGES
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Global, LooseStorage, Node, Opaque, StorageRef
from rnp_jax.torch_io.text import quote

_ADDRESSABLE: Final = 2**60  # elements, of 8 bytes at most, that a 64-bit number of bytes can count


class StorageTable:
    """The storages that one pickle refers to through its persistent ids, by key, in order of appearance."""

    def __init__(self, path: str | PathLike[str]):
        self._path = path
        self.refs: dict[str, StorageRef] = {}

    def load(self, pid: Node) -> Opaque:
        """The storage that a persistent id describes, or the class of a whole pickled module.

        Raises:
          CheckpointError: the id is not one that torch writes, or contradicts an earlier one.
        """
        if type(pid) is not tuple or len(pid) < 2 or not isinstance(pid[1], Global):
            raise self._error("a persistent id that is not a torch storage")
        if pid[0] == "module" and len(pid) == 4:  # legacy files of whole modules carry the source text
            return pid[1]
        if pid[0] != "storage" or len(pid) not in (5, 6) or pid[1].name not in STORAGES:
            raise self._error(f"a persistent id of type {quote(pid[0])} and class {quote(pid[1].name)}, not a storage")
        key, place, numel = pid[2:5]
        if type(key) is not str or type(place) is not str or type(numel) is not int or numel < 0:
            raise self._error(f"a storage with key {quote(key)}, device {quote(place)} and {quote(numel)} elements")
        if place == "meta":
            raise self._error(f"storage {quote(key)} is on the meta device: the file holds no values for it")
        if pid[5:] not in ((), (None,)):
            raise self._error(f"storage {quote(key)} is a view of another, as before torch 0.4; save it again")
        storage = StorageRef(key, STORAGES[pid[1].name], numel)
        if self.refs.setdefault(key, storage) != storage:
            raise self._error(f"storage {quote(key)} is declared twice, with different types or sizes")
        return LooseStorage(pid[1].name, ref=storage)

    def _error(self, reason: str) -> CheckpointError:
        return CheckpointError(self._path, reason)


def find_layout_fault(storage: StorageRef, offset: Node, shape: Node, strides: Node, limits: Limits) -> str | None:
    """Why a strided view does not fit its storage, or None where it does.

    It fits if 0 <= offset and offset + sum((dim - 1) * stride) < numel; an empty view only needs offset <= numel.
    Strides of single elements and the shape of an empty view reach nothing, yet must stay within 64 bits.
    """
    if type(offset) is not int or not _is_ints(shape) or not _is_ints(strides):
        return "its offset, shape or strides are not whole numbers"
    if len(shape) > limits.rank:
        return f"it has {len(shape)} dimensions, more than {limits.rank} (Limits.rank)"
    if len(shape) != len(strides):
        return f"it has {len(shape)} dimensions but {len(strides)} strides"
    if offset < 0 or min(shape, default=0) < 0 or min(strides, default=0) < 0:
        return f"offset {quote(offset)}, shape {quote(shape)} or strides {quote(strides)} is negative"
    steps = sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True))
    last = offset - 1 if 0 in shape else offset + steps
    if last >= storage.numel:
        return f"it reaches element {quote(last)} of storage {quote(storage.key)}, which has {storage.numel}"
    if max(strides, default=0) >= _ADDRESSABLE or (0 in shape and math.prod(filter(None, shape)) >= _ADDRESSABLE):
        return f"shape {quote(shape)} or strides {quote(strides)} overflow 64 bits"
    return None


def _is_ints(value: Node) -> bool:
    return isinstance(value, tuple) and all(type(item) is int for item in value)
