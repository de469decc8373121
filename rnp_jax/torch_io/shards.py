"""A checkpoint in several files: the index that Hugging Face's libraries write, and the shards that it names."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.checkpoint import Checkpoint, Place
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Node, TensorRef
from rnp_jax.torch_io.plain_json import parse_json
from rnp_jax.torch_io.source_file import SourceFile
from rnp_jax.torch_io.text import quote

_MOST_SHARDS: Final = 100  # each stays open
_SHARD: Final = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})\.(safetensors|bin)", re.ASCII)


@dataclass(frozen=True)
class Shards:
    """What the shards hold together.

    Attributes:
      tree: the tensors by name, in the order of the index.
      places: where the bytes of each of their storages are.
      files: names of the shards.
      sha256: of the lines 'name sha256' of the index and the shards, sorted by name.
      metadata: of the first shard.
      anomalies: of all shards.
    """

    tree: dict[str, TensorRef]
    places: dict[str, Place]
    files: tuple[str, ...]
    sha256: str
    metadata: Mapping[str, str]
    anomalies: list[str]


def check_whole(path: str | PathLike[str]) -> None:
    """Refuses one shard of several, which holds a part of a network, by its name.

    Raises:
      CheckpointError: it is one; the error names the index.
    """
    named = _SHARD.fullmatch(Path(path).name)
    if named and int(named[3]) > 1:
        index = quote(f"{named[1]}.{named[4]}.index.json")
        raise CheckpointError(path, f"one of {int(named[3])} shards of a network; give their index instead: {index}")


def read_shards(
    index: SourceFile, path: str | PathLike[str], limits: Limits, read: Callable[[Path, Limits], Checkpoint]
) -> Shards:
    """All tensors that an index names, from shards that lie beside it.

    Args:
      index: the index.
      path: its path.
      limits: what all shards together may cost.
      read: reads one shard.

    Raises:
      CheckpointError: no index, one that does not say what its shards hold, or shards that cannot be read.
    """
    where = _read_index(index, path, limits)
    names = tuple(dict.fromkeys(where.values()))
    if len(names) > _MOST_SHARDS:
        raise CheckpointError(path, f"{len(names)} shards, more than {_MOST_SHARDS}")
    parts: dict[str, TensorRef] = {}
    places: dict[str, Place] = {}
    digests = {Path(path).name: index.digest()[0]}
    anomalies, metadata, left = [], {}, limits.file_bytes
    for number, name in enumerate(names):
        shard = read(Path(path).parent / name, replace(limits, file_bytes=left))
        left = max(0, left - shard.path.stat().st_size)
        for tensor, ref in _list_tensors(shard, name, where, path):
            parts[tensor] = replace(ref, storage=replace(ref.storage, key=f"{number} {ref.storage.key}"))
        places |= {f"{number} {key}": place for key, place in shard.records.places.items()}
        anomalies += [f"{quote(name)}: {sentence}" for sentence in shard.anomalies]
        digests[name] = shard.sha256
        metadata = metadata or shard.metadata
    if missing := next((tensor for tensor in where if tensor not in parts), None):
        raise CheckpointError(path, f"shard {quote(where[missing])} lacks the tensor {quote(missing)}")
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    return Shards({tensor: parts[tensor] for tensor in where}, places, names, sha256, metadata, anomalies)


def _read_index(index: SourceFile, path: str | PathLike[str], limits: Limits) -> dict[str, str]:
    """The name of the shard of each tensor."""
    if len(index) > limits.header_bytes:
        raise CheckpointError(path, f"an index of {len(index)} bytes, more than {limits.header_bytes} (header_bytes)")
    value = parse_json(index[:], path, "what begins as an index of shards")
    where = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(where, dict) or not where:
        raise CheckpointError(path, "JSON without a weight_map: neither a checkpoint nor the index of one's shards")
    if len(where) > limits.members:
        raise CheckpointError(path, f"{len(where)} tensors, more than {limits.members} (Limits.members)")
    for name in where.values():
        if type(name) is not str or not re.fullmatch(r"[\w-][\w.-]{0,254}", name, re.ASCII):
            raise CheckpointError(path, f"{quote(name)} is no name of a shard that lies beside its index")
    return where


def _list_tensors(
    shard: Checkpoint, name: str, where: Mapping[str, str], path: str | PathLike[str]
) -> Iterator[tuple[str, TensorRef]]:
    tree: Node = shard.tree
    if not isinstance(tree, dict):
        raise CheckpointError(path, f"shard {quote(name)} holds no dict of tensors")
    if shard.byteorder != "little":
        raise CheckpointError(path, f"shard {quote(name)} is of a big-endian machine, which is not supported")
    for tensor, ref in tree.items():
        if not isinstance(ref, TensorRef):
            raise CheckpointError(path, f"{quote(tensor)} in shard {quote(name)} is not a dense tensor")
        if where.get(tensor) != name:
            raise CheckpointError(path, f"shard {quote(name)} holds {quote(tensor)}, but the index does not say so")
        yield tensor, ref
