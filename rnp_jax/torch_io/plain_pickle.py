"""Reading a pickle of plain values and byte arrays that nobody trusts, such as a batch of published images."""

from dataclasses import replace
from os import PathLike

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.nodes import Node, Opaque, check_tree, walk
from rnp_jax.torch_io.pickle_arrays import ARRAY_CALLS, ArrayNode
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_machine import PickleMachine
from rnp_jax.torch_io.source_file import read_file
from rnp_jax.torch_io.text import format_path, quote


def read_plain_pickle(path: str | PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> Node:
    """Read dicts, lists, tuples, numbers, texts, bytes and arrays of bytes without executing anything in the file.

    Args:
      path: a regular file, or a symbolic link to one.
      limits: what it may cost; in any case, it makes no more bytes than it holds.

    Returns:
      The values. What Python 2 wrote as a string is a text of latin-1 characters; an array is an `ArrayNode`.

    Raises:
      CheckpointError: it cannot be read, is damaged, too large, or holds anything else.
    """
    data = read_file(path, limits)
    limits = replace(limits, pickle_bytes=min(limits.pickle_bytes, len(data)))
    cursor = PickleCursor(data, path, "the pickle", limits)
    tree = PickleMachine(cursor, calls=ARRAY_CALLS, encoding="latin-1").run()
    if cursor.position != len(data):
        raise CheckpointError(path, f"{len(data) - cursor.position} bytes follow the end of the pickle")
    check_tree(tree, path, limits)
    for place, node in walk(tree):
        if isinstance(node, ArrayNode) and node.value is not None and node.value.dtype != np.uint8:
            raise CheckpointError(
                path, f"{format_path(place)} is an array of type {node.value.dtype}, expected bytes: uint8"
            )
        if unread := _find_unread(node):
            raise CheckpointError(path, f"{format_path(place)} holds {quote(unread.name)}, which is not a plain value")
    return tree


def _find_unread(node: Node) -> Opaque | None:
    """The node itself, or a key of it, that is not a plain value or a complete array."""
    if isinstance(node, dict):
        return next((key for key in node if isinstance(key, Opaque)), None)
    if isinstance(node, ArrayNode) and node.value is not None:
        return None
    return node if isinstance(node, Opaque) else None
