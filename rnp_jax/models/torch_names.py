"""The explicit table between a network's variables and the keys of its torch state dict.

A layer's path joined by dots is its torch module's name; what remains is the leaf and the layout:

| ours | torch | layout |
|---|---|---|
| params kernel [h, w, C, F] | weight [F, C, h, w] | HWIO ↔ OIHW |
| params kernel [C, F] | weight [F, C] | transposed; after a flattened image also HWC ↔ CHW |
| params scale, bias [F] | weight, bias | as is |
| batch_stats mean, var [F] | running_mean, running_var | as is |
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rnp_jax.models.registry import Architecture
from rnp_jax.types import Tree, Variables

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

IGNORED = ("num_batches_tracked", "neuron_noise", "neuron_noise_bias")
"""Last parts of keys that no forward pass reads: torch's step counter, and the perturbations of ANP's noisy batch norm
(uninitialised in released files)."""

FILTER_MASK = "neuron_mask"
"""Last part of the key under which the RNP and ANP releases keep a batch norm's filter mask."""


class Entry(NamedTuple):
    """One parameter's place on both sides."""

    key: str
    path: tuple[str, ...]  # collection, layers …, leaf
    shape: tuple[int, ...]  # torch's


def table(shapes: Variables) -> list[Entry]:
    """Every parameter of a network whose variables have these shapes (a tree of shaped leaves)."""
    entries = []

    def walk(tree: Tree, path: tuple[str, ...]) -> None:
        for name, node in tree.items():
            if isinstance(node, Mapping):
                walk(dict(node), (*path, name))
            else:
                key = ".".join((*path[1:], _LEAVES[name]))
                entries.append(Entry(key, (*path, name), _torch_shape(node.shape)))

    for collection in ("params", "batch_stats"):
        walk(shapes[collection], (collection,))
    return entries


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    return tuple(reversed(shape))


def from_torch(value: np.ndarray, entry: Entry, architecture: Architecture) -> np.ndarray:
    """A torch tensor in our layout, float32."""
    value = value.astype(np.float32)
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2:
        return _flattened(value, entry, architecture, channels_first=True).T
    return value


def to_torch(value: np.ndarray, entry: Entry, architecture: Architecture) -> np.ndarray:
    """Inverse of ``from_torch``."""
    value = np.asarray(value)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        return _flattened(value.T, entry, architecture, channels_first=False)
    return value


def _flattened(weight: np.ndarray, entry: Entry, architecture: Architecture, *, channels_first: bool) -> np.ndarray:
    """Reorders the inputs of a linear layer that reads a flattened image, from CHW to HWC or back."""
    height, width, channels = architecture.image_shape
    reads_image = architecture.name == "mlp" and entry.path[1] == architecture.layers[0][0]
    if not reads_image or height * width == 1:
        return weight
    units = weight.shape[0]
    if channels_first:
        return weight.reshape(units, channels, height, width).transpose(0, 2, 3, 1).reshape(units, -1)
    return weight.reshape(units, height, width, channels).transpose(0, 3, 1, 2).reshape(units, -1)
