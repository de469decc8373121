"""State dicts whose values are NumPy arrays: the arrays become tensors, whose bytes are held in memory."""

from collections.abc import Iterable

import numpy as np

from rnp_jax.torch_io.checkpoint import ByteOrder, HeldBytes, Place
from rnp_jax.torch_io.dtypes import DTYPES
from rnp_jax.torch_io.location import looks_like_network
from rnp_jax.torch_io.nodes import Node, StorageRef, TensorRef, containers
from rnp_jax.torch_io.pickle_arrays import ArrayNode
from rnp_jax.torch_io.safetensors_container import contiguous_strides
from rnp_jax.torch_io.text import format_path

_MOST_DESCRIBED = 20


def read_arrays(tree: Node, byteorder: ByteOrder, taken: Iterable[str]) -> tuple[dict[str, Place], list[str]]:
    """Put tensors in the place of the arrays of each dict that looks like a network's. Other arrays stay unread.

    Args:
      tree: one that passed `check_tree`; its dicts are changed.
      byteorder: of the bytes to be held.
      taken: keys of the storages that there are.

    Returns:
      Where the bytes of each new storage are, by key, and a sentence for each of the first such dicts.
    """
    places: dict[str, Place] = {}
    taken = set(taken)
    found = []
    for location, node in containers(tree):
        arrays = {key: value for key, value in node.items() if _is_array(value)} if isinstance(node, dict) else {}
        if not arrays or not looks_like_network(arrays):
            continue
        found.append(
            f"{format_path(location)}: {len(arrays)} NumPy arrays were read as tensors, and are written as such"
        )
        for key, array in arrays.items():
            name = f"array {len(places)}"
            while name in taken:
                name += "+"
            node[key], places[name] = _make_tensor(array, name, byteorder)
    more = [f"{len(found) - _MOST_DESCRIBED} more dicts of NumPy arrays, read alike"] if found[_MOST_DESCRIBED:] else []
    return places, found[:_MOST_DESCRIBED] + more


def _is_array(value: Node) -> bool:
    return isinstance(value, ArrayNode) and value.value is not None


def _make_tensor(node: ArrayNode, key: str, byteorder: ByteOrder) -> tuple[TensorRef, Place]:
    value = np.asarray(node.value)
    names = {dtype: name for name, dtype in DTYPES.items()}
    dtype = names[value.dtype.newbyteorder("=")]
    content = value.astype(value.dtype.newbyteorder("<" if byteorder == "little" else ">")).tobytes()
    ref = TensorRef(StorageRef(key, dtype, value.size), 0, value.shape, contiguous_strides(value.shape))
    return ref, Place(HeldBytes(content), 0, len(content))
