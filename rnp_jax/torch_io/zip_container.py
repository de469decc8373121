"""A strict reader of the zip archives that ``torch.save`` writes since 1.6: stored members only, nothing hidden.

Format: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.9 (data descriptor), 4.3.12 (central directory),
4.3.14 to 4.3.16 (ends of it), 4.5.3 (zip64).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.source_file import Sliceable
from rnp_jax.torch_io.text import quote

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_LONGEST_NAME: Final = 1024
_MOST_FIELDS: Final = 64  # of a member's extra data; torch writes two
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_DEFLATED: Final = 8
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 1 << 0, 1 << 3, 1 << 11


@dataclass(frozen=True)
class Member:
    """One entry of the central directory, in bytes from the start of the file."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int  # where the local header begins

    @property
    def is_folder(self) -> bool:
        """Whether the entry stands for a folder, as archivers write one; it holds nothing."""
        return self.name.endswith("/")


@dataclass(frozen=True)
class Directory:
    """The entries of an archive, in its order, and where their list begins and ends."""

    members: tuple[Member, ...]
    start: int
    end: int


def read_directory(data: Sliceable, path: str | PathLike[str], limits: Limits) -> Directory:
    """What the archive says it holds.

    Raises:
      CheckpointError: the archive is truncated, or its members are too many, repeated or badly named.
    """
    start, end, count = _find_directory(data, path)
    if count > limits.members:
        raise CheckpointError(path, f"{count} zip members, more than {limits.members} (Limits.members)")
    return Directory(tuple(_read_entries(data, start, end, count, path)), start, end)


def locate_contents(
    data: Sliceable, directory: Directory, path: str | PathLike[str], unread: str | None = None
) -> tuple[dict[str, slice], list[str]]:
    """Name → where the bytes of each stored member lie, in this order, and what is odd about the archive.

    Args:
      data: the archive.
      directory: from `read_directory`.
      path: the file, for errors.
      unread: beginning of the names of members that may be compressed, since nobody reads them: they are not returned.

    Raises:
      CheckpointError: compressed, encrypted or overlapping members; headers that disagree.
    """
    extents: dict[str, slice] = {}
    anomalies = []
    position = 0
    for member in sorted(directory.members, key=lambda member: member.header):
        if member.header < position:
            raise CheckpointError(path, f"zip member {quote(member.name)} overlaps the one before it")
        if member.header > position:
            anomalies.append(f"{member.header - position} bytes before zip member {quote(member.name)} are unused")
        packed = member.method == _DEFLATED and unread is not None and member.name.startswith(unread)
        if not packed:
            _check_stored(member, path)
        first, position = _read_local_header(data, member, directory.start, path)
        if not packed and not member.is_folder:
            extents[member.name] = slice(first, first + member.size)
    if position < directory.start:
        anomalies.append(f"{directory.start - position} bytes before the zip directory are unused")
    return extents, anomalies


def check_contents(directory: Directory, checksums: Mapping[str, int], path: str | PathLike[str]) -> None:
    """Hold the CRC-32 of members, by name, against the directory's.

    Raises:
      CheckpointError: a wrong checksum.
    """
    for member in directory.members:
        if checksums.get(member.name, member.crc) != member.crc:
            raise CheckpointError(
                path, f"the checksum of zip member {quote(member.name)} is wrong: the file is damaged"
            )


def _check_stored(member: Member, path: str | PathLike[str]) -> None:
    if member.flags & ~(_DESCRIPTOR | _UTF8):
        kind = "is encrypted" if member.flags & _ENCRYPTED else f"has flags {member.flags:#x}, which torch never sets"
        raise CheckpointError(path, f"zip member {quote(member.name)} {kind}")
    if member.method or member.packed != member.size:
        raise CheckpointError(
            path,
            f"zip member {quote(member.name)} is compressed, which torch never does; unpack the archive and pack it "
            "without compression",
        )


def _find_directory(data: Sliceable, path: str | PathLike[str]) -> tuple[int, int, int]:
    """First byte, end and number of entries of the central directory."""
    place = len(data) - _END.size
    if place < 0 or data[place : place + 4] != b"PK\x05\x06":
        raise CheckpointError(path, "the zip directory is missing at the end: the file is truncated or has bytes added")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack(data[place:])
    end = place
    if place >= _LOCATOR.size and data[place - _LOCATOR.size : place - _LOCATOR.size + 4] == b"PK\x06\x07":
        end, wide = _find_directory64(data, place - _LOCATOR.size, path)
        narrow = (here, count, size, start)
        for value, wide_value, ceiling in zip(narrow, wide, (_MAX16, _MAX16, _MAX32, _MAX32), strict=True):
            if value not in (wide_value, ceiling):
                raise CheckpointError(path, "the two ends of the zip directory disagree")
        here, count, size, start = wide
    if disk or first_disk or comment or here != count or start + size != end:
        raise CheckpointError(path, "the end of the zip directory does not describe what precedes it")
    return start, end, count


