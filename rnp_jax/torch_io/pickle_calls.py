"""What the pickle machine does where unpickling would call a function: rebuild inert values, or leave them unread.

The names are those that ``torch.save`` writes (torch/_tensor.py, torch/_utils.py, torch/nn/parameter.py).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rnp_jax.torch_io.dtypes import DTYPES
from rnp_jax.torch_io.nodes import CounterNode, LooseStorage, Node, Opaque, OrderedDictNode, Size, TensorRef
from rnp_jax.torch_io.storages import find_layout_fault
from rnp_jax.torch_io.text import quote

if TYPE_CHECKING:
    from rnp_jax.torch_io.pickle_machine import PickleMachine


def call(machine: "PickleMachine", name: str, arguments: tuple[Node, ...]) -> Node:
    """The inert value that stands for ``name(*arguments)``: an `Opaque` for every name but the few of torch.

    Raises:
      CheckpointError: a known name with arguments that torch never gives it.
    """
    rebuild = _CALLS.get(name)
    return rebuild(machine, arguments) if rebuild else Opaque(name)


def _ordered_dict(machine: "PickleMachine", arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case ():
            return OrderedDictNode()
        case (list() as pairs,) if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            result = OrderedDictNode()
            machine.cursor.charge(len(pairs))
            machine.set_items(result, [value for pair in pairs for value in pair])
            return result
    raise machine.cursor.error("collections.OrderedDict is called with something else than a list of pairs")


def _counter(machine: "PickleMachine", arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case ():
            return CounterNode()
        case (dict() as counts,):
            machine.cursor.charge(len(counts))
            return CounterNode(counts)
    raise machine.cursor.error("collections.Counter is called with something else than a dict")


def _size(machine: "PickleMachine", arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (tuple() as dims,) if len(dims) <= machine.cursor.limits.rank and all(type(dim) is int for dim in dims):
            return Size(dims)
    raise machine.cursor.error(
        f"torch.Size is called with something else than up to {machine.cursor.limits.rank} whole numbers"
    )


def _bytes(_: "PickleMachine", arguments: tuple[Node, ...]) -> Node:
    return Opaque("builtins.bytes") if arguments else b""  # how protocol 2 spells no bytes at all


def _encode(machine: "PickleMachine", arguments: tuple[Node, ...]) -> Node:
    match arguments:  # how pickle protocol 2 spells bytes
        case (str() as text, "latin1"):
            machine.cursor.charge_bytes(len(text))
            try:
                return text.encode("latin1")
            except UnicodeEncodeError:
                raise machine.cursor.error("_codecs.encode is given text that is not latin1") from None
    raise machine.cursor.error("_codecs.encode is called with something else than a text and 'latin1'")


def _tensor(machine: "PickleMachine", arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (LooseStorage(ref=storage), offset, shape, strides, *rest) if len(rest) in (0, 2, 3):
            pass
        case _:
            raise machine.cursor.error(
                "a tensor is rebuilt from something else than a storage, offset, shape and strides"
            )
    if storage.dtype not in DTYPES:
        return Opaque(f"torch.{storage.dtype} tensor")
    requires_grad, *attributes = rest or [False]
    if type(requires_grad) is not bool:
        raise machine.cursor.error(f"a tensor's requires_grad is {quote(requires_grad)}")
    if any(attribute != {} for attribute in attributes):
        return Opaque("torch tensor with hooks or a conjugate or negative bit")
    if fault := find_layout_fault(storage, offset, shape, strides, machine.cursor.limits):
        raise machine.cursor.error(f"a tensor does not fit its storage: {fault}")
    tensor = TensorRef(storage, offset, tuple(shape), tuple(strides), requires_grad)
    if tensor.nbytes > machine.cursor.limits.materialised_bytes:
        raise machine.cursor.error(
            f"a tensor of shape {quote(shape)} takes {quote(tensor.nbytes)} bytes, more than "
            f"{machine.cursor.limits.materialised_bytes} (Limits.materialised_bytes)"
        )
    return tensor


def _parameter(machine: "PickleMachine", arguments: tuple[Node, ...]) -> Node:
    match arguments:
        case (TensorRef() as data, bool() as requires_grad, {}) if not arguments[2]:
            return replace(data, requires_grad=requires_grad, is_parameter=True)
        case (Opaque() as data, _, _):
            return Opaque(data.name)
    raise machine.cursor.error(
        "torch._utils._rebuild_parameter is called with something else than a tensor, a bool, no hooks"
    )


_CALLS: Final[dict[str, Callable[["PickleMachine", tuple[Node, ...]], Node]]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
