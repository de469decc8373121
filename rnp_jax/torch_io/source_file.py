"""Reading an untrusted file once, whole and bounded, and telling what kind of file it is."""

import os
import stat
import tarfile
from io import FileIO
from os import PathLike
from typing import Final, Literal

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits

Container = Literal["zip", "legacy", "safetensors"]
CONTAINERS: Final[tuple[Container, ...]] = ("zip", "legacy", "safetensors")

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


def read_file(path: str | PathLike[str], limits: Limits) -> bytes:
    """The bytes of a regular file, followed through symbolic links.

    Raises:
      CheckpointError: it cannot be read, is not a regular file, is above `limits.file_bytes` or changed meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not block
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise CheckpointError(
                    path, f"{_describe(before.st_mode)}, not a regular file; give the checkpoint file"
                )
            if before.st_size > limits.file_bytes:
                raise CheckpointError(
                    path, f"{before.st_size} bytes, more than {limits.file_bytes} (Limits.file_bytes)"
                )
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                data = _read_exactly(file, before.st_size)
                grown = bool(file.read(1))
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CheckpointError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if grown or len(data) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise CheckpointError(path, "the file changed while it was read; wait until it is complete and try again")
    return data


def identify(data: bytes, path: str | PathLike[str]) -> Container:
    """The kind of container, by its first bytes.

    Raises:
      CheckpointError: none that is supported; the reason says what the file is and what to do.
    """
    if not data:
        raise CheckpointError(path, "the file is empty; the download or the save was interrupted")
    if data.startswith(b"PK\x03\x04"):
        return "zip"
    if data.startswith(b"PK\x05\x06"):
        raise CheckpointError(path, "an empty zip archive, not a PyTorch checkpoint")
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return "safetensors"
    if _is_tar(data):
        raise CheckpointError(path, "a tar archive, as torch wrote before 0.1.10; load it in torch and save it again")
    head = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, kind in _KNOWN_KINDS.items():
        if head.startswith(start):
            raise CheckpointError(path, kind)
    if data.startswith(b"\x80"):
        return "legacy"
    raise CheckpointError(path, f"not a PyTorch checkpoint: it begins with {data[:8]!r}, which is no known container")


def _is_tar(data: bytes) -> bool:
    """As torch decides, before it looks for anything older than zip: the checksum of the first header is right."""
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _read_exactly(file: FileIO, size: int) -> bytes:
    """Up to `size` bytes: fewer only where the file ends. One read of Linux stops at 2 GiB."""
    data = file.read(size) or b""
    parts = [data]
    while data and (missing := size - sum(map(len, parts))):
        data = file.read(missing) or b""
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _describe(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
