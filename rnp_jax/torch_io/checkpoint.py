"""A checkpoint: an inert tree in memory, and the file that holds what its tensors refer to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.dtypes import DTYPES, itemsize
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Node, TensorRef
from rnp_jax.torch_io.source_file import Container

ByteOrder = Literal["little", "big"]
Bytes = bytes | bytearray | np.ndarray


class Readable(Protocol):
    """A file, or bytes in memory."""

    def read_into(self, start: int, buffer: memoryview, /) -> None:
        """Fill the buffer with the bytes from `start` on."""
        ...


class HeldBytes:
    """Bytes in memory, as a file."""

    def __init__(self, content: bytes):
        self._content = content

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from `start` on."""
        buffer[:] = self._content[start : start + len(buffer)]


class Place(NamedTuple):
    """Where the bytes of a storage are."""

    source: Readable
    start: int
    stop: int


class Records(Mapping[str, bytearray]):
    """The bytes of each storage, by key, read when they are asked for: a copy each time.

    Raises:
      CheckpointError: at any reading, that the file is not what it was.
    """

    def __init__(self, places: Mapping[str, Place]):
        self.places = places

    def __getitem__(self, key: str) -> bytearray:
        place = self.places[key]
        content = bytearray(place.stop - place.start)
        place.source.read_into(place.start, memoryview(content))
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, key: object) -> bool:  # the inherited one would read it
        return key in self.places

    def read(self, key: str, part: slice) -> np.ndarray:
        """Some of the bytes of one storage, uint8: NumPy's memory is the fastest to fill."""
        place, values = self.places[key], np.empty(part.stop - part.start, np.uint8)
        place.source.read_into(place.start + part.start, values.data)
        return values


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
      records: the bytes of each storage, by key, still in their file.
      limits: what it was read under.
      files: names of the shards that hold the tensors, if the file is their index.
    """

    path: Path
    sha256: str
    container: Container
    byteorder: ByteOrder
    tree: Node
    anomalies: tuple[str, ...]
    root: str = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    records: Records = field(repr=False)
    limits: Limits = field(repr=False)
    files: tuple[str, ...] = ()


def materialise(checkpoint: Checkpoint, ref: TensorRef) -> np.ndarray:
    """A contiguous copy of a tensor in native byte order, of `ref.shape` and `ref.dtype` (bfloat16 by ml_dtypes).

    Raises:
      CheckpointError: it takes more than `Limits.materialised_bytes`, or the file is not what it was.
    """
    extent, limit = find_extent(ref), checkpoint.limits.materialised_bytes
    if (largest := max(ref.nbytes, extent.stop - extent.start)) > limit:
        raise CheckpointError(
            checkpoint.path, f"a tensor of {largest} bytes, more than {limit} (Limits.materialised_bytes)"
        )
    record = checkpoint.records.read(ref.storage.key, extent)
    bits = view_bits(ref, record, checkpoint.byteorder, extent.start)
    if ref.dtype == "bool" or not (bits.dtype.isnative and bits.flags.c_contiguous and bits.flags.aligned):
        return decode(ref, record, checkpoint.byteorder, extent.start)
    return bits.view(DTYPES[ref.dtype])


def find_extent(ref: TensorRef) -> slice:
    """From the first to the last byte of its storage that a tensor reads."""
    if 0 in ref.shape:
        return slice(0, 0)
    steps = sum((dim - 1) * stride for dim, stride in zip(ref.shape, ref.strides, strict=True))
    size = itemsize(ref.dtype)
    return slice(size * ref.offset, size * (ref.offset + steps + 1))


def decode(ref: TensorRef, record: Bytes, byteorder: ByteOrder, start: int = 0) -> np.ndarray:
    """A contiguous native copy of the view `ref` of a storage's bytes, given from the byte `start` on."""
    bits = np.array(view_bits(ref, record, byteorder, start), order="C", dtype=f"u{itemsize(ref.dtype)}", copy=True)
    return np.asarray(bits != 0) if ref.dtype == "bool" else bits.view(DTYPES[ref.dtype])


def encode(values: np.ndarray, ref: TensorRef, record: bytearray, byteorder: ByteOrder) -> None:
    """Put `values`, of the shape and dtype of `ref`, where the view `ref` of a storage's bytes lies."""
    if values.size:
        bits = np.ascontiguousarray(values).view(f"u{itemsize(ref.dtype)}").reshape(ref.shape)
        view_bits(ref, record, byteorder)[...] = bits


def view_bits(ref: TensorRef, record: Bytes, byteorder: ByteOrder, start: int = 0) -> np.ndarray:
    """The view itself, as unsigned integers in the file's byte order: bits survive whatever they mean. Not copied."""
    size = itemsize(ref.dtype)
    dtype = np.dtype(f"u{size}").newbyteorder("<" if byteorder == "little" else ">")
    if 0 in ref.shape:
        return np.empty(ref.shape, dtype)
    strides = tuple(size * stride for stride in ref.strides)
    return np.ndarray(ref.shape, dtype, record, size * ref.offset - start, strides)
