"""The calls by which a pickle rebuilds a NumPy array of bytes, and what stands for such an array.

The names and states are those of ``numpy.ndarray.__reduce__`` and ``numpy.dtype.__reduce__``, from Python 2 on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from rnp_jax.torch_io.nodes import Global, Node, Opaque
from rnp_jax.torch_io.pickle_calls import BYTE_CALLS, Call, encode_latin1
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.text import quote


@dataclass(eq=False)
class ArrayNode(Opaque):
    """A NumPy array of bytes. `value` is a read-only uint8 array, or None until the pickle has given its content."""

    value: np.ndarray | None = None


class _ByteType(Opaque):
    """Stands for ``numpy.dtype("uint8")``. Its byte order and alignment, which mean nothing, stay unread."""


def fill_array(cursor: PickleCursor, target: ArrayNode, state: Node) -> None:
    """Give an array its content, once, from the state that NumPy pickles: version, shape, dtype, Fortran order, bytes.

    Raises:
      CheckpointError: a second state, another type than uint8, or a shape that does not fit the bytes.
    """
    if target.value is not None:
        raise cursor.error("an array is given its content twice")
    match state:
        case (_, tuple() as shape, _ByteType(), bool() as fortran, bytes() | str() as content):
            pass
        case _:
            raise cursor.error("an array is given something other than a shape, the type uint8 and bytes")
    content = encode_latin1(cursor, content) if isinstance(content, str) else content
    plain = len(shape) <= cursor.limits.rank and all(type(side) is int and side > 0 for side in shape)
    if not plain or math.prod(shape) != len(content):
        raise cursor.error(f"an array of shape {quote(shape)} is given {len(content)} bytes")
    target.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (Global(name="numpy.ndarray"), *_):
            return ArrayNode("numpy.ndarray")
    raise cursor.error("numpy's _reconstruct is called with something other than numpy.ndarray")


def _dtype(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case ("u1" | "|u1", *_):
            return _ByteType("numpy.dtype")
    raise cursor.error(f"an array of type {quote(next(iter(arguments), None))}, expected bytes: 'u1'")


ARRAY_CALLS: Final[Mapping[str, Call]] = {
    **BYTE_CALLS,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.dtype": _dtype,
}
