"""The calls by which a pickle rebuilds a NumPy array of numbers, and what stands for such an array.

The names and states are those of ``numpy.ndarray.__reduce__`` and ``numpy.dtype.__reduce__``, from Python 2 on. Arrays
of anything else than numbers stay unread.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from rnp_jax.torch_io.dtypes import DTYPES
from rnp_jax.torch_io.nodes import Global, Node, Opaque
from rnp_jax.torch_io.pickle_calls import BYTE_CALLS, Call, encode_latin1
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.text import quote

_LONGEST_CODE: Final = 4
_TYPES: Final = {dtype.str[1:]: dtype for dtype in DTYPES.values() if dtype.kind in "fiub"}


@dataclass(eq=False)
class ArrayNode(Opaque):
    """A NumPy array. `value` is a read-only array of numbers, or None where the content stays unread."""

    value: np.ndarray | None = None
    is_filled: bool = False


@dataclass(eq=False)
class TypeNode(Opaque):
    """A ``numpy.dtype``; None for one that is not of numbers, or whose byte order is not known yet."""

    dtype: np.dtype | None = None
    code: str = ""


def fill_type(target: TypeNode, state: Node) -> None:
    """Give a type its byte order, from the state that NumPy pickles: version, order and what only other types have."""
    match state:
        case (_, "<" | ">" | "|" as order, *_) if target.code in _TYPES:
            target.dtype = _TYPES[target.code].newbyteorder(order)


def fill_array(cursor: PickleCursor, target: ArrayNode, state: Node) -> None:
    """Give an array its content, once, from the state that NumPy pickles: version, shape, dtype, Fortran order, bytes.

    Raises:
      CheckpointError: a second state, or a shape that does not fit the bytes.
    """
    if target.is_filled:
        raise cursor.error("an array is given its content twice")
    target.is_filled = True
    match state:
        case (_, tuple() as shape, TypeNode(dtype=np.dtype() as dtype), bool() as fortran, bytes() | str() as content):
            pass
        case _:
            return
    if len(shape) > cursor.limits.rank or not all(type(side) is int and side > 0 for side in shape):
        return
    content = encode_latin1(cursor, content) if isinstance(content, str) else content
    if math.prod(shape) * dtype.itemsize != len(content):
        raise cursor.error(f"an array of shape {quote(shape)} and type {dtype} is given {len(content)} bytes")
    target.value = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(_: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (Global(name="numpy.ndarray"), *_):
            return ArrayNode("numpy.ndarray")
    return Opaque("numpy array of another class")


def _dtype(_: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (str() as code, *_) if len(code) <= _LONGEST_CODE:
            code = code.removeprefix("|")
            return TypeNode("numpy.dtype", dtype=_TYPES[code] if code in ("u1", "i1", "b1") else None, code=code)
    return TypeNode("numpy.dtype")


ARRAY_CALLS: Final[Mapping[str, Call]] = {
    **BYTE_CALLS,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.dtype": _dtype,
}
"""What the pickle machine does where unpickling would call one of these."""
