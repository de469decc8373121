"""Reading an untrusted file, bounded and only as long as it does not change, and telling what kind of file it is."""

import hashlib
import os
import tarfile
import weakref
import zlib
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Final, Literal, Protocol

from rnp_jax.errors import CheckpointError
from rnp_jax.regular_file import open_descriptor
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.text import quote

Container = Literal["zip", "legacy", "safetensors"]
CONTAINERS: Final[tuple[Container, ...]] = ("zip", "legacy", "safetensors")

_CHANGED: Final = "the file changed while it was read; wait until it is complete and try again"
_WINDOW: Final = 2**16
_PIECE: Final = 2**18  # stays in a processor's cache between two checksums
_LONGEST: Final = 2**30  # one read of Linux stops at 2 GiB

_MOST_TAR_MEMBERS: Final = 100
_MOST_SHOWN: Final = 5
_TORCH_TAR: Final = frozenset({"sys_info", "pickle", "tensors", "storages"})
_ENDINGS: Final = (".pt", ".pth", ".tar", ".th", ".ckpt", ".bin", ".pkl", ".safetensors")

_KNOWN_KINDS: Final = {
    b"version https://git-lfs": "a Git-LFS pointer, not the file itself; run `git lfs pull` to fetch it",
    b"<!doctype html": "an HTML page, probably a download page; fetch the file itself",
    b"<html": "an HTML page, probably a download page; fetch the file itself",
    b"\x93numpy": "a NumPy array, not a PyTorch checkpoint",
    b"\x89hdf\r\n": "an HDF5 file, not a PyTorch checkpoint",
    b"\x1f\x8b": "compressed with gzip; decompress it first",
    b"bzh": "compressed with bzip2; decompress it first",
    b"\xfd7zxz": "compressed with xz; decompress it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard; decompress it first",
}


class Sliceable(Protocol):
    """Bytes in memory, or a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class SourceFile:
    """A regular file, followed through symbolic links, whose bytes are read when they are asked for: ``file[2:5]``.

    It stays open as long as the object lives, so what becomes of its name meanwhile does not matter. That its content
    stays what it was is told by its size and time of modification, at every reading.

    Args:
      path: the file.
      limits: its size must be within `limits.file_bytes`.

    Raises:
      CheckpointError: it cannot be read, is not a regular file or too large; any reading, that it changed meanwhile.
    """

    def __init__(self, path: str | PathLike[str], limits: Limits):
        self._path = path
        self._window = (0, b"")  # small readings are near each other
        try:
            self.descriptor = open_descriptor(path)
        except OSError as error:
            raise self._unreadable(error) from error
        close = weakref.finalize(self, os.close, self.descriptor)
        try:
            self._size, self._modified = self._inspect(limits)
        except CheckpointError:
            close()
            raise

    def __reduce__(self):
        raise TypeError("an open file cannot be copied or sent to another process; send its path")

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        first, window = self._window
        if not first <= start <= stop <= first + len(window):
            first, window = start, bytes(self.read(start, max(stop, min(start + _WINDOW, self._size))))
            if len(window) <= _WINDOW:
                self._window = first, window
        return window[start - first : stop - first]

    def read(self, start: int, stop: int) -> bytearray:
        """A copy of its own of the bytes from `start` to `stop`."""
        buffer = bytearray(stop - start)
        self.read_into(start, memoryview(buffer))
        return buffer

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from `start` on."""
        try:
            while buffer and (count := os.preadv(self.descriptor, [buffer[:_LONGEST]], start)):
                start, buffer = start + count, buffer[count:]
            state = os.fstat(self.descriptor)
        except OSError as error:
            raise self._unreadable(error) from error
        if buffer or (state.st_size, state.st_mtime_ns) != (self._size, self._modified):
            raise CheckpointError(self._path, _CHANGED)

    def digest(self, extents: Sequence[slice] = ()) -> tuple[str, list[int]]:
        """SHA-256 of the whole, in hexadecimal, and the CRC-32 of each of the extents, which lie one after another."""
        sha256, checksums, reached = hashlib.sha256(), [0] * len(extents), 0
        buffer = memoryview(bytearray(_PIECE))
        for start in range(0, self._size, _PIECE):
            piece = buffer[: self._size - start]
            self.read_into(start, piece)
            sha256.update(piece)
            while reached < len(extents) and (extent := extents[reached]).start < start + _PIECE:
                part = piece[max(extent.start - start, 0) : extent.stop - start]
                checksums[reached] = zlib.crc32(part, checksums[reached])
                if extent.stop > start + _PIECE:
                    break
                reached += 1
        return sha256.hexdigest(), checksums

    def _inspect(self, limits: Limits) -> tuple[int, int]:
        """Size and time of modification of an acceptable file."""
        try:
            state = os.fstat(self.descriptor)
            if state.st_size > limits.file_bytes:
                raise CheckpointError(
                    self._path, f"{state.st_size} bytes, more than {limits.file_bytes} (Limits.file_bytes)"
                )
            if os.pread(self.descriptor, 1, state.st_size):
                raise CheckpointError(self._path, _CHANGED)
        except OSError as error:
            raise self._unreadable(error) from error
        return state.st_size, state.st_mtime_ns

    def _unreadable(self, error: OSError) -> CheckpointError:
        advice = "; check the path" * isinstance(error, FileNotFoundError)
        return CheckpointError(self._path, f"cannot be read: {error.strerror or error}{advice}")


