"""Reads chosen tensors of a model folder, from one file or from the parts that an index lists."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.extractors.folder_config import read_json
from rnp_jax.models.vit_names import VitEntry, check_shapes
from rnp_jax.torch_io import Checkpoint, Limits, TensorRef, check_consumed, materialise, read_checkpoint

INDEX = ".index.json"
WEIGHTS = tuple(name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX))
"""Names that weights are published under, in order of preference."""

_PART = re.compile(r"[\w.-]+\.(safetensors|bin)")


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights in a folder.

    Attributes:
      places: the file that holds each key.
      limits: limits for reading one file.
      whole: the file as read, if there is only one.
    """

    places: dict[str, Path]
    limits: Limits
    whole: Checkpoint | None = field(repr=False)

    def read(self, entries: Iterable[VitEntry]) -> tuple[dict[str, np.ndarray], str]:
        """Reads and checks the tensors of these entries; returns them and the sha256 of what was read.

        Parts that hold none of the tensors are not opened. With several parts, the sha256 is that of the lines
        'name sha256', sorted by name.

        Raises:
          CheckpointError: a part is missing or damaged, lacks a tensor that the index places there, or contains NaN.
          ArchitectureError: a tensor has another shape than its entry.
        """
        by_part: dict[Path, list[VitEntry]] = {}
        for entry in entries:
            by_part.setdefault(self.places[entry.key], []).append(entry)
        tensors: dict[str, np.ndarray] = {}
        hashes: dict[str, str] = {}
        for part, own in sorted(by_part.items()):
            checkpoint = self.whole or read_checkpoint(part, limits=self.limits)
            hashes[part.name] = checkpoint.sha256
            refs = _tensors(checkpoint)
            if missing := [entry.key for entry in own if entry.key not in refs]:
                raise CheckpointError(part, f"it has no tensor {missing[0]}, but the index says that it does")
            check_shapes(own, {key: ref.shape for key, ref in refs.items()})
            loaded = {entry.key: materialise(checkpoint, refs[entry.key]) for entry in own}
            check_consumed(loaded, loaded, part)
            tensors |= loaded
        if len(hashes) == 1:
            return tensors, next(iter(hashes.values()))
        lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes.items()))
        return tensors, hashlib.sha256(lines.encode()).hexdigest()


def open_weights(folder: Path, limits: Limits) -> Weights | None:
    """Opens the weights in a folder; returns None if there is no file with one of the names ``WEIGHTS``.

    Raises:
      CheckpointError: the file or the index cannot be read, or has another format.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        return None
    if not path.name.endswith(INDEX):
        checkpoint = read_checkpoint(path, limits=limits)
        return Weights(dict.fromkeys(_tensors(checkpoint), path), limits, checkpoint)
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(path, "there is no weight_map from tensors to file names; this is not a weight index")
    if odd := [name for name in places.values() if not _PART.fullmatch(name)]:
        raise CheckpointError(path, f"it places a tensor in {odd[0]!r:.80}, which is not the name of a file beside it")
    return Weights({key: folder / name for key, name in places.items()}, limits, None)


def _tensors(checkpoint: Checkpoint) -> dict[str, TensorRef]:
    tree = checkpoint.tree
    if not isinstance(tree, dict):
        raise CheckpointError(checkpoint.path, f"it contains a {type(tree).__name__}, not a dict of tensors")
    return {key: ref for key, ref in tree.items() if isinstance(key, str) and isinstance(ref, TensorRef)}
