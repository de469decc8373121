"""The tensors of a whole module, as ``torch.save(model)`` or ``torch.jit.save`` write one, read off its attributes.

Its class is never imported and its object never built. ``_modules``, ``_parameters`` and ``_buffers`` are plain dicts
in the pickle; the names of a state dict are their keys, joined by dots (torch/nn/modules/module.py, ``state_dict``). In
TorchScript, tensors and modules are the attributes themselves (torch/csrc/jit/serialization/pickler.cpp); its code
stays unread. Of what the modules of a pickle say beside their tensors, the plain settings are kept as inert values, and
so are small tensors and rows of numbers, which may be a normalisation.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from os import PathLike
from typing import Any, Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import (
    LONGEST_NAME,
    Location,
    ModuleNode,
    Node,
    Opaque,
    SetNode,
    StatedModule,
    TensorRef,
    check_tree,
)
from rnp_jax.torch_io.text import format_path, quote

_MOST_DESCRIBED: Final = 20
_MOST_STATED: Final = 10_000  # modules of a whole module
_MOST_ATTRIBUTES: Final = 64  # of one module, of which a constant may be one
_MOST_CONSTANTS: Final = 64
_MOST_VALUES: Final = 4
_LONGEST_SETTING: Final = 32
_LARGEST_SETTING: Final = 2**31
_UNSAVED: Final = "_non_persistent_buffers_set"  # since torch 1.6
_PARTS: Final = ("_parameters", "_buffers", "_modules")
SETTINGS: Final = (
    *("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size", "ceil_mode"),
    *("eps", "approximate"),
)
"""The settings of torch's modules that their arithmetic depends on and their tensors do not tell."""
SCRIPTED: Final = "__torch__."
"""Beginning of the name of each class of a TorchScript program."""


def is_module(name: str, state: Node) -> bool:
    """Whether an object of the class `name` with these attributes is a ``torch.nn.Module`` or one of TorchScript."""
    if not isinstance(state, dict):
        return False
    return name.startswith(SCRIPTED) or all(isinstance(state.get(part), dict) for part in _PARTS)


def read_modules(tree: Node, path: str | PathLike[str], limits: Limits) -> tuple[Node, list[str]]:
    """The tree with a state dict in the place of each whole module, and a sentence for each of the first modules.

    Args:
      tree: one that passed `check_tree`; its dicts and lists are changed.
      path: the file, for errors.
      limits: how deep modules may be nested, and how many modules and tensors there may be, a shared one counted each
        time it appears.

    Raises:
      CheckpointError: a module contains itself, is beyond a limit, or holds what no module of torch holds.
    """
    reader = _Reader(path, limits)
    tree = reader.replace(tree, ())
    if reader.found:
        check_tree(tree, path, limits)
    sentences = [
        f"{format_path(place)} is {_describe(module)}; it is written as a plain state dict"
        for place, module in reader.found[:_MOST_DESCRIBED]
    ]
    more = len(reader.found) - len(sentences)
    return tree, sentences + ([f"{more} more whole modules, read alike"] if more > 0 else [])


def _describe(module: Opaque) -> str:
    if module.name.startswith(SCRIPTED):
        return f"a TorchScript program {quote(module.name)}: its tensors were read, its code was not"
    return f"a whole module of class {quote(module.name)}: its tensors were read, its class was not"


def _note_settings(node: ModuleNode, kind: str, state: dict[Any, Node], prefix: str) -> None:
    """Keep what a module says of itself, each time within fixed bounds."""
    if len(node.stated) < _MOST_STATED:
        settings = {name: state[name] for name in SETTINGS if name in state and _is_plain(state[name])}
        node.stated[prefix.removesuffix(".")] = StatedModule(kind, settings)
    unsaved = islice(_list_unsaved(state), _MOST_ATTRIBUTES)
    buffers = ((key, state["_buffers"].get(key)) for key in unsaved if type(key) is str)
    for key, value in (*buffers, *islice(state.items(), _MOST_ATTRIBUTES)):
        if len(node.constants) == _MOST_CONSTANTS:
            return
        constant = _read_constant(value)
        if constant is not None and type(key) is str and len(prefix) + len(key) <= LONGEST_NAME:
            node.constants[prefix + key] = constant


def _list_unsaved(state: dict[Any, Node]) -> Sequence[Node]:
    """The names of the buffers that a module's state dict leaves out."""
    unsaved = state.get(_UNSAVED)
    return unsaved.items if isinstance(unsaved, SetNode) else ()


