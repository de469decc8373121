"""The explicit table that maps a network's variables to the keys of its torch state dict.

A layer's path, joined by dots, is the name of its torch module. The table gives the leaves and their layouts:

| ours | torch | layout |
|---|---|---|
| params kernel [h, w, C, F] | weight [F, C, h, w] | HWIO ↔ OIHW |
| params kernel [C, F] | weight [F, C] | transposed; after a flattened image also HWC ↔ CHW |
| params scale, bias [F] | weight, bias | as is |
| params value [F] or [T, F] | no leaf: the layer's own name | as in torch, without axes of 1 |
| in_proj.{query, key, value} | in_proj_weight, in_proj_bias | rows of attention's one tensor |
| batch_stats mean, var [F] | running_mean, running_var | as is |
| masks bound [H, W, F] | activation_bounds.N.LAYER [F, H, W] | HWC ↔ CHW, but as is behind a linear layer |
| masks bound [T, F] or [F] | activation_bounds.N.LAYER | as is |
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
"""Last parts of the keys that no forward pass reads: torch's step counter, and the perturbations of ANP's noisy batch
norm (uninitialised in released files)."""

FILTER_MASK = "neuron_mask"
"""Last part of the key under which the RNP and ANP releases store a batch norm's filter mask."""


_ATTENTION = ("query", "key", "value")
_OUTER_AXES = {"class_token": (2, 0), "pos_embedding": (1, 0), "layer_scale": (0, 2)}
"""Numbers of axes of size 1 that torch has before and after a bare value."""


class TorchEntry(NamedTuple):
    """Where one parameter is stored, here and in torch.

    Attributes:
      key: its key in the state dict.
      path: its path here: collection, layers …, leaf.
      shape: shape of the whole tensor in torch.
      part: which of the tensor's ``parts`` equal blocks of rows the parameter is.
      parts: 1, or 3 if attention stores query, key and value in one tensor.
    """

    key: str
    path: tuple[str, ...]
    shape: tuple[int, ...]
    part: int = 0
    parts: int = 1


def table(shapes: Variables) -> list[TorchEntry]:
    """The entries of all parameters of a network whose variables have these shapes (a tree of shaped leaves)."""
    entries = []

    def walk(tree: Tree, path: tuple[str, ...]) -> None:
        for name, node in tree.items():
            if isinstance(node, Mapping):
                walk(dict(node), (*path, name))
            else:
                entries.append(_entry((*path, name), node.shape))

    for collection in ("params", "batch_stats"):
        walk(shapes[collection], (collection,))
    return entries


def _entry(path: tuple[str, ...], shape: tuple[int, ...]) -> TorchEntry:
    *layer, leaf = path[1:]
    name = ".".join(layer)
    if leaf == "value":
        leading, trailing = _outer_axes(name)
        return TorchEntry(name, path, (1,) * leading + shape + (1,) * trailing)
    torch_shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else tuple(reversed(shape))
    whole, _, part = name.rpartition(".in_proj.")
    if part in _ATTENTION:
        shape = (len(_ATTENTION) * torch_shape[0], *torch_shape[1:])
        return TorchEntry(f"{whole}.in_proj_{_LEAVES[leaf]}", path, shape, _ATTENTION.index(part), len(_ATTENTION))
    return TorchEntry(f"{name}.{_LEAVES[leaf]}", path, torch_shape)


def _outer_axes(key: str) -> tuple[int, int]:
    return _OUTER_AXES.get(key.rpartition(".")[2], (0, 0))


def from_torch(value: np.ndarray, entry: TorchEntry, architecture: Architecture) -> np.ndarray:
    """Converts a torch tensor, or the entry's part of it, to our layout, float32."""
    rows = len(value) // entry.parts
    value = value[entry.part * rows : (entry.part + 1) * rows].astype(np.float32, copy=False)
    if entry.path[-1] == "value":
        leading, trailing = _outer_axes(entry.key)
        return value.reshape(value.shape[leading : value.ndim - trailing])
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2:
        return _flattened(value, entry, architecture, channels_first=True).T
    return value


def to_torch(value: np.ndarray, entry: TorchEntry, architecture: Architecture) -> np.ndarray:
    """The inverse of ``from_torch``."""
    value = np.asarray(value)
    if entry.path[-1] == "value":
        return value.reshape(entry.shape)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        return _flattened(value.T, entry, architecture, channels_first=False)
    return value


def _flattened(
    weight: np.ndarray, entry: TorchEntry, architecture: Architecture, *, channels_first: bool
) -> np.ndarray:
    """Reorders the inputs of a linear layer that reads a flattened image, from CHW to HWC or back."""
    height, width, channels = architecture.image_shape
    reads_image = architecture.name == "mlp" and entry.path[1] == architecture.layers[0][0]
    if not reads_image or height * width == 1:
        return weight
    units = weight.shape[0]
    if channels_first:
        return weight.reshape(units, channels, height, width).transpose(0, 2, 3, 1).reshape(units, -1)
    return weight.reshape(units, height, width, channels).transpose(0, 3, 1, 2).reshape(units, -1)
