"""Reading a checkpoint file that nobody trusts: no import, no call, no torch; a typed error or an inert tree."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.array_tensors import read_arrays
from rnp_jax.torch_io.checkpoint import ByteOrder, Checkpoint, Place, Records
from rnp_jax.torch_io.legacy_container import read_legacy
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.nodes import Location, Node, Opaque, StorageRef, TensorRef, check_tree, walk
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_machine import PickleMachine
from rnp_jax.torch_io.safetensors_container import read_safetensors
from rnp_jax.torch_io.shards import read_shards
from rnp_jax.torch_io.source_file import Container, SourceFile, find_checkpoints, identify
from rnp_jax.torch_io.storages import StorageTable
from rnp_jax.torch_io.text import format_path, quote
from rnp_jax.torch_io.whole_module import read_modules
from rnp_jax.torch_io.zip_container import check_contents, locate_contents, read_directory

_MOST_OPAQUE_KINDS: Final = 50
_CONSTANTS, _CODE, _EXTRA = "constants.pkl", "code/", "extra/"  # of a TorchScript program; never read
_KNOWN_RECORDS: Final = {
    *("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
}


@dataclass
class _Contents:
    sha256: str
    tree: Node
    refs: Mapping[str, StorageRef]
    extents: dict[str, slice]
    byteorder: ByteOrder = "little"
    root: str = "archive"
    metadata: dict[str, str] = field(default_factory=dict)
    anomalies: list[str] = field(default_factory=list)


def read_checkpoint(
    path: str | PathLike[str], *, limits: Limits = DEFAULT_LIMITS, check_crc: bool = True
) -> Checkpoint:
    """Read a checkpoint of PyTorch (zip, or the format before 1.6) or safetensors without executing anything in it.

    Args:
      path: a regular file, or a symbolic link to one; for a checkpoint in several files, their index.
      limits: what it may cost.
      check_crc: False accepts zip members whose checksum is wrong, and says so among the anomalies.

    Raises:
      CheckpointError: it cannot be read, is hostile, damaged, too large or of an unsupported kind.
    """
    file = SourceFile(path, limits)
    container = identify(file, path)
    if container == "index":
        return _read_shards(file, path, limits, check_crc)
    return _read_file(file, container, path, limits, check_crc)


def _read_shards(file: SourceFile, path: str | PathLike[str], limits: Limits, check_crc: bool) -> Checkpoint:
    def read(shard: Path, left: Limits) -> Checkpoint:
        source = SourceFile(shard, left)
        container = identify(source, shard)
        if container == "index":
            raise CheckpointError(shard, "an index of shards where a shard belongs")
        return _read_file(source, container, shard, left, check_crc)

    found = read_shards(file, path, limits, read)
    count = len(found.files)
    sentence = f"{count} shard{'s' * (count > 1)}, read as one checkpoint, which is written as one safetensors file"
    return Checkpoint(
        path=Path(path),
        sha256=found.sha256,
        container="safetensors",
        byteorder="little",
        tree=found.tree,
        anomalies=(sentence, *found.anomalies),
        root="archive",
        metadata=found.metadata,
        records=Records(found.places),
        limits=limits,
        files=found.files,
    )


def _read_file(
    file: SourceFile, container: Container, path: str | PathLike[str], limits: Limits, check_crc: bool
) -> Checkpoint:
    if container == "zip":
        contents = _read_zip(file, path, limits, check_crc)
    elif container == "legacy":
        tree, table, extents = read_legacy(file, path, limits)
        contents = _Contents(file.digest()[0], tree, table.refs, extents)
    else:
        tree, extents, metadata = read_safetensors(file, path, limits)
        contents = _Contents(file.digest()[0], tree, {}, extents, metadata=metadata)
    check_tree(contents.tree, path, limits)
    contents.tree, modules = read_modules(contents.tree, path, limits)
    held, arrays = read_arrays(contents.tree, contents.byteorder, contents.extents)
    if isinstance(contents.tree, Opaque):
        raise CheckpointError(path, f"{quote(contents.tree.name)}: the file holds one object and no tensors")
    _check_storages(contents, container, path)
    places = {key: Place(file, extent.start, extent.stop) for key, extent in contents.extents.items()}
    return Checkpoint(
        path=Path(path),
        sha256=contents.sha256,
        container=container,
        byteorder=contents.byteorder,
        tree=contents.tree,
        anomalies=(*contents.anomalies, *modules, *arrays, *_describe_opaque(contents.tree)),
        root=contents.root,
        metadata=contents.metadata,
        records=Records(places | held),
        limits=limits,
    )


def _read_zip(file: SourceFile, path: str | PathLike[str], limits: Limits, check_crc: bool) -> _Contents:
    directory = read_directory(file, path, limits)
    names = [member.name for member in directory.members if not member.is_folder]
    root = _find_root(names, path)
    members, anomalies = locate_contents(file, directory, path, unread=f"{root}/{_CODE}")
    sha256, checksums = file.digest(list(members.values()))
    if check_crc:
        check_contents(directory, dict(zip(members, checksums, strict=True)), path)
    else:
        anomalies.append("the checksums of the zip members were not checked")
    name, extent = quote(f"{root}/data.pkl"), members[f"{root}/data.pkl"]
    if extent.stop - extent.start > limits.pickle_bytes:
        raise CheckpointError(path, f"{name} is larger than {limits.pickle_bytes} bytes (Limits.pickle_bytes)")
    pickle = file[extent]
    table = StorageTable(path)
    cursor = PickleCursor(pickle, path, name, limits)
    tree = PickleMachine(cursor, table.load).run()
    if cursor.position != len(pickle):
        raise CheckpointError(path, f"{len(pickle) - cursor.position} bytes follow the end of the pickle {name}")
    if _is_program(name.removeprefix(f"{root}/") for name in names):
        _check_program(tree, table, path)
    folder = f"{root}/data/"
    extents = {name.removeprefix(folder): extent for name, extent in members.items() if name.startswith(folder)}
    anomalies += _describe_members(names, root, table)
    byteorder = _read_byteorder(file, members.get(f"{root}/byteorder"), path)
    return _Contents(sha256, tree, table.refs, extents, byteorder, root, {}, anomalies)


def _find_root(names: Sequence[str], path: str | PathLike[str]) -> str:
    """The only folder at the top of the archive, which must hold a pickle."""
    roots = {name.partition("/")[0] for name in names}
    inner = {name.partition("/")[2] for name in names}
    if {"archive_format", "serialized_exported_program.json"} & {*inner, *names}:
        raise CheckpointError(path, "a .pt2 program (torch.export.save); save the model's state_dict() instead")
    if "data.pkl" not in inner and _is_program(inner):
        raise CheckpointError(path, "a TorchScript program of torch before 1.3; save its state_dict() instead")
    if "data.pkl" not in inner and (held := find_checkpoints(names)):
        raise CheckpointError(path, f"a zip archive that holds {held}; extract it and give that file")
    if "data.pkl" not in inner:
        raise CheckpointError(path, "a zip archive without data.pkl, not a PyTorch checkpoint")
    if len(roots) != 1:
        raise CheckpointError(path, f"a zip archive with {len(roots)} folders at its top; torch writes one")
    read = (name for name in inner if not name.startswith((_CODE, _EXTRA)))
    if confusing := next((name for name in read if name != name.lower()), None):
        raise CheckpointError(
            path, f"zip member {quote(confusing)} has capital letters: torch ignores case and could read another member"
        )
    return roots.pop()


def _is_program(names: Iterable[str]) -> bool:
    return any(name == _CONSTANTS or name.startswith(_CODE) for name in names)


def _check_program(tree: Node, table: StorageTable, path: str | PathLike[str]) -> None:
    if not isinstance(tree, Opaque) or tree.state is None:
        raise CheckpointError(path, "code of a TorchScript program beside a pickle that holds no module of it")
    if not table.refs:
        reason = "its tensors are constants of its code and have no names; save it before torch.jit.freeze"
        raise CheckpointError(path, f"a TorchScript program: {reason}")


def _read_byteorder(file: SourceFile, extent: slice | None, path: str | PathLike[str]) -> ByteOrder:
    match b"little" if extent is None else file[extent.start : min(extent.stop, extent.start + 16)]:
        case b"little":
            return "little"
        case b"big":
            return "big"
        case other:
            raise CheckpointError(path, f"byte order {quote(other)}; 'little' and 'big' are known")


def _describe_members(names: Sequence[str], root: str, table: StorageTable) -> list[str]:
    anomalies = []
    if f"{root}/byteorder" not in names:
        anomalies.append("no byteorder record, as before torch 2.1: little endian is assumed")
    known = {f"{root}/{name}" for name in _KNOWN_RECORDS} | {f"{root}/data/{key}" for key in table.refs}
    unread = [name for name in names if name not in known]
    if unread:
        shown = ", ".join(quote(name) for name in unread[:5]) + (", ..." if len(unread) > 5 else "")
        anomalies.append(f"{len(unread)} zip members that no tensor uses, left unread: {shown}")
    return anomalies


def _check_storages(contents: _Contents, container: str, path: str | PathLike[str]) -> None:
    for key, storage in contents.refs.items():
        extent = contents.extents.get(key)
        held = None if extent is None else extent.stop - extent.start
        if held == storage.nbytes:
            continue
        user = next((place for place, ref in _tensors(contents.tree) if ref.storage.key == key), None)
        who = f"tensor {format_path(user)}" if user else "an unread object"
        name = quote(f"{contents.root}/data/{key}" if container == "zip" else key)
        if held is None:
            raise CheckpointError(path, f"{who} needs the storage {name}, which is missing from the file")
        raise CheckpointError(
            path,
            f"the storage {name} holds {held} bytes, but {who} claims {storage.numel} {storage.dtype} elements",
        )


def _tensors(tree: Node) -> list[tuple[Location, TensorRef]]:
    return [(place, node) for place, node in walk(tree) if isinstance(node, TensorRef)]


def _describe_opaque(tree: Node) -> list[str]:
    """One sentence for each kind of unread object below each key of the root."""
    groups: dict[tuple[Location, str], int] = {}
    for place, node in walk(tree):
        opaque = [node] if isinstance(node, Opaque) else []
        if isinstance(node, dict):
            opaque += [key for key in node if isinstance(key, Opaque)]
        for found in opaque:
            group = (place[:1], found.name)
            groups[group] = groups.get(group, 0) + 1
    sentences = [
        f"{format_path(place)}: {quote(name)[1:-1]}, left unread" + (f" ({count} times)" if count > 1 else "")
        for (place, name), count in itertools.islice(groups.items(), _MOST_OPAQUE_KINDS)
    ]
    if (rest := len(groups) - len(sentences)) > 0:
        sentences.append(f"{rest} more kinds of objects, left unread")
    return sentences
