"""What the pickle machine does where unpickling would call a function: rebuild inert values from checked arguments.

The names of torch are those that ``torch.save`` writes (torch/_tensor.py, torch/_utils.py, torch/nn/parameter.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from rnp_jax.torch_io.dtypes import DTYPES
from rnp_jax.torch_io.nodes import (
    CounterNode,
    LooseStorage,
    Node,
    Opaque,
    OrderedDictNode,
    SetNode,
    Size,
    TensorRef,
)
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_items import set_items
from rnp_jax.torch_io.storages import find_layout_fault
from rnp_jax.torch_io.text import quote

Call: TypeAlias = Callable[[PickleCursor, tuple[Node, ...]], Node]
"""Gives the inert value that stands for a call with these arguments; an error for those that its writer never gives."""


def _ordered_dict(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case ():
            return OrderedDictNode()
        case (list() as pairs,) if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            result = OrderedDictNode()
            cursor.charge(len(pairs))
            set_items(cursor, result, [value for pair in pairs for value in pair])
            return result
    raise cursor.error("collections.OrderedDict is called with something other than a list of pairs")


def _counter(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case ():
            return CounterNode()
        case (dict() as counts,):
            cursor.charge(len(counts))
            return CounterNode(counts)
    raise cursor.error("collections.Counter is called with something other than a dict")


def _set(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:  # how pickle protocol 2 spells one
        case (list() as items,):
            cursor.charge(len(items))
            return SetNode("builtins.set", items=tuple(items))
    return SetNode("builtins.set")


def _size(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (tuple() as dims,) if len(dims) <= cursor.limits.rank and all(type(dim) is int for dim in dims):
            return Size(dims)
    raise cursor.error(f"torch.Size is called with something other than up to {cursor.limits.rank} whole numbers")


def _bytes(_: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    return Opaque("builtins.bytes") if arguments else b""  # how protocol 2 spells no bytes at all


def encode_latin1(cursor: PickleCursor, text: str) -> bytes:
    """The bytes that a text of latin-1 characters stands for, counted against `Limits.pickle_bytes`.

    Raises:
      CheckpointError: another character, or too many.
    """
    cursor.charge_bytes(len(text))
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise cursor.error("bytes are spelled by text that is not latin1") from None


def _encode(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:  # how pickle protocol 2 spells bytes
        case (str() as text, "latin1"):
            return encode_latin1(cursor, text)
    raise cursor.error("_codecs.encode is called with something other than a text and 'latin1'")


def _tensor(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (LooseStorage(ref=storage), offset, shape, strides, *rest) if len(rest) in (0, 2, 3):
            pass
        case _:
            raise cursor.error("a tensor is rebuilt from something other than a storage, offset, shape and strides")
    if storage.dtype not in DTYPES:
        return Opaque(f"torch.{storage.dtype} tensor")
    requires_grad, *attributes = rest or [False]
    if type(requires_grad) is not bool:
        raise cursor.error(f"a tensor's requires_grad is {quote(requires_grad)}")
    if any(attribute != {} for attribute in attributes):
        return Opaque("torch tensor with hooks or a conjugate or negative bit")
    if fault := find_layout_fault(storage, offset, shape, strides, cursor.limits):
        raise cursor.error(f"a tensor does not fit its storage: {fault}")
    tensor = TensorRef(storage, offset, tuple(shape), tuple(strides), requires_grad)
    if tensor.nbytes > cursor.limits.materialised_bytes:
        raise cursor.error(
            f"a tensor of shape {quote(shape)} takes {quote(tensor.nbytes)} bytes, more than "
            f"{cursor.limits.materialised_bytes} (Limits.materialised_bytes)"
        )
    return tensor


def _parameter(cursor: PickleCursor, arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (TensorRef() as data, bool() as requires_grad, {}) if not arguments[2]:
            return replace(data, requires_grad=requires_grad, is_parameter=True)
        case (Opaque() as data, _, _):
            return Opaque(data.name)
    raise cursor.error("torch._utils._rebuild_parameter is called with something other than a tensor, a bool, no hooks")


BYTE_CALLS: Final[Mapping[str, Call]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
}
"""By the name of what is called: how bytes were pickled before protocol 3."""

TORCH_CALLS: Final[Mapping[str, Call]] = {
    **BYTE_CALLS,
    "builtins.set": _set,
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
"""By the name of what is called: what ``torch.save`` writes."""
