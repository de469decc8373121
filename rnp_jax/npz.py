"""Archives of plain arrays (.npz) that nobody trusts, opened so that no more is read than was asked for."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.source_file import SourceFile
from rnp_jax.torch_io.zip_container import read_directory

READ_ERRORS: Final = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged, encrypted or unsupported archive raises, or an array that is not as expected."""

_MOST_MEMBERS: Final = 10_000
_DIRECTORY_BYTES: Final = 2**20
_SUFFIX: Final = ".npy"


@contextlib.contextmanager
def open_npz(path: Path, most: int | None = None) -> Iterator[zipfile.ZipFile]:
    """The archive, whose directory is checked before ``zipfile`` reads it, which takes seconds for a hostile one.

    Args:
      path: a regular file.
      most: bytes that it may have; without it, 8 GiB.

    Raises:
      ValueError: not such a file, too large, or its directory is damaged or hostile.
      OSError, zipfile.BadZipFile: it cannot be read.
    """
    limits = Limits(members=_MOST_MEMBERS) if most is None else Limits(members=_MOST_MEMBERS, file_bytes=most)
    try:
        source = SourceFile(path, limits)
        directory = read_directory(source, path, limits)
    except CheckpointError as error:
        raise ValueError(error.reason) from error
    if (size := directory.end - directory.start) > _DIRECTORY_BYTES:
        raise ValueError(f"a zip directory of {size} bytes, expected at most {_DIRECTORY_BYTES}")
    with os.fdopen(os.dup(source.descriptor), "rb") as file, zipfile.ZipFile(file) as archive:
        yield archive


def list_arrays(archive: zipfile.ZipFile) -> list[str]:
    """The names of its arrays."""
    return [name.removesuffix(_SUFFIX) for name in archive.namelist() if name.endswith(_SUFFIX)]


def open_array(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """The file of one array.

    Raises:
      KeyError: there is none.
      ValueError: it is compressed in another way than NumPy does.
      RuntimeError: it is encrypted.
    """
    if archive.getinfo(name + _SUFFIX).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name}{_SUFFIX} is neither stored nor deflated")
    return archive.open(name + _SUFFIX)
