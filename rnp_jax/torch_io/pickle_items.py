"""How the keys and values of a pickle become a dict. Its keys are plain, so that no lookup costs more than it shows."""

from collections.abc import Sequence
from typing import Any

from rnp_jax.torch_io.nodes import Node, Opaque
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.text import quote


def set_items(cursor: PickleCursor, target: dict[Any, Node], flat: Sequence[Node]) -> None:
    """Put keys and values, given in turn, into a dict that has none of the keys.

    Raises:
      CheckpointError: a key without a value, one that appears twice, or one that is not plain.
    """
    if len(flat) % 2:
        raise cursor.error("a key without a value")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        name = _make_key(cursor, key)
        if name in target:
            raise cursor.error(f"the key {quote(name)} appears twice")
        target[name] = value


def _make_key(cursor: PickleCursor, key: Node) -> Any:
    """The key itself where it is plain, an `Opaque` for a flat tuple: hashing stays shallow and collision-free."""
    if isinstance(key, str | bytes | bool | float | Opaque) or key is None:
        return key
    if type(key) is int and -(2**63) <= key < 2**63:
        return key
    if type(key) is tuple:
        cursor.charge(len(key))
        if not any(isinstance(item, dict | list | tuple) for item in key):
            return Opaque("tuple as a key")
    raise cursor.error(f"a dict key of type {type(key).__name__}; only names and 64-bit whole numbers are accepted")
