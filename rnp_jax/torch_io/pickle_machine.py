"""A pickle interpreter that executes nothing: it resolves no import, calls no function and never recurses.

GLOBAL pushes a name, REDUCE and NEWOBJ push an inert value (see `pickle_calls`), BUILD gives it a module's attributes
(see `whole_module`) or fills an array (see `pickle_arrays`). Opcodes that plain values and tensors never need are
refused. The opcodes are documented in CPython's ``Lib/pickletools.py``.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

from rnp_jax.torch_io.nodes import Global, Node, Opaque, OrderedDictNode, SetNode
from rnp_jax.torch_io.pickle_arrays import ARRAY_CALLS, ArrayNode, TypeNode, fill_array, fill_type
from rnp_jax.torch_io.pickle_calls import TORCH_CALLS, Call
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_items import set_items
from rnp_jax.torch_io.pickle_lines import take_float, take_index, take_integer, take_long, take_unicode
from rnp_jax.torch_io.whole_module import is_module

_PYTHON_2_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_LONGEST_NAME: Final = 1024
_STOP: Final = 0x2E
_CALLS: Final[Mapping[str, Call]] = {**TORCH_CALLS, **ARRAY_CALLS}
_REFUSED: Final = {
    0x50: "PERSID",
    0x53: "STRING",
    0x69: "INST",
    0x6F: "OBJ",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x97: "NEXT_BUFFER",
}


class PickleMachine:
    """Reads one pickle into an inert tree.

    Args:
      cursor: the beginning of the pickle; after `run`, its position is the first byte behind it.
      load_persistent: what a persistent id stands for; without it, they are refused.
      calls: what a call stands for, by the name of what is called; any other stays unread, as an `Opaque`.
      encoding: of the strings that Python 2 wrote; those that have another stay bytes.
    """

    def __init__(
        self,
        cursor: PickleCursor,
        load_persistent: Callable[[Node], Node] | None = None,
        *,
        calls: Mapping[str, Call] = _CALLS,
        encoding: Literal["utf-8", "latin-1"] = "utf-8",
    ):
        self.cursor = cursor
        self._calls = calls
        self._encoding = encoding
        self._load_persistent = load_persistent
        self._stack: list[Node] = []
        self._marks: list[int] = []
        self._memo: dict[int, Node] = {}

    def run(self) -> Node:
        """The root of the tree.

        Raises:
          CheckpointError: the pickle is malformed, beyond a limit or uses what its writer never does.
        """
        while (opcode := self.cursor.take(1)[0]) != _STOP:
            self.cursor.charge(1)
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                raise self.cursor.error(
                    f"opcode {_REFUSED.get(opcode, hex(opcode))}, which neither values nor tensors need"
                )
            operation(self)
        if len(self._stack) != 1 or self._marks:
            raise self.cursor.error(f"{len(self._stack)} values are left at the end, not one")
        return self._stack[0]

    def _push(self, value: Node) -> None:
        self._stack.append(value)

    def _pop(self) -> Node:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self.cursor.error("the stack is empty")
        return self._stack.pop()

    def _top(self) -> Node:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop_mark(self) -> list[Node]:
        if not self._marks:
            raise self.cursor.error("no mark on the stack")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _drop_to_mark(self) -> None:
        self._pop_mark()

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _pop_value(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()  # as CPython: POP drops a mark that is on top
        else:
            self._pop()

    def _protocol(self) -> None:
        if (version := self.cursor.take(1)[0]) > 5:
            raise self.cursor.error(f"pickle protocol {version}; 5 is the newest")

    def _frame(self) -> None:
        self.cursor.take(8)  # a hint for buffered readers

    def _integer(self, length: int) -> None:
        if not 0 <= length <= self.cursor.limits.integer_bytes:
            raise self.cursor.error(f"an integer of {length} bytes, more than {self.cursor.limits.integer_bytes}")
        self._push(int.from_bytes(self.cursor.take(length), "little", signed=True))

    def _text(self, layout: str) -> None:
        self._push(self.cursor.take_text(self.cursor.take_number(layout)))

    def _python_2_string(self, layout: str) -> None:
        length = self.cursor.take_number(layout)
        if length < 0:
            raise self.cursor.error(f"a string of {length} bytes")
        raw = self.cursor.take(length)
        try:
            self._push(raw.decode(self._encoding))
        except UnicodeDecodeError:
            self._push(raw)

    def _bytearray(self) -> None:
        self.cursor.take(self.cursor.take_number("<Q"))
        self._push(Opaque("builtins.bytearray"))

    def _put(self, index: int) -> None:
        if index >= self.cursor.limits.opcodes:
            raise self.cursor.error(f"memo index {index}; Limits.opcodes is {self.cursor.limits.opcodes}")
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise self.cursor.error(f"memo index {index} was never stored")
        self._push(self._memo[index])

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _dict(self) -> None:
        items = self._pop_mark()
        self._push({})
        self._set_all(items)

    def _append_all(self, items: list[Node]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise self.cursor.error(f"items are appended to a {type(target).__name__}")

    def _set_all(self, items: list[Node]) -> None:
        target = self._top()
        if isinstance(target, dict):
            set_items(self.cursor, target, items)
        elif not isinstance(target, Opaque):
            raise self.cursor.error(f"items are set in a {type(target).__name__}")

    def _set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_all([key, value])

    def _append_one(self) -> None:
        value = self._pop()
        self._append_all([value])

    def _add_to_set(self) -> None:
        items, target = self._pop_mark(), self._top()
        if not isinstance(target, Opaque):
            raise self.cursor.error("items are added to something other than a set")
        if isinstance(target, SetNode):
            self.cursor.charge(len(target.items))
            target.items += tuple(items)

    def _frozenset(self) -> None:
        self._pop_mark()
        self._push(Opaque("builtins.frozenset"))

    def _global(self, module: Node, name: Node) -> None:
        if type(module) is not str or type(name) is not str:
            raise self.cursor.error("a name to import that is not text")
        if len(module) + len(name) > _LONGEST_NAME:
            raise self.cursor.error(f"a name to import of {len(module) + len(name)} letters")
        self.cursor.charge_bytes(len(module) + len(name))
        self._push(Global(f"{_PYTHON_2_MODULES.get(module, module)}.{name}"))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Opaque) or type(arguments) is not tuple:
            raise self.cursor.error("a call of something that is not a name, or with arguments that are not a tuple")
        rebuild = self._calls.get(function.name) if isinstance(function, Global) else None
        self._push(rebuild(self.cursor, arguments) if rebuild else Opaque(function.name))

    def _new_object(self, count: int) -> None:
        *_, kind = [self._pop() for _ in range(count)]
        if not isinstance(kind, Opaque):
            raise self.cursor.error("an object of something that is not a class")
        self._push(Opaque(kind.name))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, OrderedDictNode):
            match state:
                case {"_metadata": dict() as metadata} if type(state) is dict and len(state) == 1:
                    target.metadata = metadata
                case _:
                    raise self.cursor.error("an OrderedDict is given attributes other than _metadata")
        elif isinstance(target, ArrayNode):
            fill_array(self.cursor, target, state)
        elif isinstance(target, TypeNode):
            fill_type(target, state)
        elif isinstance(target, Opaque):
            if is_module(target.name, state):
                if target.state is not None:
                    raise self.cursor.error("a module is given its attributes twice")
                target.state = state
        else:
            raise self.cursor.error(f"attributes are given to a {type(target).__name__}")

    def _persistent(self) -> None:
        if self._load_persistent is None:
            raise self.cursor.error("a persistent id where none belongs")
        self._push(self._load_persistent(self._pop()))


_OPERATIONS: Final[dict[int, Callable[[PickleMachine], None]]] = {
    ord("("): PickleMachine._mark,
    ord("0"): PickleMachine._pop_value,
    ord("1"): PickleMachine._drop_to_mark,
    ord("F"): lambda m: m._push(take_float(m.cursor)),
    ord("G"): lambda m: m._push(m.cursor.take_number(">d")),
    ord("I"): lambda m: m._push(take_integer(m.cursor)),
    ord("J"): lambda m: m._push(m.cursor.take_number("<i")),
    ord("K"): lambda m: m._push(m.cursor.take_number("<B")),
    ord("L"): lambda m: m._push(take_long(m.cursor)),
    ord("M"): lambda m: m._push(m.cursor.take_number("<H")),
    ord("N"): lambda m: m._push(None),
    ord("Q"): PickleMachine._persistent,
    ord("R"): PickleMachine._reduce,
    ord("T"): lambda m: m._python_2_string("<i"),
    ord("U"): lambda m: m._python_2_string("<B"),
    ord("V"): lambda m: m._push(take_unicode(m.cursor)),
    ord("X"): lambda m: m._text("<I"),
    ord("a"): PickleMachine._append_one,
    ord("b"): PickleMachine._build,
    ord("c"): lambda m: m._global(m.cursor.take_line(), m.cursor.take_line()),
    ord("d"): PickleMachine._dict,
    ord("e"): lambda m: m._append_all(m._pop_mark()),
    ord("g"): lambda m: m._get(take_index(m.cursor)),
    ord("h"): lambda m: m._get(m.cursor.take_number("<B")),
    ord("j"): lambda m: m._get(m.cursor.take_number("<I")),
    ord("l"): lambda m: m._push(m._pop_mark()),
    ord("p"): lambda m: m._put(take_index(m.cursor)),
    ord("q"): lambda m: m._put(m.cursor.take_number("<B")),
    ord("r"): lambda m: m._put(m.cursor.take_number("<I")),
    ord("s"): PickleMachine._set_one,
    ord("t"): lambda m: m._push(tuple(m._pop_mark())),
    ord("u"): lambda m: m._set_all(m._pop_mark()),
    ord(")"): lambda m: m._push(()),
    ord("]"): lambda m: m._push([]),
    ord("}"): lambda m: m._push({}),
    ord("B"): lambda m: m._push(m.cursor.take(m.cursor.take_number("<I"))),
    ord("C"): lambda m: m._push(m.cursor.take(m.cursor.take_number("<B"))),
    0x80: PickleMachine._protocol,
    0x81: lambda m: m._new_object(2),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    0x8A: lambda m: m._integer(m.cursor.take_number("<B")),
    0x8B: lambda m: m._integer(m.cursor.take_number("<i")),
    0x8C: lambda m: m._text("<B"),
    0x8D: lambda m: m._text("<Q"),
    0x8E: lambda m: m._push(m.cursor.take(m.cursor.take_number("<Q"))),
    0x8F: lambda m: m._push(SetNode("builtins.set")),
    0x90: PickleMachine._add_to_set,
    0x91: PickleMachine._frozenset,
    0x92: lambda m: m._new_object(3),
    0x93: PickleMachine._stack_global,
    0x94: lambda m: m._put(len(m._memo)),
    0x95: PickleMachine._frame,
    0x96: PickleMachine._bytearray,
}
"""Each accepted opcode. INT and the BINSTRINGs come from Python 2, other lines from protocol 0."""