def _is_plain(value: Node) -> bool:
    """A number that is not huge, a truth value, a short text, or a few such whole numbers."""
    if type(value) is tuple:
        return len(value) <= _MOST_VALUES and all(type(each) is int and _is_plain(each) for each in value)
    if type(value) is str:
        return len(value) <= _LONGEST_SETTING
    return type(value) in (int, float, bool) and abs(value) < _LARGEST_SETTING


def _read_constant(value: Node) -> TensorRef | tuple[float, ...] | None:
    if isinstance(value, TensorRef):
        return value if value.shape and math.prod(value.shape) <= _MOST_VALUES else None
    if type(value) in (list, tuple) and 0 < len(value) <= _MOST_VALUES and all(type(each) is float for each in value):
        return tuple(value)
    return None


class _Reader:
    def __init__(self, path: str | PathLike[str], limits: Limits):
        self.found: list[tuple[Location, Opaque]] = []
        self._path, self._limits = path, limits
        self._count = 0
        self._open: list[Opaque] = []
        self._done: dict[int, tuple[Node, Node]] = {}  # with what each stands for, so that no id is used again

    def replace(self, node: Node, location: Location) -> Node:
        """The node itself, changed where it is a dict or list, or what stands for it."""
        if id(node) in self._done:
            return self._done[id(node)][1]
        result = node
        if isinstance(node, dict):
            for key, value in node.items():
                node[key] = self.replace(value, (*location, key))
        elif isinstance(node, list):
            node[:] = [self.replace(value, (*location, index)) for index, value in enumerate(node)]
        elif type(node) is tuple:
            result = tuple(self.replace(value, (*location, index)) for index, value in enumerate(node))
        elif isinstance(node, Opaque) and node.state is not None:
            self.found.append((location, node))
            result = ModuleNode(node.name)
            self._collect(result, node, "")
        else:
            return node
        self._done[id(node)] = node, result
        return result

    def _collect(self, tensors: ModuleNode, module: Opaque, prefix: str) -> None:
        """Put the tensors of a module and of those within it into one dict, in torch's order."""
        if module in self._open:
            raise self._error(f"contains itself, as {quote(prefix)}")
        if len(self._open) >= self._limits.depth:
            raise self._error(f"is nested deeper than {self._limits.depth} modules (Limits.depth)")
        self._open.append(module)
        state, scripted = module.state or {}, module.name.startswith(SCRIPTED)
        if not scripted:
            _note_settings(tensors, module.name, state, prefix)
        for key, value in (self._list_attributes if scripted else self._list_parts)(state):
            if type(key) is not str or len(prefix) + len(key) > LONGEST_NAME:
                raise self._error(f"has a name that is no text of up to {LONGEST_NAME} letters: {quote(key)}")
            name = prefix + key
            if isinstance(value, Opaque) and value.state is not None:
                self._collect(tensors, value, f"{name}.")
            elif not isinstance(value, TensorRef | Opaque):
                raise self._error(f"holds a {type(value).__name__} as {quote(name)}, not a tensor or module")
            elif name in tensors:
                raise self._error(f"has two tensors of the name {quote(name)}")
            else:  # what is left unread is told by whoever asks for the tensors
                kept = isinstance(value, TensorRef)
                tensors[name] = replace(value, requires_grad=False, is_parameter=False) if kept else value
        self._open.pop()

    def _list_parts(self, state: dict[Any, Node]) -> Iterator[tuple[Any, Node]]:
        """The parameters, the buffers that are saved and the modules of one module, without those that are None."""
        unsaved = _list_unsaved(state)
        self._charge(len(unsaved) + sum(len(state[part]) for part in _PARTS))
        left_out = {key for key in unsaved if type(key) is str}
        for part in _PARTS:
            for key, value in state[part].items():
                if value is not None and not (part == "_buffers" and key in left_out):
                    yield key, value

    def _list_attributes(self, state: dict[Any, Node]) -> Iterator[tuple[Any, Node]]:
        """The tensors, and then the modules, of one module of TorchScript, whose other attributes are plain values."""
        self._charge(len(state))
        yield from ((key, value) for key, value in state.items() if isinstance(value, TensorRef))
        for key, value in state.items():
            if isinstance(value, Opaque) and (value.name.startswith(SCRIPTED) or "tensor" in value.name):
                yield key, value

    def _charge(self, amount: int) -> None:
        self._count += amount
        if self._count > self._limits.members:
            raise self._error(f"brings the modules and tensors to more than {self._limits.members} (Limits.members)")

    def _error(self, reason: str) -> CheckpointError:
        location = self.found[-1][0]
        return CheckpointError(self._path, f"the whole module {format_path(location)} {reason}")
