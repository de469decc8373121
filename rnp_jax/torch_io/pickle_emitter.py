"""Writing an inert tree as a pickle of protocol 2, in the few opcodes and names that ``torch.load`` needs.

What the tree shares (a dict, a string, a tensor that appears twice) is shared in the pickle. Objects that were left
unread are not written.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final

from rnp_jax.torch_io.dtypes import STORAGE_NAMES
from rnp_jax.torch_io.nodes import (
    CounterNode,
    Location,
    Node,
    Opaque,
    OrderedDictNode,
    Size,
    StorageRef,
    TensorRef,
    children,
)
from rnp_jax.torch_io.text import Places, format_path

_PROTOCOL_2: Final = b"\x80\x02"
_BATCH: Final = 1000  # items between two marks, as CPython writes them


class PickleEmitter:
    """Builds one pickle.

    Args:
      is_legacy: storages are described as before torch 1.6.
      substitute: the tensor to write in the place of another, by identity of its container and by its key or index; an
        `Opaque` leaves it out.
      added: tensors to write behind the other items of a dict, by identity of the dict.

    Attributes:
      storages: those written, by the number that is their key there, in order of appearance.
      dropped: where objects were left out. In a list or tuple, None holds their place.
    """

    def __init__(
        self,
        *,
        is_legacy: bool = False,
        substitute: Mapping[tuple[int, object], TensorRef | Opaque] | None = None,
        added: Mapping[int, Mapping[str, TensorRef]] | None = None,
    ):
        self.storages: dict[str, StorageRef] = {}
        self.dropped = Places()
        self._keys: dict[str, str] = {}  # the file's own could be paths
        self._is_legacy = is_legacy
        self._substitute = substitute or {}
        self._added = added or {}
        self._out = bytearray()
        self._memo: dict[int | tuple[str, str], int] = {}
        self._next = 0
        self._alive: list[Node] = []  # what the memo knows by id must not be freed

    def emit(self, root: Node) -> bytes:
        """The pickle of `root`, a tree that passed `check_tree`.

        Raises:
          TypeError: a value that no tree holds.
        """
        self._out += _PROTOCOL_2
        self._emit(root, ())
        return bytes(self._out + b".")

    def _emit(self, node: Node, location: Location) -> None:
        if node is None or isinstance(node, bool | int | float):
            self._out += _spell_number(node)
        elif id(node) in self._memo:
            self._get(id(node))
        else:
            writer = next((write for kind, write in _WRITERS if isinstance(node, kind)), None)
            if writer is None:
                raise TypeError(f"{format_path(location)} is a {type(node).__name__}, which a checkpoint cannot hold")
            writer(self, node, location)

    def _get(self, name: int | tuple[str, str]) -> None:
        index = self._memo[name]
        self._out += struct.pack("<cB", b"h", index) if index < 256 else struct.pack("<cI", b"j", index)

    def _put(self, name: Node | tuple[str, str], *, by_id: bool = True) -> None:
        index, self._next = self._next, self._next + 1
        self._memo[id(name) if by_id else name] = index
        self._alive.append(name)
        self._out += struct.pack("<cB", b"q", index) if index < 256 else struct.pack("<cI", b"r", index)

    def _global(self, module: str, name: str) -> None:
        if (module, name) in self._memo:
            self._get((module, name))
        else:
            self._out += f"c{module}\n{name}\n".encode()
            self._put((module, name), by_id=False)

    def _text(self, text: str, _: Location) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        self._out += b"X" + struct.pack("<I", len(raw)) + raw
        self._put(text)

    def _bytes(self, raw: bytes, _: Location) -> None:
        self._global("_codecs", "encode")
        self._emit(raw.decode("latin1"), ())
        self._emit("latin1", ())
        self._out += b"\x86R"
        self._put(raw)

    def _list(self, items: list[Node], location: Location) -> None:
        self._out += b"]"
        self._put(items)
        for start in range(0, len(items), _BATCH):
            self._out += b"("
            for index, item in enumerate(items[start : start + _BATCH], start):
                self._emit_or_drop(self._substitute.get((id(items), index), item), (*location, index))
            self._out += b"e"

    def _tuple(self, items: tuple[Node, ...], location: Location) -> None:
        self._out += b"("
        for index, item in children(items):
            self._emit_or_drop(self._substitute.get((id(items), index), item), (*location, index))
        self._out += b"t"
        self._put(items)

    def _emit_or_drop(self, item: Node, location: Location) -> None:
        if isinstance(item, Opaque):
            self.dropped.add(location)
            item = None
        self._emit(item, location)

    def _size(self, size: Size, _: Location) -> None:
        self._global("torch", "Size")
        self._tuple(tuple(size), ())
        self._out += b"\x85R"
        self._put(size)

    def _dict(self, items: dict[Node, Node], location: Location) -> None:
        self._out += b"}"
        self._put(items)
        self._items(items, location)

    def _ordered_dict(self, items: OrderedDictNode, location: Location) -> None:
        self._global("collections", "OrderedDict")
        self._out += b")R"
        self._put(items)
        self._items(items, location)
        if items.metadata is not None:
            self._out += b"}"
            self._emit("_metadata", ())
            self._emit(items.metadata, (*location, "_metadata"))
            self._out += b"sb"

    def _counter(self, items: CounterNode, location: Location) -> None:
        self._global("collections", "Counter")
        self._out += b"}"
        self._items(items, location)
        self._out += b"\x85R"
        self._put(items)

    def _items(self, items: dict[Node, Node], location: Location) -> None:
        for key, value in (*items.items(), *self._added.get(id(items), {}).items()):
            value = self._substitute.get((id(items), key), value)
            if isinstance(key, Opaque) or isinstance(value, Opaque):
                self.dropped.add((*location, key))
                continue
            self._emit(key, location)
            self._emit(value, (*location, key))
            self._out += b"s"

    def _tensor(self, ref: TensorRef, _: Location) -> None:
        if ref.is_parameter:
            self._global("torch._utils", "_rebuild_parameter")
            self._out += b"("
        self._global("torch._utils", "_rebuild_tensor_v2")
        self._out += b"("
        self._storage(ref.storage)
        self._out += _spell_number(ref.offset)
        self._emit(ref.shape, ())
        self._emit(ref.strides, ())
        self._out += _spell_number(ref.requires_grad and not ref.is_parameter)
        self._global("collections", "OrderedDict")
        self._out += b")RtR"
        if ref.is_parameter:
            self._out += _spell_number(ref.requires_grad)
            self._global("collections", "OrderedDict")
            self._out += b")RtR"
        self._put(ref)

    def _storage(self, storage: StorageRef) -> None:
        key = self._keys.setdefault(storage.key, str(len(self._keys)))
        self.storages[key] = storage
        self._out += b"("
        self._emit("storage", ())
        self._global("torch", STORAGE_NAMES[storage.dtype])
        self._emit(key, ())
        self._emit("cpu", ())  # wherever it was trained, it loads on any machine
        self._out += _spell_number(storage.numel) + (b"N" if self._is_legacy else b"") + b"tQ"


def _spell_number(value: bool | int | float | None) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if 0 <= value < 2**8:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


_WRITERS: Final[tuple[tuple[type, Callable[..., None]], ...]] = (
    (str, PickleEmitter._text),
    (TensorRef, PickleEmitter._tensor),
    (OrderedDictNode, PickleEmitter._ordered_dict),
    (CounterNode, PickleEmitter._counter),
    (dict, PickleEmitter._dict),
    (Size, PickleEmitter._size),
    (tuple, PickleEmitter._tuple),
    (list, PickleEmitter._list),
    (bytes, PickleEmitter._bytes),
)
"""The first that fits is used."""
