"""Opening files that nobody trusts: regular ones of a bounded size, never a FIFO or a device that could block."""

import errno
import hashlib
import os
import stat
from os import PathLike
from typing import BinaryIO, Final

MIB: Final = 2**20


def open_descriptor(path: str | PathLike[str], most: int | None = None) -> int:
    """A descriptor that reads a regular file, which symbolic links may lead to.

    Args:
      path: the file.
      most: bytes that it may have; without it, any number.

    Raises:
      OSError: it cannot be opened, is not a regular file, or is larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    except ValueError as error:  # a NUL, or a letter that no file name can have
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            fault = f"{_describe(found.st_mode)}, not a regular file; give the file itself"
            raise OSError(errno.EINVAL, fault, os.fspath(path))
        if most is not None and found.st_size > most:
            raise _too_large(path, found.st_size, most)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | PathLike[str], most: int | None = None) -> BinaryIO:
    """A regular file, opened to be read.

    Raises:
      OSError: as ``open_descriptor``.
    """
    return open(open_descriptor(path, most), "rb")


def read_regular(path: str | PathLike[str], most: int) -> bytes:
    """All bytes of a regular file, which are at most ``most``, even if it grows meanwhile.

    Raises:
      OSError: as ``open_descriptor``, or it cannot be read.
    """
    with open_regular(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _too_large(path, len(content), most)
    return content


def digest_regular(path: str | PathLike[str], most: int | None = None) -> str:
    """SHA-256 of as many bytes as a regular file says it has: the kernel's say none, and may have no end.

    Raises:
      OSError: as ``open_descriptor``, or it cannot be read.
    """
    with open_regular(path, most) as file:
        digest, left = hashlib.sha256(), os.fstat(file.fileno()).st_size
        while left > 0 and (part := file.read(min(left, MIB))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()


def _too_large(path: str | PathLike[str], size: int, most: int) -> OSError:
    return OSError(errno.EFBIG, f"{size} bytes or more, expected at most {most}", os.fspath(path))


def _describe(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
