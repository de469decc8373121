"""The inert values a checkpoint is read into. None of them refers to a class or a function of the file's choosing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final, NamedTuple, TypeAlias

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import dtypes
from rnp_jax.torch_io.limits import Limits

Node: TypeAlias = Any
"""A dict, list, tuple, str, int, float, bool, None, bytes, TensorRef or Opaque."""

Location: TypeAlias = tuple[Any, ...]
"""The keys and indices that lead from the root of a tree to a node."""

METADATA_STEP: Final = type("MetadataStep", (str,), {"__slots__": ()})("_metadata")
"""Leads from an `OrderedDictNode` to its metadata: this object itself, since an item may have the same name."""

LONGEST_NAME: Final = 1024
"""Letters of a tensor's name."""


@dataclass(eq=False)
class Opaque:
    """An object that was left unread.

    Attributes:
      name: what unpickling would have imported (and most often called), such as ``PIL.Image.Image``.
      state: the attributes of a ``torch.nn.Module``; None for any other object.
    """

    name: str
    state: dict[Any, Any] | None = None


class Global(Opaque):
    """A name that the pickle mentions. Never imported."""


@dataclass(eq=False)
class SetNode(Opaque):
    """A set, whose items only a module's list of buffers needs."""

    items: tuple[Any, ...] = ()


class OrderedDictNode(dict[Any, Any]):
    """A ``collections.OrderedDict``; `metadata` is the ``_metadata`` attribute that torch gives a state dict."""

    metadata: dict[Any, Any] | None = None


class StatedModule(NamedTuple):
    """What a whole module says of one of its modules beside its tensors. None of it is trusted.

    Attributes:
      kind: the name of its class.
      settings: its plain settings of known names (see `whole_module`), such as ``eps`` and ``stride``.
    """

    kind: str
    settings: dict[str, Any]


class ModuleNode(OrderedDictNode):
    """The state dict that stands for a whole module.

    Attributes:
      class_name: what unpickling would have imported.
      stated: what each of its modules says of itself, by name; empty for TorchScript.
      constants: small tensors and rows of numbers that its modules hold and no state dict has, by name.
    """

    def __init__(self, class_name: str = ""):
        super().__init__()
        self.class_name = class_name
        self.stated: dict[str, StatedModule] = {}
        self.constants: dict[str, TensorRef | tuple[float, ...]] = {}


class CounterNode(dict[Any, Any]):
    """A ``collections.Counter``, as pickled schedulers hold."""


class Size(tuple[int, ...]):
    """A ``torch.Size``."""

    __slots__ = ()


@dataclass(frozen=True)
class StorageRef:
    """A one-dimensional buffer: its key in the container, torch's name of the element type, its elements."""

    key: str
    dtype: str
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.numel * dtypes.itemsize(self.dtype)


@dataclass(eq=False, kw_only=True)
class LooseStorage(Opaque):
    """A storage as the pickle pushes it. A tensor is rebuilt from its `ref`; by itself it stays unread."""

    ref: StorageRef


@dataclass(frozen=True)
class TensorRef:
    """A strided view of a storage, its bounds checked. `offset` and `strides` count elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool = False
    is_parameter: bool = False

    @property
    def dtype(self) -> str:
        """Torch's name of the element type."""
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the array it becomes, whatever elements it shares."""
        return math.prod(self.shape) * dtypes.itemsize(self.dtype)


def children(node: Node) -> Iterator[tuple[Any, Node]]:
    """The (key or index, value) pairs of a container, and its metadata; none for other nodes."""
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)
    if isinstance(node, OrderedDictNode) and node.metadata is not None:
        yield METADATA_STEP, node.metadata


def walk(root: Node) -> Iterator[tuple[Location, Node]]:
    """Each node with its location, in file order. The tree must have passed `check_tree`."""
    yield (), root
    stack: list[tuple[Location, Iterator[tuple[Any, Node]]]] = [((), children(root))]
    while stack:
        location, rest = stack[-1]
        for key, node in rest:
            yield (*location, key), node
            stack.append(((*location, key), children(node)))
            break
        else:
            stack.pop()


def containers(root: Node) -> Iterator[tuple[Location, Node]]:
    """Each dict, list and tuple once, at the first place where it is, in file order."""
    seen: set[int] = set()
    stack: list[tuple[Location, Node]] = [((), root)]
    while stack:
        location, node = stack.pop()
        if isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            yield location, node
            stack.extend(((*location, key), value) for key, value in reversed(list(children(node))))


def check_tree(root: Node, path: str | PathLike[str], limits: Limits) -> None:
    """Refuse what would trap a reader that follows references: cycles, deep nesting, values shared exponentially.

    Raises:
      CheckpointError: the tree contains itself, is deeper than `limits.depth` or larger than `limits.nodes`.
    """
    sizes: dict[int, int] = {}  # of finished containers, each shared part counted each time; 0 marks an open one
    heights: dict[int, int] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        if sizes.get(id(node)):
            stack.pop()  # it was waiting twice, and its other turn came first
            continue
        parts = [part for _, part in children(node) if next(children(part), None)]
        if id(node) not in sizes:
            sizes[id(node)] = 0
            if any(sizes.get(id(part)) == 0 for part in parts):
                raise CheckpointError(path, "a container holds itself, which the state of a model never does")
            stack.extend(part for part in parts if id(part) not in sizes)
            continue
        stack.pop()
        sizes[id(node)] = 1 + sum(1 for _ in children(node)) + sum(sizes[id(part)] - 1 for part in parts)
        heights[id(node)] = 1 + max((heights[id(part)] for part in parts), default=0)
        if heights[id(node)] > limits.depth:
            raise CheckpointError(path, f"nested deeper than {limits.depth} levels (Limits.depth)")
        if sizes[id(node)] > limits.nodes:
            raise CheckpointError(path, f"expands to more than {limits.nodes} values (Limits.nodes)")
