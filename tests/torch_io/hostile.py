"""Checkpoint files made by hand, byte by byte, so that every field of them can lie."""

import struct
import zlib
from dataclasses import dataclass

STOP = b"."
PROTO = b"\x80\x02"
MAGIC = PROTO + b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + STOP
COMMAND = "touch pwned"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(values) -> bytes:
    return tuple_(*map(integer, values))


def list_(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def ordered(*, state: bytes = b"", **items: bytes) -> bytes:
    """An OrderedDict; `state` is what BUILD gives it."""
    body = b"".join(text(key) + value for key, value in items.items())
    return name("collections", "OrderedDict") + b")R(" + body + b"u" + (state + b"b" if state else b"")


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + tuple_(*arguments) + b"R"


def storage(key="0", numel=4, kind="FloatStorage", place="cpu", view: bytes = b"") -> bytes:
    return tuple_(text("storage"), name("torch", kind), text(key), text(place), integer(numel), view) + b"Q"


def tensor(
    key="0", numel=4, kind="FloatStorage", *, place="cpu", offset=0, shape=(2, 2), strides=(2, 1), view=b""
) -> bytes:
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage(key, numel, kind, place, view),
        integer(offset),
        integers(shape),
        integers(strides),
        b"\x89",
        name("collections", "OrderedDict") + b")R",
    )


def pickled(root: bytes) -> bytes:
    return PROTO + root + STOP


FOUR = struct.pack("<4f", 1, 2, 3, 4)


@dataclass
class Member:
    """A zip member and the lies its headers tell."""

    name: str | bytes
    content: bytes = b""
    method: int = 0
    flags: int = 0
    size: int | None = None
    crc: int | None = None
    local_name: str | None = None
    header: int | None = None  # where the directory says the local header is

    def fields(self) -> tuple[bytes, int, int]:
        raw = self.name if isinstance(self.name, bytes) else self.name.encode()
        size = len(self.content) if self.size is None else self.size
        return raw, zlib.crc32(self.content) if self.crc is None else self.crc, size


def archive(*members: Member) -> bytes:
    body, directory = b"", b""
    for member in members:
        raw, crc, size = member.fields()
        local = raw if member.local_name is None else member.local_name.encode()
        header = len(body) if member.header is None else member.header
        body += struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, member.flags, member.method, 0, 0, crc,
                            len(member.content), size, len(local), 0) + local + member.content  # fmt: skip
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, member.flags, member.method, 0, 0, crc,
                                 len(member.content), size, len(raw), 0, 0, 0, 0, 0, header) + raw  # fmt: skip
    count = len(members)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


def torch_members(root: bytes, storages: dict[str, bytes] | None = None, byteorder: bytes | None = b"little"):
    """The members that torch.save would write for a pickle body."""
    storages = {"0": FOUR} if storages is None else storages
    return [
        Member("archive/data.pkl", pickled(root)),
        *([Member("archive/byteorder", byteorder)] if byteorder is not None else []),
        *(Member(f"archive/data/{key}", content) for key, content in storages.items()),
        Member("archive/version", b"3\n"),
    ]


def torch_zip(root: bytes, storages: dict[str, bytes] | None = None, byteorder: bytes | None = b"little") -> bytes:
    return archive(*torch_members(root, storages, byteorder))


GOOD = dict_(state_dict=ordered(w=tensor()))


def with_tensor(body: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A zip checkpoint whose state dict holds one value."""
    return torch_zip(dict_(state_dict=ordered(w=body)), storages)


def beside_tensor(payload: bytes) -> bytes:
    """A zip checkpoint whose state dict holds a good tensor and a payload."""
    return torch_zip(dict_(state_dict=ordered(w=tensor(), x=payload)))


def legacy(
    root: bytes = GOOD, *, system: bytes | None = None, keys: bytes = list_(text("0")), storages: bytes | None = None
) -> bytes:
    """The container before torch 1.6; a storage's persistent id needs ``view=b"N"`` there."""
    if system is None:
        system = dict_(protocol_version=integer(1001), little_endian=b"\x88", type_sizes=dict_(short=integer(2)))
    if storages is None:
        storages = struct.pack("<q", 4) + FOUR
    return MAGIC + pickled(integer(1001)) + pickled(system) + pickled(root) + pickled(keys) + storages
