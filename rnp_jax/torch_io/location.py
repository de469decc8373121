"""Where in a checkpoint's tree the state dict is: found, or named by ``--key``."""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.nodes import METADATA_STEP, Location, Node, Opaque, TensorRef, containers
from rnp_jax.torch_io.text import quote

KEYS: Final = ("state_dict", "model", "netC", "clsmodel", "model_state_dict", "net")
"""Where RNP and ABL, BackdoorBench, WaNet and Input-Aware, LIRA, and others keep the classifier's state dict."""

_SHOWN: Final = 10


def choose_location(tree: Node, path: str | PathLike[str]) -> Location:
    """The keys that lead to the only state dict that a file can mean.

    That is the one under one of `KEYS`; else the root, if it holds tensors and nothing else; else the only dict
    anywhere in the tree that looks like the state dict of a network.

    Raises:
      CheckpointError: there is none, or there are several; they are offered as values of ``--key``.
    """
    root = tree if isinstance(tree, dict) else {}
    found = [key for key in KEYS if _holds_tensors(root.get(key))]
    if len(found) > 1:
        raise CheckpointError(
            path, f"several state dicts: {', '.join(found)}; choose one with --key, such as --key {found[0]}"
        )
    if found:
        return (found[0],)
    if _holds_tensors(root) and all(isinstance(value, TensorRef | Opaque) for value in root.values()):
        return ()
    holders = [(location, node) for location, node in containers(tree) if _holds_tensors(node)]
    networks = [location for location, node in holders if looks_like_network(_tensors(node))]
    if len(networks) == 1:
        return networks[0]
    if networks:
        raise CheckpointError(path, f"several state dicts: choose one with --key: {_spell(networks)}")
    for key in KEYS:
        if isinstance(root.get(key), Opaque):
            return (key,)  # its own error says what it is
    if any(is_quantised(key, value) for key, value in root.items()):
        return ()  # likewise
    if not isinstance(tree, dict):
        raise CheckpointError(path, f"the file holds a {type(tree).__name__}, not a dict of tensors")
    others = [location for location, _ in holders if location]
    hint = f"; {_spell(others)} hold tensors: choose one with --key" if others else ""
    raise CheckpointError(path, f"no state dict under {', '.join(KEYS)} or at the root{hint}")


def tell_location(location: Location) -> tuple[str, ...]:
    """A sentence about a state dict that was found where no known project keeps it."""
    if not location or (len(location) == 1 and location[0] in KEYS):
        return ()
    return (f"The network was found under {_spell([location])}, the only state dict in the file.",)


def follow_key(tree: Node, key: str, path: str | PathLike[str]) -> Location:
    """The place that ``--key`` names: a key of the root, or keys and indices of lists, separated by slashes.

    Raises:
      CheckpointError: there is no such key; those that there are, are listed.
    """
    if isinstance(tree, dict) and key in tree:
        return (key,)
    node, location = tree, ()
    for part in filter(None, key.split("/")):
        if not isinstance(node, dict | list | tuple):
            raise CheckpointError(path, f"no key {quote(part)}: {_spell([location])} is a {type(node).__name__}")
        known: dict[Any, Node] = node if isinstance(node, dict) else dict(enumerate(node))
        step = part if part in known or not (part.isascii() and part.isdigit() and len(part) < 20) else int(part)
        if step not in known:
            names = [quote(name) for name in known if not isinstance(name, Opaque)]
            raise CheckpointError(path, f"no key {quote(part)}; known keys: {', '.join(names[:20]) or 'none'}")
        node, location = known[step], (*location, step)
    return location


def get_node(tree: Node, location: Location) -> Node:
    """What these keys lead to."""
    for key in location:
        tree = tree.metadata if key is METADATA_STEP else tree[key]
    return tree


def _holds_tensors(node: Node) -> bool:
    return isinstance(node, dict) and any(isinstance(value, TensorRef) for value in node.values())


def is_quantised(key: Any, node: Node) -> bool:
    """Whether an entry of a dict is that of quantised weights."""
    kind = node.name if isinstance(node, Opaque) else ""
    return "qint" in kind or "qtensor" in kind or (isinstance(key, str) and "_packed_params" in key)


def looks_like_network(keys: Iterable[Any]) -> bool:
    """Whether tensors with these keys are several, and one has the name that torch gives a layer's weights."""
    names = [key for key in keys if isinstance(key, str)]
    return len(names) > 1 and any(name.rpartition(".")[2].startswith("weight") for name in names)


def _tensors(node: dict[Any, Node]) -> list[Any]:
    return [key for key, value in node.items() if isinstance(value, TensorRef)]


def _spell(locations: Sequence[Location]) -> str:
    """Places as ``--key`` takes them."""
    spelled = [quote("/".join(map(str, location)) or "/") for location in locations[:_SHOWN]]
    return ", ".join(spelled) + (f" and {len(locations) - _SHOWN} more" if len(locations) > _SHOWN else "")