def _find_directory64(
    data: Sliceable, locator: int, path: str | PathLike[str]
) -> tuple[int, tuple[int, int, int, int]]:
    _, disk, place, disks = _LOCATOR.unpack(data[locator : locator + _LOCATOR.size])
    if disk or disks != 1 or place + _END64.size != locator or data[place : place + 4] != b"PK\x06\x06":
        raise CheckpointError(path, "the zip64 locator does not point at the end of the zip directory")
    _, size, _, _, disk, first_disk, here, count, directory_size, start = _END64.unpack(data[place:locator])
    if size != _END64.size - 12 or disk or first_disk:
        raise CheckpointError(path, "the zip64 end of the directory is malformed")
    return place, (here, count, directory_size, start)


def _read_entries(data: Sliceable, start: int, end: int, count: int, path: str | PathLike[str]) -> list[Member]:
    members: dict[str, Member] = {}
    position = start
    for _ in range(count):
        if position + _CENTRAL.size > end or data[position : position + 4] != b"PK\x01\x02":
            raise CheckpointError(path, f"the zip directory breaks off after {len(members)} of {count} members")
        fields = _CENTRAL.unpack(data[position : position + _CENTRAL.size])
        _, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, _, header = fields
        name_end = position + _CENTRAL.size + lengths[0]
        name = _decode_name(data[position + _CENTRAL.size : name_end], path)
        extra = data[name_end : name_end + lengths[1]]
        position = name_end + lengths[1] + lengths[2]
        size, packed, header = _widen(extra, [size, packed, header], name, path)
        if name.endswith("/") and (size or packed):
            raise CheckpointError(path, f"zip member {quote(name)} is named as a folder, but holds {size} bytes")
        if disk or name in members:
            raise CheckpointError(path, f"zip member {quote(name)} {'is on another disk' if disk else 'appears twice'}")
        members[name] = Member(name, flags, method, crc, packed, size, header)
    if position != end:
        raise CheckpointError(path, f"the zip directory holds more than its {count} members")
    return list(members.values())


def _decode_name(raw: bytes, path: str | PathLike[str]) -> str:
    if len(raw) > _LONGEST_NAME:
        raise CheckpointError(path, f"a zip member has a name of {len(raw)} bytes, more than {_LONGEST_NAME}")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(path, f"a zip member has a name that is not UTF-8: {raw[:80]!r}") from None
    if "\\" in name or "\0" in name or ":" in name or not {"", ".", ".."}.isdisjoint(name.removesuffix("/").split("/")):
        raise CheckpointError(path, f"zip member {quote(name)} has an unsafe name, which torch never writes")
    return name


def _widen(extra: bytes, values: list[int], name: str, path: str | PathLike[str]) -> list[int]:
    """The values, those at the 32-bit ceiling replaced, in this order, from the zip64 extra field (4.5.3)."""
    if not (needed := values.count(_MAX32)):
        return values
    wide, position = b"", 0
    for _ in range(_MOST_FIELDS):
        if position + 4 > len(extra):
            break
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4 + length
        if kind == 1 and position <= len(extra):
            wide = extra[position - length : position]
    if len(wide) < 8 * needed:
        raise CheckpointError(path, f"zip member {quote(name)} lacks its 64-bit sizes")
    numbers = iter(struct.unpack_from(f"<{needed}Q", wide))
    return [next(numbers) if value == _MAX32 else value for value in values]


def _read_local_header(data: Sliceable, member: Member, limit: int, path: str | PathLike[str]) -> tuple[int, int]:
    """First byte of the member's content, and the end of the member with its data descriptor."""
    disagree = CheckpointError(path, f"the two zip headers of member {quote(member.name)} disagree")
    if member.header + _LOCAL.size > limit or data[member.header : member.header + 4] != b"PK\x03\x04":
        raise CheckpointError(path, f"zip member {quote(member.name)} has no header where the directory says")
    fields = _LOCAL.unpack(data[member.header : member.header + _LOCAL.size])
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    name_end = member.header + _LOCAL.size + name_length
    first = name_end + extra_length
    end = first + member.packed
    if end > limit:
        raise CheckpointError(path, f"zip member {quote(member.name)} reaches beyond the archive")
    name = data[member.header + _LOCAL.size : name_end]
    if (name, flags, method) != (member.name.encode(), member.flags, member.method):
        raise disagree
    if (crc, packed, size) == (0, 0, 0) and flags & _DESCRIPTOR:
        return first, end + _descriptor_length(data[end : min(end + 24, limit)], member, disagree)
    size, packed = _widen(data[name_end:first], [size, packed], member.name, path)
    if (crc, packed, size) != (member.crc, member.packed, member.size):
        raise disagree
    return first, end


def _descriptor_length(following: bytes, member: Member, disagree: CheckpointError) -> int:
    """Length of the data descriptor: checksum and twice the size, 32 or 64 bits wide, with or without a signature."""
    for layout in ("<3I", "<I2Q"):
        if max(member.size, member.packed) > _MAX32 and layout == "<3I":
            continue
        plain = struct.pack(layout, member.crc, member.packed, member.size)
        for descriptor in (b"PK\x07\x08" + plain, plain):
            if following.startswith(descriptor):
                return len(descriptor)
    raise disagree
