"""Reads the one kind of pickle that the CIFAR python batches are, without the pickle machinery.

A pickle is a program. This reader walks its opcodes on a stack of its own, knows containers, numbers, strings and numpy
arrays of bytes, and refuses everything else: nothing is imported, no object of the file's choosing is called or built,
and no numpy code sees the file's state before its type, shape and size have been checked.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_IGNORED = frozenset({"PROTO", "FRAME"})
_MOST_OPCODES = 2_000_000  # the largest published file, CIFAR-100's train, has some 300,000

_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE = "reconstruct", "ndarray", "dtype", "encode"
_GLOBALS = {
    "numpy.core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
}


class RefusedPickleError(Exception):
    """The file asks for something that a batch of images has no need of, or is damaged. Nothing was executed."""


@dataclass(frozen=True)
class _Global:
    kind: str


@dataclass
class _ByteType:
    """Stands for numpy.dtype('uint8') while reading."""


@dataclass
class _ByteArray:
    """Stands for a numpy array while reading; ``value`` is set by its BUILD."""

    value: np.ndarray | None = None


class _Mark:
    pass


@dataclass
class _Machine:
    encodable: int  # how much text may still become bytes
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def encode(self, text: str) -> bytes:
        self.encodable -= len(text)
        if self.encodable < 0:
            raise RefusedPickleError("it makes more bytes than it holds")
        return text.encode("latin-1")


def read_pickle(data: bytes) -> Any:
    """The dicts, lists, tuples, numbers, strings and uint8 arrays in a pickle of protocol 0 to 4.

    Strings that Python 2 wrote come back as str of latin-1 characters.

    Raises:
      RefusedPickleError: if the file is damaged, needs any other opcode, global, call or array type, has more than two
        million instructions, or makes more bytes than it holds.
    """
    machine = _Machine(encodable=len(data))
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if count == _MOST_OPCODES:
                raise RefusedPickleError(f"it has more than {_MOST_OPCODES:,} instructions")
            if opcode.name == "STOP":
                return _finish(machine)
            try:
                _step(machine, opcode.name, argument)
            except RefusedPickleError as error:
                raise RefusedPickleError(f"{error} (byte {position})") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise RefusedPickleError(f"damaged: {error!s:.200}") from error
    raise RefusedPickleError("damaged: it ends without a STOP")


def _finish(machine: _Machine) -> Any:
    if len(machine.stack) != 1:
        raise RefusedPickleError(f"damaged: {len(machine.stack)} values left at its end, expected 1")
    return _resolve(machine.stack.pop())


def _step(machine: _Machine, name: str, argument: Any) -> None:
    stack, memo = machine.stack, machine.memo
    if name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name]())
    elif name in _PUTS:
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in _GETS:
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_Mark)
    elif name in _TUPLES:
        items = [stack.pop() for _ in range(_TUPLES[name])]
        stack.append(tuple(items[::-1]))
    elif name in ("TUPLE", "LIST", "DICT"):
        items = _pop_to_mark(stack)
        stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else _pairs(items))
    elif name in ("APPEND", "APPENDS"):
        items = [stack.pop()] if name == "APPEND" else _pop_to_mark(stack)
        _top(stack, list).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _pop_to_mark(stack)
        _top(stack, dict).update(_pairs(items))
    elif name == "GLOBAL":
        stack.append(_find(argument))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(_find(f"{module} {attribute}" if isinstance(module, str) and isinstance(attribute, str) else ""))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_call(machine, function, arguments))
    elif name == "BUILD":
        state = stack.pop()
        _build(machine, stack[-1], state)
    elif name not in _IGNORED:
        raise RefusedPickleError(f"it uses the opcode {name}, which image batches never do")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _Mark:
        items.append(item)
    return items[::-1]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, str | bytes | int) for key in items[::2]):
        raise RefusedPickleError("it has a dict whose keys are no plain strings or numbers")
    return dict(zip(items[::2], items[1::2], strict=True))


def _top(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise RefusedPickleError(f"it adds items to something that is no {kind.__name__}")
    return stack[-1]


def _find(name: str) -> _Global:
    if name not in _GLOBALS:
        raise RefusedPickleError(f"it names the global {name!r:.100}, which image batches never do")
    return _Global(_GLOBALS[name])


def _call(machine: _Machine, function: Any, arguments: Any) -> Any:
    kind = function.kind if isinstance(function, _Global) else None
    if kind == _RECONSTRUCT and arguments[:1] == (_Global(_NDARRAY),):
        return _ByteArray()
    if kind == _DTYPE and arguments[:1] in (("u1",), ("|u1",)):
        return _ByteType()
    if kind == _ENCODE and len(arguments) == 2 and arguments[1] == "latin1" and isinstance(arguments[0], str):
        return machine.encode(arguments[0])
    raise RefusedPickleError("it calls something other than a numpy array of bytes")


def _build(machine: _Machine, target: Any, state: Any) -> None:
    if isinstance(target, _ByteType):
        return  # byte order and alignment mean nothing for single bytes
    if not isinstance(target, _ByteArray) or target.value is not None:
        raise RefusedPickleError("it sets the state of something other than a numpy array")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, _ByteType):
        raise RefusedPickleError("it holds an array whose type is not uint8")
    content = machine.encode(content) if isinstance(content, str) else content
    if not isinstance(content, bytes) or not all(type(side) is int and side >= 0 for side in shape):
        raise RefusedPickleError("it holds an array without a plain shape and bytes")
    target.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def _resolve(value: Any) -> Any:
    """Replace the stand-ins one level down, where the batches keep their arrays."""
    if isinstance(value, dict):
        return {key: _resolve_leaf(item) for key, item in value.items()}
    return _resolve_leaf(value)


def _resolve_leaf(value: Any) -> Any:
    if not isinstance(value, _ByteArray):
        return value
    if value.value is None:
        raise RefusedPickleError("it holds an array without a content")
    return value.value
