"""Pure functions on mask trees.

Filter masks are handled as a flat dict from layer name (``layer1.0.bn1``) to values [F]: the ``filter`` leaves of
``variables['masks']``. Layer names sort naturally (``layer3.2`` before ``layer3.10``), which is the networks' order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnp_jax.atomic import write_atomic
from rnp_jax.errors import DataError
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.types import Tree, Variables

Filters: TypeAlias = Mapping[str, Array | np.ndarray]


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which numbers inside a layer name compare as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)


def layers(masks: Tree) -> Iterator[tuple[str, Tree]]:
    """Each layer's name and mask leaves, in natural order of the names."""

    def walk(tree: Tree, prefix: str) -> Iterator[tuple[str, Tree]]:
        for name, node in tree.items():
            if "neuron" in node:
                yield prefix + name, node
            else:
                yield from walk(node, f"{prefix}{name}.")

    yield from sorted(walk(masks, ""), key=lambda item: natural_key(item[0]))


def filters(masks: Tree) -> dict[str, Array]:
    """The filter masks by layer name."""
    return {name: leaves["filter"] for name, leaves in layers(masks) if "filter" in leaves}


def with_filters(masks: Tree, values: Filters) -> Tree:
    """The mask tree with its filter masks replaced; ``values`` must name every maskable layer and no other."""
    expected = {name for name, leaves in layers(masks) if "filter" in leaves}
    if expected != set(values):
        surplus, lacking = sorted(set(values) - expected), sorted(expected - set(values))
        raise KeyError(f"filter masks do not fit the network: + {surplus} - {lacking}")

    def rebuild(tree: Tree, prefix: str) -> Tree:
        if "neuron" in tree:
            return {**tree, "filter": values[prefix]} if "filter" in tree else tree
        return {name: rebuild(node, f"{prefix}.{name}" if prefix else name) for name, node in tree.items()}

    return rebuild(masks, "")


def apply_filters(variables: Variables, values: Filters) -> Variables:
    """The variables with their filter masks replaced."""
    return {**variables, "masks": with_filters(variables["masks"], values)}


def neuron_gate(params: Tree, masks: Tree) -> Tree:
    """A tree like ``params`` of each parameter's ``neuron`` mask, broadcastable to it (F is its last axis)."""
    if "neuron" in masks:
        return {name: masks["neuron"].reshape((1,) * (leaf.ndim - 1) + (-1,)) for name, leaf in params.items()}
    return {name: neuron_gate(node, masks[name]) for name, node in params.items()}


def pruned_gate(params: Tree, masks: Tree, placement: str = "bn_scale") -> Tree:
    """A tree like ``params``, broadcastable to it, of 0 where a weight belongs to a pruned filter and 1 elsewhere.

    A filter is pruned where its mask is 0, and where all weights that its mask multiplies are 0 (a pruned file's).
    """
    if "neuron" not in masks:
        return {name: pruned_gate(node, masks[name], placement) for name, node in params.items()}
    gate = {name: jnp.ones((1,) * leaf.ndim, leaf.dtype) for name, leaf in params.items()}
    if "filter" not in masks:
        return gate
    multiplied = _multiplied(params, placement)
    empty = [(params[name] == 0).all(tuple(range(params[name].ndim - 1))) for name in sorted(multiplied)]
    left = ~((masks["filter"] == 0) | jnp.stack(empty).all(0))
    for name in multiplied:
        leaf = params[name]
        gate[name] = left.astype(leaf.dtype).reshape((1,) * (leaf.ndim - 1) + (-1,))
    return gate


def _multiplied(params: Tree, placement: str) -> set[str]:
    """The parameters of a maskable layer that its filter mask multiplies."""
    if "scale" not in params:
        return set(params)
    return {"scale", "bias"} if placement == "channel" else {"scale"}


@jax.jit
def ones(values: Filters) -> dict[str, Array]:
    """Masks that keep everything."""
    return {name: jnp.ones_like(value) for name, value in values.items()}


