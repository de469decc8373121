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
| the same, elsewhere | another source's names, and one tensor or three | ``Design.names`` and ``Architecture.names`` |
| masks bound [H, W, F] | activation_bounds.N.LAYER [F, H, W] | HWC ↔ CHW, but as is behind a linear layer |
| masks bound [T, F] or [F] | activation_bounds.N.LAYER | as is |
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rnp_jax.models.naming import Names, to_theirs
from rnp_jax.models.registry import Architecture
from rnp_jax.types import Tree, Variables

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

IGNORED = ("num_batches_tracked", "neuron_noise", "neuron_noise_bias", "relative_position_index", "attn_mask")
"""Last parts of the keys that no forward pass reads: torch's step counter, the perturbations of ANP's noisy batch norm
(uninitialised in released files), and the positions and masks of Swin's windows, which follow from their size."""

UNREAD = ("aux1.", "aux2.", "AuxLogits.")
"""Beginnings of the keys of auxiliary classifiers, which are read in training only; a file keeps them as they are."""

FILTER_MASK = "neuron_mask"
"""Last part of the key under which the RNP and ANP releases store a batch norm's filter mask."""


_ATTENTION = ("query", "key", "value")
_OUTER_AXES = {"class_token": (2, 0), "pos_embedding": (1, 0), "layer_scale": (0, 2)}
"""Numbers of axes of size 1 that torch has before and after a bare value; ``Design.axes`` has a source's own."""


class TorchEntry(NamedTuple):
    """Where one parameter is stored, here and in torch.

    Attributes:
      key: its key in the state dict.
      path: its path here: collection, layers …, leaf.
      shape: shape of the whole tensor in torch.
      part: which of the tensor's ``parts`` equal blocks of rows the parameter is.
      parts: 1, or 3 if attention stores query, key and value in one tensor.
      axes: numbers of axes of size 1 that the tensor has before and after those of the parameter.
    """

    key: str
    path: tuple[str, ...]
    shape: tuple[int, ...]
    part: int = 0
    parts: int = 1
    axes: tuple[int, int] = (0, 0)


def table(shapes: Variables, architecture: Architecture) -> list[TorchEntry]:
    """The entries of all parameters of a network whose variables have these shapes (a tree of shaped leaves)."""
    entries = []

    def walk(tree: Tree, path: tuple[str, ...]) -> None:
        for name, node in tree.items():
            if isinstance(node, Mapping):
                walk(dict(node), (*path, name))
            else:
                entries.append(_entry((*path, name), node.shape, architecture))

    for collection in ("params", "batch_stats"):
        walk(shapes[collection], (collection,))
    return entries


def _entry(path: tuple[str, ...], shape: tuple[int, ...], architecture: Architecture) -> TorchEntry:
    *layers, leaf = path[1:]
    layer = ".".join(layers)
    names, axes = _naming(layer, architecture)
    name = to_theirs(layer, names)
    if leaf == "value":
        whole_name = to_theirs(name, architecture.names)
        return TorchEntry(whole_name, path, (1,) * axes[0] + shape + (1,) * axes[1], axes=axes)
    axes = axes if leaf == "kernel" else (0, 0)
    torch_shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else tuple(reversed(shape)) + (1,) * axes[1]
    attention, _, part = layer.rpartition(".")
    whole = to_theirs(attention, names)
    if part in _ATTENTION and attention.endswith(".in_proj") and name == f"{whole}.{part}":
        separator = "_" if whole == attention else "."  # torch's attention has bare tensors
        key = to_theirs(f"{whole}{separator}{_LEAVES[leaf]}", architecture.names)
        torch_shape = (len(_ATTENTION) * torch_shape[0], *torch_shape[1:])
        return TorchEntry(key, path, torch_shape, _ATTENTION.index(part), len(_ATTENTION))
    name = layer if layer in dict(architecture.layers) else to_theirs(name, architecture.names)
    return TorchEntry(f"{name}.{_LEAVES[leaf]}", path, torch_shape, axes=axes)


def _naming(layer: str, architecture: Architecture) -> tuple[Names, tuple[int, int]]:
    """The source's name table, and the numbers of axes of size 1 around the layer's parameter."""
    if architecture.name == "mlp":
        return (), (0, 0)
    design, last = architecture.design, layer.rpartition(".")[2]
    axes = {**_OUTER_AXES, **dict(design.axes)}
    return design.names, axes.get(layer, axes.get(last, (0, 0)))


def from_torch(value: np.ndarray, entry: TorchEntry, architecture: Architecture) -> np.ndarray:
    """Converts a torch tensor, or the entry's part of it, to our layout, float32."""
    rows = len(value) // entry.parts
    value = value[entry.part * rows : (entry.part + 1) * rows].astype(np.float32, copy=False)
    value = value.reshape(value.shape[entry.axes[0] : value.ndim - entry.axes[1]])
    if entry.path[-1] == "value":
        return value
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
        value = _flattened(value.T, entry, architecture, channels_first=False)
        return value.reshape(*value.shape, *(1,) * entry.axes[1])
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