def read_file(path: str | PathLike[str], limits: Limits) -> bytes:
    """All bytes of a regular file.

    Raises:
      CheckpointError: as `SourceFile`.
    """
    return SourceFile(path, limits)[:]


def identify(data: Sliceable, path: str | PathLike[str]) -> Container | Literal["index"]:
    """The kind of container, or the index of several, by its first bytes.

    Raises:
      CheckpointError: none that is supported; the reason says what the file is and what to do.
    """
    head = bytes(data[: tarfile.BLOCKSIZE])
    if not head:
        raise CheckpointError(path, "the file is empty; the download or the save was interrupted")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"PK\x05\x06"):
        raise CheckpointError(path, "an empty zip archive, not a PyTorch checkpoint")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= len(data) - 8:
        return "safetensors"
    if _is_tar(head):
        raise CheckpointError(path, _advise_on_tar(data))
    text = head[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, kind in _KNOWN_KINDS.items():
        if text.startswith(start):
            raise CheckpointError(path, kind)
    if text.startswith(b"{"):
        return "index"
    if head.startswith(b"\x80"):
        return "legacy"
    raise CheckpointError(
        path,
        f"not a PyTorch checkpoint: it begins with {head[:8]!r}, not a known container: "
        "expected what torch.save, torch.jit.save or safetensors writes",
    )


def _is_tar(head: bytes) -> bool:
    """As torch decides, before it looks for anything older than zip: the checksum of the first header is right."""
    return _read_tar_header(head) is not None


def _read_tar_header(head: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None


def _advise_on_tar(data: Sliceable) -> str:
    """What a tar archive is, by the names of its first members."""
    names, position = [], 0
    for _ in range(_MOST_TAR_MEMBERS):
        member = _read_tar_header(data[position : position + tarfile.BLOCKSIZE])
        if member is None or member.size < 0:
            break
        names.append(member.name)
        position += tarfile.BLOCKSIZE * (1 + -(-member.size // tarfile.BLOCKSIZE))
    if held := find_checkpoints(names):
        return f"a tar archive that holds {held}; extract it and give that file"
    if _TORCH_TAR.isdisjoint(names):
        return "a tar archive, not a PyTorch checkpoint"
    return "a tar archive, as torch wrote before 0.1.10; load it in torch and save it again"


def find_checkpoints(names: Iterable[str]) -> str:
    """The first of an archive's members that are named as checkpoints, quoted; nothing if there is none."""
    return ", ".join([quote(name) for name in names if name.lower().endswith(_ENDINGS)][:_MOST_SHOWN])
