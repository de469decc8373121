"""Plain arrays in the npy format, never unpickled, whose header nothing but this file reads."""

import io
import math
import re
import sys
from collections.abc import Sequence
from typing import IO, Final

import numpy as np
from numpy.lib import format as npy

PREFIX: Final = npy.magic(1, 0)
"""First bytes of an array in npy format 1.0; two bytes with the header's length follow."""

_LENGTH_BYTES: Final = {npy.magic(1, 0): 2, npy.magic(2, 0): 4, npy.magic(3, 0): 4}
_LONGEST_HEADER: Final = 4096
_MOST_DIMENSIONS: Final = 8
_PIECE: Final = 2**20
_HEADER: Final = re.compile(
    r"\s*\{\s*'descr':\s*'([<>|=]?[biufUS][0-9]{1,9})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(([0-9, ]*)\),?\s*\}\s*",
    re.ASCII,
)


def read_npy(file: IO[bytes], name: str, likes: Sequence[np.ndarray]) -> np.ndarray:
    """One array that has the dtype and shape of one of ``likes``. Its header is compared with theirs as text.

    Raises:
      ValueError: another header, named with the first one expected; values that are not finite.
      EOFError: more or fewer bytes than the header says.
    """
    expected = [_header(like) for like in likes]
    prefix = file.read(len(PREFIX))
    header = file.read(int.from_bytes(file.read(2), "little")).strip()
    if prefix != PREFIX or header not in expected:
        raise ValueError(f"{name} is {bytes(header[:100])!r}, expected {expected[0]!r}")
    like = likes[expected.index(header)]
    array = _read_values(file, name, like.dtype, like.shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def read_any_npy(file: IO[bytes], name: str, most: int) -> np.ndarray:
    """One array of numbers, truth values or texts, of any shape, that takes at most ``most`` bytes.

    Raises:
      ValueError: another header than NumPy writes for such an array, or a larger array.
      EOFError: more or fewer bytes than the header says.
    """
    prefix = file.read(len(PREFIX))
    if prefix not in _LENGTH_BYTES:
        raise ValueError(f"{name} is no array of NumPy's")
    length = int.from_bytes(file.read(_LENGTH_BYTES[prefix]), "little")
    header = file.read(min(length, _LONGEST_HEADER + 1)).decode("latin-1")
    found = _HEADER.fullmatch(header)
    if length > _LONGEST_HEADER or found is None:
        raise ValueError(f"{name} is {header[:100]!r}, expected an array of numbers, truth values or texts")
    descr, fortran, sides = found.groups()
    shape = tuple(int(side) for side in sides.split(",") if side.strip())
    try:
        dtype = np.dtype(descr)
    except TypeError as error:
        raise ValueError(f"{name} is of type {descr}, which is none") from error
    size = dtype.itemsize * math.prod(shape)
    if not dtype.itemsize or len(shape) > _MOST_DIMENSIONS or size > most:
        raise ValueError(f"{name} is of shape {shape}, {size:,} bytes; expected at most {most:,}")
    array = _read_values(file, name, dtype, shape[::-1] if fortran == "True" else shape)
    if dtype.kind == "U":
        letters = array.reshape(-1).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.max(initial=0) > sys.maxunicode:  # NumPy would look at them unchecked
            raise ValueError(f"{name} holds texts with letters that are none")
    return array.T if fortran == "True" else array


def _read_values(file: IO[bytes], name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Row by row, a piece at a time: a file that says more than it holds costs what it holds."""
    array = np.empty(shape, dtype)
    place = array.reshape(-1).view(np.uint8).data
    read = 0
    while read < len(place) and (piece := file.read(min(_PIECE, len(place) - read))):
        place[read : read + len(piece)] = piece
        read += len(piece)
    if (found := read + len(file.read(1))) != len(place):
        raise EOFError(f"{name} holds {found} bytes or more, expected {len(place)}")
    return array


def _header(like: np.ndarray) -> bytes:
    written = io.BytesIO()
    npy.write_array_header_1_0(written, npy.header_data_from_array_1_0(like))
    return written.getvalue()[len(PREFIX) + 2 :].strip()
