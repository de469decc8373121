"""Safetensors files. The safetensors library validates them; duplicates, which it lets pass, are refused here."""

import math
from os import PathLike
from typing import Final

import safetensors

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.dtypes import SAFETENSORS, itemsize
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Node, Opaque, StorageRef, TensorRef
from rnp_jax.torch_io.plain_json import parse_json
from rnp_jax.torch_io.source_file import SourceFile
from rnp_jax.torch_io.storages import find_layout_fault
from rnp_jax.torch_io.text import quote

METADATA: Final = "__metadata__"
"""The entry of the header that is not a tensor."""


def read_safetensors(
    file: SourceFile, path: str | PathLike[str], limits: Limits
) -> tuple[dict[str, Node], dict[str, slice], dict[str, str]]:
    """The tensors by name, where the bytes of each lie, and the file's metadata.

    Raises:
      CheckpointError: the library refuses it, a name appears twice, or it is beyond a limit.
    """
    length = int.from_bytes(file[:8], "little")
    if length > limits.header_bytes:
        raise CheckpointError(
            path, f"a header of {length} bytes, more than {limits.header_bytes} (Limits.header_bytes)"
        )
    try:
        with safetensors.safe_open(f"/dev/fd/{file.descriptor}", "numpy"):  # reads and checks the header alone
            pass
    except safetensors.SafetensorError as error:
        raise CheckpointError(path, f"not a valid safetensors file: {quote(str(error))}") from error
    header = parse_json(file[8 : 8 + length], path, "the safetensors header")  # with what the library skips unread
    metadata = header.pop(METADATA, None) or {}
    if len(header) > limits.members:
        raise CheckpointError(path, f"{len(header)} tensors, more than {limits.members} (Limits.members)")
    tree: dict[str, Node] = {}
    extents: dict[str, slice] = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        dtype = SAFETENSORS.get(entry["dtype"])
        if dtype is None:
            tree[name] = Opaque(f"safetensors {entry['dtype']} tensor")
            continue
        shape = tuple(entry["shape"])
        if len(shape) > limits.rank:  # before any product of them
            raise CheckpointError(
                path, f"tensor {quote(name)} has {len(shape)} dimensions, more than {limits.rank} (Limits.rank)"
            )
        storage = StorageRef(name, dtype, (end - start) // itemsize(dtype))
        strides = contiguous_strides(shape)
        if fault := find_layout_fault(storage, 0, shape, strides, limits):
            raise CheckpointError(path, f"tensor {quote(name)}: {fault}")
        tree[name] = TensorRef(storage, 0, shape, strides)
        extents[name] = slice(8 + length + start, 8 + length + end)
    return tree, extents, metadata


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major array of that shape."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
