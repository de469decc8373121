"""The three containers, written: zip and the format before 1.6 as ``torch.save`` lays them out, and safetensors."""

import json
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO, Final

from rnp_jax.torch_io.checkpoint import ByteOrder
from rnp_jax.torch_io.legacy_container import MAGIC, PROTOCOL
from rnp_jax.torch_io.nodes import StorageRef
from rnp_jax.torch_io.pickle_emitter import PickleEmitter
from rnp_jax.torch_io.safetensors_container import METADATA

Buffer = bytes | bytearray

_ALIGNMENT: Final = 64
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same content gives the same file
_WIDE: Final = 2**31 / 1.05  # from here on zipfile adds 20 bytes of 64-bit sizes to a header
_SYSTEM: Final = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


def write_zip(file: BinaryIO, root: str, pickle: bytes, storages: Mapping[str, Buffer], byteorder: ByteOrder) -> None:
    """A zip archive of stored members, each beginning at a multiple of 64 bytes, all in the folder `root`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, content: Buffer) -> None:
            info = zipfile.ZipInfo(f"{root}/{name}", _EPOCH)
            header = 30 + len(info.filename.encode()) + 4 + (20 if len(content) >= _WIDE else 0)
            padding = -(file.tell() + header) % _ALIGNMENT
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            with archive.open(info, "w", force_zip64=len(content) >= _WIDE) as member:
                member.write(content)

        write("data.pkl", pickle)
        write(".format_version", b"1")
        write(".storage_alignment", str(_ALIGNMENT).encode())
        write("byteorder", byteorder.encode())
        for key, content in storages.items():
            write(f"data/{key}", content)
        write("version", b"3\n")


def write_legacy(file: BinaryIO, pickle: bytes, refs: Mapping[str, StorageRef], storages: Mapping[str, Buffer]) -> None:
    """The container before 1.6: five pickles, then the little-endian storages in the order of their keys."""
    keys = sorted(refs)
    for value in (MAGIC, PROTOCOL, _SYSTEM):
        file.write(PickleEmitter().emit(value))
    file.write(pickle)
    file.write(PickleEmitter().emit(keys))
    for key in keys:
        file.write(struct.pack("<q", refs[key].numel))
        file.write(storages[key])


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, tuple[str, tuple[int, ...], Buffer]], metadata: Mapping[str, str]
) -> None:
    """A safetensors file of little-endian row-major tensors, each given as its dtype (``F32``), shape and bytes."""
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    position = 0
    for name, (dtype, shape, content) in tensors.items():
        end = position + len(content)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for _, _, content in tensors.values():
        file.write(content)
