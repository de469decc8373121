"""The explicit table that maps a vision transformer's parameters to the keys of published files.

The dicts below map each module's key to its name here. A module's ``weight`` is our ``kernel`` (transposed; patches
[D, C, h, w] ↔ [h·w·C, D]), or ``scale`` for a norm.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from rnp_jax.errors import ArchitectureError
from rnp_jax.models.vit import Family, VitShape
from rnp_jax.types import Tree

_ROOTS: dict[Family, tuple[str, ...]] = {"clip": ("vision_model.", ""), "vit": ("vit.", "")}
"""Prefixes of the tower's keys: inside a larger model, and alone."""

_TOKENS: dict[Family, dict[str, str]] = {
    "clip": {
        "embeddings.class_embedding": "class_token",
        "embeddings.position_embedding.weight": "position",
        "embeddings.patch_embedding": "patch_embedding",
        "pre_layrnorm": "pre_norm",  # as it is spelled in the files
        "post_layernorm": "norm",
    },
    "vit": {
        "embeddings.cls_token": "class_token",
        "embeddings.position_embeddings": "position",
        "embeddings.patch_embeddings.projection": "patch_embedding",
        "layernorm": "norm",
    },
}
_BLOCK: dict[Family, tuple[str, dict[str, str]]] = {
    "clip": (
        "encoder.layers",
        {
            "layer_norm1": "norm1",
            "self_attn.q_proj": "query",
            "self_attn.k_proj": "key",
            "self_attn.v_proj": "value",
            "self_attn.out_proj": "out",
            "layer_norm2": "norm2",
            "mlp.fc1": "fc1",
            "mlp.fc2": "fc2",
        },
    ),
    "vit": (
        "encoder.layer",
        {
            "layernorm_before": "norm1",
            "attention.attention.query": "query",
            "attention.attention.key": "key",
            "attention.attention.value": "value",
            "attention.output.dense": "out",
            "layernorm_after": "norm2",
            "intermediate.dense": "fc1",
            "output.dense": "fc2",
        },
    ),
}
PROJECTION = "visual_projection.weight"
"""CLIP's projection of the class token, which is outside the tower."""

_UNREAD: dict[Family, tuple[str, ...]] = {
    "clip": ("text_model.", "text_projection.", "logit_scale", "{root}embeddings.position_ids"),
    "vit": ("{root}pooler.", "{root}embeddings.mask_token", "classifier.", "decoder."),
}
"""Prefixes of the keys that features do not depend on: the text tower, and heads on top of the tower."""

_SHOWN = 12  # lines of a ± list


class VitEntry(NamedTuple):
    """Where one parameter is stored, here and in the file."""

    key: str
    path: tuple[str, ...]
    shape: tuple[int, ...]  # in the file


def find_root(family: Family, keys: Iterable[str]) -> str:
    """The prefix of the tower's keys.

    Raises:
      ArchitectureError: there is no tower.
    """
    first = next(iter(_TOKENS[family]))
    known = set(keys)
    for root in _ROOTS[family]:
        if root + first in known:
            return root
    tried = " or ".join(root + first for root in _ROOTS[family])
    seen = ", ".join(sorted(known)[:5])
    raise ArchitectureError(f"no {family} image tower: {tried} is missing; there is {seen or 'no tensor at all'}")


def entries(shape: VitShape, root: str) -> list[VitEntry]:
    """The entries of all parameters of the tower under ``root``."""
    found = []
    for key, name in _TOKENS[shape.family].items():
        found += _of_module(shape, root + key, (name,))
    block, modules = _BLOCK[shape.family]
    for i in range(shape.depth):
        for key, name in modules.items():
            found += _of_module(shape, f"{root}{block}.{i}.{key}", (f"block{i}", name))
    if shape.projection is not None:
        found.append(VitEntry(PROJECTION, ("projection", "kernel"), (shape.projection, shape.width)))
    return found


def check_keys(shape: VitShape, root: str, keys: Iterable[str]) -> None:
    """Checks that a file's keys are those of the table, ignoring keys that features do not depend on.

    Raises:
      ArchitectureError: they differ; the error lists the missing (-) and unexpected (+) keys.
    """
    expected = {entry.key for entry in entries(shape, root)}
    unread = tuple(start.format(root=root) for start in _UNREAD[shape.family])
    present = {key for key in keys if key in expected or not key.startswith(unread)}
    lines = [f" - {key}" for key in sorted(expected - present)] + [f" + {key}" for key in sorted(present - expected)]
    if lines:
        raise ArchitectureError(
            f"the keys are not those of a {shape.family} image tower of {shape.depth} blocks (- missing, + unexpected):"
            "\n" + _shorten(lines)
        )


def check_shapes(expected: Iterable[VitEntry], found: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that shapes are those of the configuration; ``found`` has every expected key.

    Raises:
      ArchitectureError: they differ; the error lists the keys.
    """
    lines = [f" {key}: {found[key]}, expected {shape}" for key, _, shape in expected if tuple(found[key]) != shape]
    if lines:
        raise ArchitectureError("tensors do not have the shapes that config.json states:\n" + _shorten(lines))


def from_tensors(shape: VitShape, root: str, tensors: Mapping[str, np.ndarray]) -> Tree:
    """Builds the parameters, float32, from tensors that have been checked."""
    params: Tree = {}
    for key, path, _ in entries(shape, root):
        node = params
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = _from_torch(tensors[key].astype(np.float32), path)
    return params


def _from_torch(value: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    if path == ("class_token",):
        return value.reshape(-1)
    if path == ("position",):
        return value.reshape(-1, value.shape[-1])
    if path == ("patch_embedding", "kernel"):
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    return value.T if path[-1] == "kernel" else value


def _of_module(shape: VitShape, key: str, path: tuple[str, ...]) -> list[VitEntry]:
    name, width, clip = path[-1], shape.width, shape.family == "clip"
    if name == "class_token":
        return [VitEntry(key, path, (width,) if clip else (1, 1, width))]
    if name == "position":
        return [VitEntry(key, path, (shape.tokens, width) if clip else (1, shape.tokens, width))]
    if "norm" in name:
        return [
            VitEntry(f"{key}.weight", (*path, "scale"), (width,)),
            VitEntry(f"{key}.bias", (*path, "bias"), (width,)),
        ]
    weight = {
        "patch_embedding": (width, shape.image_shape[2], *shape.patch),
        "fc1": (shape.hidden, width),
        "fc2": (width, shape.hidden),
    }.get(name, (width, width))
    has_bias = not clip if name == "patch_embedding" else shape.attention_bias or name not in ("query", "key", "value")
    bias = [VitEntry(f"{key}.bias", (*path, "bias"), weight[:1])] if has_bias else []
    return [VitEntry(f"{key}.weight", (*path, "kernel"), weight), *bias]


def count_bytes(shape: VitShape) -> int:
    """Size in bytes of the tower's float32 parameters, computed from the sizes alone."""
    return 4 * sum(math.prod(entry.shape) for entry in entries(shape, ""))


def _shorten(lines: list[str]) -> str:
    rest = len(lines) - _SHOWN
    return "\n".join(lines[:_SHOWN] + ([f" … and {rest} more"] if rest > 0 else []))
