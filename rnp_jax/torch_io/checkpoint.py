"""A checkpoint in memory: an inert tree, and the bytes its tensors refer to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.dtypes import DTYPES, itemsize
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Node, TensorRef
from rnp_jax.torch_io.source_file import Container

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `read_checkpoint` returns.

    Attributes:
      path: the file it was read from.
      sha256: of the whole file, in hexadecimal.
      container: the kind of file.
      byteorder: of the elements in `records`.
      tree: nested dict, list, tuple, str, int, float, bool, None, bytes, `TensorRef` and `Opaque`.
      anomalies: one sentence for each thing that is unusual or was left unread.
      root: the folder that a zip archive keeps its members in.
      metadata: of a safetensors file.
      records: the bytes of each storage, by key.
      limits: what it was read under.
    """

    path: Path
    sha256: str
    container: Container
    byteorder: ByteOrder
    tree: Node
    anomalies: tuple[str, ...]
    root: str = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    records: Mapping[str, memoryview] = field(repr=False)
    limits: Limits = field(repr=False)


def materialise(checkpoint: Checkpoint, ref: TensorRef) -> np.ndarray:
    """A contiguous copy of a tensor in native byte order, of `ref.shape` and `ref.dtype` (bfloat16 by ml_dtypes).

    Raises:
      CheckpointError: it takes more than `Limits.materialised_bytes`.
    """
    _check_size(checkpoint, ref)
    return decode(ref, checkpoint.records[ref.storage.key], checkpoint.byteorder)


def view(checkpoint: Checkpoint, ref: TensorRef) -> np.ndarray:
    """What `materialise` gives, read-only, and without a copy where the file's bytes can be used as they lie.

    Raises:
      CheckpointError: it takes more than `Limits.materialised_bytes`.
    """
    _check_size(checkpoint, ref)
    bits = view_bits(ref, checkpoint.records[ref.storage.key], checkpoint.byteorder)
    if ref.dtype == "bool" or not (bits.dtype.isnative and bits.flags.c_contiguous and bits.flags.aligned):
        found = decode(ref, checkpoint.records[ref.storage.key], checkpoint.byteorder)
    else:
        found = bits.view(DTYPES[ref.dtype])
    found.flags.writeable = False
    return found


def _check_size(checkpoint: Checkpoint, ref: TensorRef) -> None:
    if ref.nbytes > checkpoint.limits.materialised_bytes:
        raise CheckpointError(
            checkpoint.path,
            f"a tensor of {ref.nbytes} bytes, more than {checkpoint.limits.materialised_bytes} "
            "(Limits.materialised_bytes)",
        )


def decode(ref: TensorRef, record: memoryview | bytearray, byteorder: ByteOrder) -> np.ndarray:
    """A contiguous native copy of the view `ref` of a storage's bytes."""
    bits = np.array(view_bits(ref, record, byteorder), order="C", dtype=f"u{itemsize(ref.dtype)}", copy=True)
    return np.asarray(bits != 0) if ref.dtype == "bool" else bits.view(DTYPES[ref.dtype])


def encode(values: np.ndarray, ref: TensorRef, record: bytearray, byteorder: ByteOrder) -> None:
    """Put `values`, of the shape and dtype of `ref`, where the view `ref` of a storage's bytes lies."""
    if values.size:
        bits = np.ascontiguousarray(values).view(f"u{itemsize(ref.dtype)}").reshape(ref.shape)
        view_bits(ref, record, byteorder)[...] = bits


def view_bits(ref: TensorRef, record: memoryview | bytearray, byteorder: ByteOrder) -> np.ndarray:
    """The view itself, as unsigned integers in the file's byte order: bits survive whatever they mean. Not copied."""
    size = itemsize(ref.dtype)
    dtype = np.dtype(f"u{size}").newbyteorder("<" if byteorder == "little" else ">")
    if 0 in ref.shape:
        return np.empty(ref.shape, dtype)
    strides = tuple(size * stride for stride in ref.strides)
    return np.ndarray(ref.shape, dtype, record, size * ref.offset, strides)
