"""Plain arrays in the npy format, never unpickled, whose header nothing parses or obeys."""

import io
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.lib import format as npy

PREFIX = npy.magic(1, 0)
"""First bytes of an array in npy format 1.0; two bytes with the header's length follow."""


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
    data = file.read(like.nbytes + 1)
    if len(data) != like.nbytes:
        raise EOFError(f"{name} holds {len(data)} bytes or more, expected {like.nbytes}")
    array = np.frombuffer(data, like.dtype).reshape(like.shape).copy()
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def _header(like: np.ndarray) -> bytes:
    written = io.BytesIO()
    npy.write_array_header_1_0(written, npy.header_data_from_array_1_0(like))
    return written.getvalue()[len(PREFIX) + 2 :].strip()
