"""The container that ``torch.save`` wrote before 1.6 (torch/serialization.py, ``_legacy_save``).

Five pickles (magic number, protocol version, system information, the object, the storage keys), then each storage as
its number of elements (int64) and its elements, always little endian.
"""

import struct
from os import PathLike
from typing import Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Node
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_machine import PickleMachine
from rnp_jax.torch_io.source_file import Sliceable
from rnp_jax.torch_io.storages import StorageTable
from rnp_jax.torch_io.text import quote

MAGIC: Final = 0x1950A86A20F9469CFC6C
PROTOCOL: Final = 1001


def read_legacy(
    data: Sliceable, path: str | PathLike[str], limits: Limits
) -> tuple[Node, StorageTable, dict[str, slice]]:
    """The tree, its storages and where the bytes of each storage lie, by key.

    Raises:
      CheckpointError: a plain pickle, a big-endian writer, or storages that are missing, truncated or not announced.
    """
    position = 0

    def read_pickle(name: str, table: StorageTable | None = None) -> Node:
        nonlocal position
        cursor = PickleCursor(data, path, name, limits, position)
        root = PickleMachine(cursor, table.load if table else None).run()
        position = cursor.position
        return root

    if not _has_magic(data):
        raise CheckpointError(
            path,
            "a plain pickle, not written by torch.save; load it where you trust it and torch.save its state_dict",
        )
    read_pickle("the magic number")
    if (version := read_pickle("the protocol version")) != PROTOCOL:
        raise CheckpointError(
            path, f"protocol version {quote(version)} of the format before torch 1.6; only 1001 exists"
        )
    _check_system(read_pickle("the system information"), path)
    table = StorageTable(path)
    tree = read_pickle("the pickled object", table)
    keys = read_pickle("the list of storage keys")
    _check_keys(keys, table, path)
    extents: dict[str, slice] = {}
    for key in keys:
        storage = table.refs[key]
        (numel,) = struct.unpack("<q", data[position : position + 8].ljust(8, b"\xff"))
        if numel != storage.numel:
            raise CheckpointError(
                path,
                f"storage {quote(key)} should hold {storage.numel} elements, but holds {numel} at byte {position}",
            )
        start, position = position + 8, position + 8 + storage.nbytes
        if position > len(data):
            raise CheckpointError(
                path, f"the file is truncated: storage {quote(key)} ends at byte {position} of {len(data)}"
            )
        extents[key] = slice(start, position)
    if position != len(data):
        raise CheckpointError(path, f"{len(data) - position} bytes follow the last storage")
    return tree, table, extents


def _has_magic(data: Sliceable) -> bool:
    head = data[:32]
    magic = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
    return head[2:].startswith(magic) or (head[2:3] == b"\x95" and head[11:].startswith(magic))


def _check_system(system: Node, path: str | PathLike[str]) -> None:
    if type(system) is not dict or type(system.get("little_endian")) is not bool:
        raise CheckpointError(path, "the system information is not the plain dict that torch writes")
    sizes = system.get("type_sizes", {})
    plain = [value for key, value in system.items() if key != "type_sizes"]
    if type(sizes) is not dict or not all(type(value) in (int, bool) for value in [*plain, *sizes.values()]):
        raise CheckpointError(path, "the system information holds objects, which torch never puts there")
    if not system["little_endian"]:
        raise CheckpointError(
            path, "little_endian is False: written on a big-endian machine; save it again with torch >= 1.6"
        )


def _check_keys(keys: Node, table: StorageTable, path: str | PathLike[str]) -> None:
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError(path, "the list of storage keys is not a list of texts")
    if len(set(keys)) != len(keys):
        raise CheckpointError(path, "the list of storage keys repeats a key")
    if missing := table.refs.keys() - set(keys):
        raise CheckpointError(path, f"storage {quote(min(missing))} is missing from the list of storage keys")
    if extra := set(keys) - table.refs.keys():
        raise CheckpointError(path, f"the list of storage keys names {quote(min(extra))}, which no tensor uses")