def clip(values: Filters) -> dict[str, Array]:
    """Masks projected onto [0, 1]."""
    return {name: jnp.clip(value, 0, 1) for name, value in values.items()}


def flatten(values: Filters) -> Float[np.ndarray, "F"]:
    """All mask values in one row, layers in natural order."""
    return np.concatenate([np.asarray(values[name]) for name in sorted(values, key=natural_key)])


def unflatten(row: np.ndarray, like: Filters) -> dict[str, np.ndarray]:
    """Inverse of ``flatten``."""
    names = sorted(like, key=natural_key)
    ends = np.cumsum([len(like[name]) for name in names])
    return dict(zip(names, np.split(np.asarray(row), ends[:-1]), strict=True))


def index(values: Filters) -> list[tuple[str, int]]:
    """(layer, filter) of each entry of ``flatten``."""
    return [(name, i) for name in sorted(values, key=natural_key) for i in range(len(values[name]))]


def keep(like: Filters, pruned: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Masks of ones, with zeros at the positions ``pruned`` of ``flatten``."""
    row = np.ones(sum(len(value) for value in like.values()), np.float32)
    row[np.asarray(pruned, np.int64)] = 0
    return unflatten(row, like)


def bake(variables: Variables, placement: str = "bn_scale") -> Variables:
    """Filter masks multiplied into the weights, and set to ones: the same function, as a torch file can hold it.

    A mask on batch norm multiplies its scale; in the placement ``channel`` its bias too. Layers whose mask is ones
    already, as those of most checkpoints are, keep their arrays.
    """
    values = filters(variables["masks"])
    masked = {name for name, value in jax.device_get(values).items() if (value != 1).any()}
    if not masked:
        return variables

    def walk(params: Tree, masks: Tree, prefix: str) -> Tree:
        if "neuron" not in masks:
            return {
                name: walk(node, masks[name], f"{prefix}.{name}" if prefix else name) for name, node in params.items()
            }
        if prefix not in masked:
            return params
        leaves = _multiplied(params, placement)
        mask = masks["filter"]
        return {
            name: leaf * mask.reshape((1,) * (leaf.ndim - 1) + (-1,)) if name in leaves else leaf
            for name, leaf in params.items()
        }

    masks = with_filters(variables["masks"], {**values, **ones({name: values[name] for name in masked})})
    return {**variables, "params": walk(variables["params"], variables["masks"], ""), "masks": masks}


def write_mask_values(path: str | PathLike[str], values: Filters) -> None:
    """Writes masks in the RNP release's text format (``mask_values.txt``), which keeps four decimals."""
    rows = ["No \t Layer Name \t Neuron Idx \t Mask Score \n"]
    flat = flatten(values)
    for number, ((layer, i), value) in enumerate(zip(index(values), flat, strict=True)):
        rows.append(f"{number} \t {layer} \t {i} \t {value:.4f} \n")
    write_atomic(path, "".join(rows).encode())


def read_mask_values(path: str | PathLike[str], like: Filters) -> dict[str, np.ndarray]:
    """Reads the RNP release's ``mask_values.txt`` for a network with the filter masks ``like``.

    Raises:
      DataError: a line that is not of the format, or filters that are not the network's.
      OSError: no regular file of at most 64 MiB.
    """
    found: dict[tuple[str, int], float] = {}
    try:
        text = read_regular(path, 64 * MIB).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error}") from error
    for line in text.splitlines()[1:]:
        try:
            _, layer, i, value = (part.strip() for part in line.split("\t"))
            found[layer, int(i)] = float(value)
        except ValueError as error:
            raise DataError(f"{path}: {line!r} is not 'No, layer, neuron, score' separated by tabs") from error
    places = index(like)
    if set(found) != set(places):
        surplus, lacking = sorted(set(found) - set(places))[:5], sorted(set(places) - set(found))[:5]
        raise DataError(f"{path}: its filters are not the network's: + {surplus} - {lacking}")
    return unflatten(np.array([found[place] for place in places], np.float32), like)
